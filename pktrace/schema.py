"""The tables that pktrace writes, declared once: name, type and a sentence per column.

The types let the files open unchanged in polars, pandas, DuckDB and Spark: integers for time (ns since the epoch),
dictionary strings for names and addresses, no TIMESTAMP(NANOS), no float16. `docs/tables.md` and the field metadata in
Parquet are generated from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pktrace.visible import distinct, is_plain

SCHEMA_VERSION = 1
_AT_ONCE = 1 << 20

INT64 = pa.int64()
INT32 = pa.int32()
INT16 = pa.int16()
UINT64 = pa.uint64()
UINT32 = pa.uint32()
UINT16 = pa.uint16()
UINT8 = pa.uint8()
BOOL = pa.bool_()
FLOAT64 = pa.float64()
STRING = pa.string()
WORD = pa.dictionary(pa.int32(), pa.string())
WORDS = pa.list_(pa.string())

# Closed lists (docs/tables.md). The order is the numeric code inside the kernels: append only.
VERDICTS = ("crossed", "lost", "unobserved", "undetermined", "ambiguous")
FATES = ("delivered", "lost", "partial", "dropped", "absorbed", "injected", "undetermined", "ambiguous")
REASONS = (
    None,
    "late",
    "outside_window",
    "waiting_time",
    "capture_drops",
    "capture_cut",
    "clock_unknown",
    "filter_dropped",
    "part_lost",
    "against_path",
    "first_point_missing",
)
TREATMENTS = ("forward", "drop", "punt")
RULE_VERDICTS = ("hit", "false_punt", "false_forward", "missed_drop", "false_drop", "unseen", "undetermined")
BASES = ("packet_id", "exact", "order", "rewritten", "modified", "range", "signature")
RULE_STATUSES = ("verified", "violated", "not_exercised", "shadowed", "undetermined")


@dataclass(frozen=True)
class Column:
    """A column: its name, its Arrow type and its meaning."""

    name: str
    type: Any
    sentence: str


@dataclass(frozen=True)
class TableSpec:
    """A table: its name, the meaning of a row, its columns in order."""

    name: str
    row: str
    columns: tuple[Column, ...]

    def build(self, values: Mapping[str, Any]) -> pa.Table:
        """A table from arrays by column name.

        A value is an Arrow array, a NumPy array, a masked array (masked is null) or a list. Columns that are not
        declared, or missing, are an error (KeyError): the declaration is the contract.
        """
        undeclared = set(values) - {column.name for column in self.columns}
        if undeclared:
            raise KeyError(f"{self.name}: columns not declared: {sorted(undeclared)}")
        return pa.table(
            [as_arrow(values[column.name], column.type) for column in self.columns], schema=self.arrow_schema()
        )

    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema, with the sentence of each column in its field metadata."""
        return pa.schema(
            [pa.field(column.name, column.type, metadata={"description": column.sentence}) for column in self.columns]
        )

    def with_columns(self, extra: Sequence[Column]) -> TableSpec:
        """The same table with further columns at the end (one per point, for instance)."""
        return TableSpec(self.name, self.row, (*self.columns, *extra))


# `pyarrow.array` imports an installed pandas, to check for a series: the import takes longer than a whole small
# analysis. Therefore arrays are made from their buffers.
def as_arrow(values: Any, kind: Any) -> Any:
    """One Arrow array of the given type from an Arrow array, a NumPy array (masked entries are null) or a list."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values if values.type == kind else values.cast(kind)
    if kind == WORD:
        return _dictionary(values)
    if kind == STRING:
        return _strings(values)
    if not isinstance(values, np.ndarray):
        absent = np.array([value is None for value in values], bool)
        filled = [0 if value is None else value for value in values]
        values = np.ma.MaskedArray(np.array(filled, kind.to_pandas_dtype()), absent)
    mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    plain = np.ascontiguousarray(np.asarray(values), dtype=kind.to_pandas_dtype())
    data = np.packbits(plain, bitorder="little") if kind == BOOL else plain
    return pa.Array.from_buffers(kind, len(plain), [_validity(mask), _buffer(data)])


def _validity(mask: np.ndarray[Any, Any] | None) -> Any:
    """The validity bitmap of Arrow: a set bit is a value; None if all are values."""
    if mask is None or not mask.any():
        return None
    return _buffer(np.packbits(~mask, bitorder="little"))


def _buffer(values: Any) -> Any:
    return pa.py_buffer(values)


def _strings(values: Sequence[str | None]) -> Any:
    texts = ["" if value is None else value for value in values]
    if not is_plain("".join(texts)):
        texts = list(map(distinct, texts))
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int32)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    absent = np.array([value is None for value in values], bool)
    buffers = [_validity(absent), _buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(STRING, len(encoded), buffers)


def _dictionary(values: Sequence[str | None]) -> Any:
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    place = {value: number for number, value in enumerate(distinct)}
    return words(np.array([-1 if value is None else place[value] for value in values], np.int64), distinct)


def words(codes: np.ndarray[Any, Any], names: Sequence[str | None]) -> Any:
    """Dictionary strings from integer codes; a code of a None name, or a negative code, is null."""
    index = np.asarray(codes, dtype=np.int64)
    place = np.full(len(names) + 1, -1, np.int32)  # the last entry serves all negative codes
    place[[number for number, name in enumerate(names) if name is not None]] = np.arange(
        sum(name is not None for name in names)
    )
    mapped = place[np.maximum(index, -1)]
    return coded(mapped, mapped < 0, [name for name in names if name is not None])


def coded(indices: np.ndarray[Any, Any], null: np.ndarray[Any, Any], texts: Sequence[str]) -> Any:
    """Dictionary strings from int32 indices into `texts`, null for entries with `null` set."""
    array = as_arrow(np.ma.MaskedArray(np.where(null, 0, indices).astype(np.int32), null), INT32)
    return pa.DictionaryArray.from_arrays(array, _strings(texts))


def word_lists(count: int, owner: np.ndarray[Any, Any], codes: np.ndarray[Any, Any], names: Sequence[str]) -> Any:
    """A column of lists of strings: `owner` (in order) is the row of each entry, `codes` its number in `names`."""
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(np.bincount(owner, minlength=count), out=offsets[1:])
    # A string per entry, a million at a time: names padded to one width, then cut to the length of each.
    encoded = np.array([name.encode() for name in names] or [b" "])
    lengths = np.char.str_len(encoded).astype(np.int32)
    ends = np.zeros(len(codes) + 1, np.int32)
    np.cumsum(lengths[codes], out=ends[1:])
    data = np.empty(int(ends[-1]), np.uint8)
    width = np.arange(encoded.dtype.itemsize)
    for begin in range(0, len(codes), _AT_ONCE):
        some = codes[begin : begin + _AT_ONCE]
        letters = encoded[some].view(np.uint8).reshape(len(some), len(width))
        data[ends[begin] : ends[begin + len(some)]] = letters[width < lengths[some][:, None]]
    strings = pa.Array.from_buffers(STRING, len(codes), [None, _buffer(ends), _buffer(data)])
    return pa.ListArray.from_arrays(as_arrow(offsets, INT32), strings)


OBSERVATIONS = TableSpec(
    "observations",
    "a packet seen once at one point",
    (
        Column("point", WORD, "The detection point where the packet was seen."),
        Column("capture", WORD, "The capture file, relative to the run folder."),
        Column("frame", INT64, "Number of the packet in that file, from 1, as Wireshark counts."),
        Column("byte_offset", INT64, "Offset in the file of the packet's first captured byte."),
        Column(
            "ts_ns",
            INT64,
            "Time stamp of the capture, nanoseconds since the epoch, unchanged; null if the file has none.",
        ),
        Column("captured_length", UINT32, "Bytes of the frame that are in the file."),
        Column("length", UINT32, "Bytes of the frame on the wire."),
        Column("ip_version", UINT8, "4 or 6."),
        Column("protocol", UINT8, "IP protocol number, after IPv6 extension headers."),
        Column("source", WORD, "Source address."),
        Column("destination", WORD, "Destination address."),
        Column("sport", UINT16, "Source port (TCP, UDP, UDP-Lite, SCTP)."),
        Column("dport", UINT16, "Destination port (TCP, UDP, UDP-Lite, SCTP)."),
        Column("ip_id", UINT32, "IPv4 identification, or the identification of the IPv6 fragment header."),
        Column("ttl", UINT8, "IPv4 time to live or IPv6 hop limit."),
        Column("dscp", UINT8, "Differentiated services code point."),
        Column("fragment_offset", UINT16, "Offset of this fragment in bytes."),
        Column("more_fragments", BOOL, "More fragments follow."),
        Column("tcp_seq", UINT32, "TCP sequence number, as on the wire."),
        Column("tcp_ack", UINT32, "TCP acknowledgment number, as on the wire."),
        Column("tcp_flags", UINT16, "TCP flags, the 12 bits after the data offset."),
        Column("icmp_type", UINT8, "ICMP or ICMPv6 type."),
        Column("icmp_code", UINT8, "ICMP or ICMPv6 code."),
        Column("icmp_id", UINT16, "Identifier of an ICMP query: echo, timestamp, information, mask."),
        Column("icmp_seq", UINT16, "Sequence number of an ICMP query."),
        Column("payload_length", UINT32, "Bytes above the transport header, by the lengths in the IP header."),
        Column("vlan", UINT16, "Outermost VLAN id."),
        Column("tunnel", WORD, "Tunnel headers around the packet, outermost first (docs/decoding.md)."),
        Column("digest", UINT64, "Hash of the bytes that stay the same along the path (RFC 5475 hash domain)."),
        Column("trajectory", INT64, "The trajectory that owns this observation; null without one."),
    ),
)

DETAILS = (
    Column("tcp_mss", UINT16, "TCP option: maximum segment size."),
    Column("tcp_window_scale", UINT8, "TCP option: shift of the window."),
    Column("tcp_sack_permitted", BOOL, "The TCP header offers selective acknowledgments."),
    Column("tcp_sack_left", UINT32, "Left edge of the first SACK block."),
    Column("tcp_sack_right", UINT32, "Right edge of the first SACK block."),
    Column("tcp_tsval", UINT32, "TCP option: timestamp value."),
    Column("tcp_tsecr", UINT32, "TCP option: timestamp echo reply."),
    Column("spi", UINT32, "Security parameters index of ESP or AH."),
    Column("sequence", UINT32, "Sequence number of ESP or AH."),
    Column("sctp_tag", UINT32, "SCTP verification tag."),
    Column("quoted_source", WORD, "Source of the packet that an ICMP error quotes."),
    Column("quoted_destination", WORD, "Destination of the packet that an ICMP error quotes."),
    Column("quoted_protocol", UINT8, "Protocol (next header) of the quoted packet."),
    Column("quoted_ip_id", UINT16, "IPv4 identification of the quoted packet."),
    Column("quoted_sport", UINT16, "Source port of the quoted packet."),
    Column("quoted_dport", UINT16, "Destination port of the quoted packet."),
    Column("igmp_type", UINT8, "IGMP type."),
    Column("igmp_group", WORD, "IGMP group address."),
    Column("interface_id", INT32, "Interface of the file, from 0 through all its sections."),
    Column("interface_index", UINT32, "The host's number of the interface (SLL2, modified pcap)."),
    Column("direction", WORD, "in or out, if the file gives it."),
    Column("packet_id", UINT64, "epb_packetid."),
    Column("queue", UINT32, "epb_queue."),
    Column("verdict_type", UINT8, "epb_verdict: 0 hardware, 1 Linux eBPF TC, 2 Linux eBPF XDP."),
    Column("verdict", UINT64, "epb_verdict: the value, up to its first 8 bytes."),
)

TRAJECTORIES = TableSpec(
    "trajectories",
    "a packet followed along its path",
    (
        Column("trajectory", INT64, "Number of the trajectory, from 0 in order of first sighting."),
        Column("path", WORD, "The path that it belongs to."),
        Column("first_ns", INT64, "Time stamp of the first sighting."),
        Column("source", WORD, "Source address where first seen."),
        Column("destination", WORD, "Destination address where first seen."),
        Column("protocol", UINT8, "IP protocol number."),
        Column("sport", UINT16, "Source port where first seen."),
        Column("dport", UINT16, "Destination port where first seen."),
        Column("ip_id", UINT32, "IP identification where first seen."),
        Column("length", UINT32, "Bytes of the frame where first seen."),
        Column("fate", WORD, "The result for the packet as a whole: " + ", ".join(FATES) + "."),
        Column("reason", WORD, "The reason of the fate, if it needs one."),
        Column("lost_stage", INT16, "Number of the stage in which it was lost; null for every other fate."),
        Column("last_point", WORD, "The last point of the path where it was seen."),
        Column("rule", WORD, "The rule that its headers hit; null if they hit none."),
        Column("expected_action", WORD, "The action of the filter by the rules: forward, drop or punt."),
        Column("observed_action", WORD, "The action of the filter that the captures show; null if they show none."),
        Column(
            "rule_verdict", WORD, "The conclusion about its treatment by the filter: " + ", ".join(RULE_VERDICTS) + "."
        ),
        Column("basis", WORD, "The evidence that matched its sightings: " + ", ".join(BASES) + "."),
        Column("transforms", WORDS, "Changes of the packet on its way, in order of stages (kinds of change, below)."),
        Column("candidates", INT32, "Packets that cannot be distinguished within the loss threshold; 1 is certain."),
        Column("sightings", INT32, "Observations that it owns, duplicates included."),
        Column(
            "duplicates",
            INT32,
            "Extra sightings: the most that any one point had beyond its visits (RFC 5560: arrivals minus 1). "
            "Duplicates agree in all bytes that the digest covers (docs/architecture.md); a retransmission is a "
            "packet of its own. The counters `copies_` of the ledger separate duplicates of the network from copies "
            "of the capture.",
        ),
    ),
)

STAGES = TableSpec(
    "stages",
    "a packet at one stage of its path",
    (
        Column("trajectory", INT64, "Number of the trajectory."),
        Column("path", WORD, "The path."),
        Column("stage", INT16, "Number of the stage on the path, from 0; a skipped detour is the last number."),
        Column("stage_name", WORD, "Name of the stage."),
        Column("from_point", WORD, "The point where the stage begins."),
        Column("to_point", WORD, "The point where it ends."),
        Column("verdict", WORD, "The conclusion: " + ", ".join(VERDICTS) + "."),
        Column("reason", WORD, "The reason of the verdict."),
        Column(
            "latency_ns",
            INT64,
            "Time between the first sightings at both points, for a split packet the sightings of its first byte; "
            "null unless both points share a clock and saw it.",
        ),
        Column("error_ns", INT64, "Bound of the error of that time: the sum of both resolutions on one clock."),
        Column(
            "last_byte_ns",
            INT64,
            "Time between the sightings that completed the packet at both ends. `latency_ns` is the time of its "
            "first byte, which differs if the packet was split or merged. Null if some of its bytes were not seen.",
        ),
    ),
)

LATENCY = TableSpec(
    "latency",
    "a stage of a path, or a whole path",
    (
        Column("path", WORD, "The path."),
        Column("stage", INT16, "Number of the stage; null for end to end."),
        Column("stage_name", WORD, "Name of the stage."),
        Column("from_point", WORD, "The point where it begins."),
        Column("to_point", WORD, "The point where it ends."),
        Column("count", INT64, "Packets that crossed it with a known latency."),
        Column("lost", INT64, "Packets that were lost in it."),
        Column("min_ns", INT64, "Smallest latency."),
        Column("mean_ns", INT64, "Mean of the latencies, rounded."),
        Column("stddev_ns", INT64, "Standard deviation of the sample (n - 1), rounded; null below 2 packets."),
        Column("median_ns", INT64, "Median: an observed value, lost packets count as infinite (RFC 2330 11.3)."),
        Column("p90_ns", INT64, "90th percentile, same rule; null if it falls on a lost packet."),
        Column("p99_ns", INT64, "99th percentile, same rule."),
        Column("p999_ns", INT64, "99.9th percentile, same rule."),
        Column("max_ns", INT64, "Largest latency."),
        Column("share", FLOAT64, "Mean of the stage over the sum of the stage means of the path."),
        Column("error_ns", INT64, "Bound of the clock error of each latency."),
        Column(
            "divided",
            INT64,
            "Packets that crossed, but had no frame of their own at an end of the stage.",
        ),
        Column("last_byte_mean_ns", INT64, "Mean of `last_byte_ns` of the stages; the columns above use first bytes."),
        Column("last_byte_max_ns", INT64, "Largest `last_byte_ns`."),
        Column(
            "by_order",
            INT64,
            "Packets in `count` that only their order distinguishes from equal ones: their mean is exact, their "
            "percentiles are not.",
        ),
    ),
)

RULES = TableSpec(
    "rules",
    "a rule on a path; the row without rule is the path's default",
    (
        Column("path", WORD, "The path."),
        Column("rule", WORD, "The rule; null for packets that hit no rule."),
        Column("action", WORD, "The action of the rule: forward, drop or punt."),
        Column("matched", INT64, "Packets at the filter's input that hit it first."),
        Column("hit", INT64, "Packets that the filter treated as the rule says."),
        Column("false_punt", INT64, "Punted though the rule says otherwise."),
        Column("false_forward", INT64, "Forwarded though the rule says punt."),
        Column("missed_drop", INT64, "Let through though the rule says drop."),
        Column("false_drop", INT64, "Dropped by the filter according to a witness, though the rule says otherwise."),
        Column("unseen", INT64, "Vanished at the filter without a witness."),
        Column("undetermined", INT64, "Packets whose treatment is unknown (capture drops, edges)."),
        Column("counter", WORD, "The data plane's own counter."),
        Column("counter_packets", INT64, "Packets that this counter counted during the run; null if unknown."),
        Column("status", WORD, "Conclusion: " + ", ".join(RULE_STATUSES) + "."),
    ),
)

LEDGER = TableSpec(
    "ledger",
    "something that was counted and not used",
    (
        Column("counter", WORD, "Name of the counter."),
        Column("point", WORD, "The point; null for the whole run."),
        Column("capture", WORD, "The capture file; null for the whole point."),
        Column("severity", WORD, "info, data_loss or error."),
        Column("count", INT64, "The count."),
        Column("sentence", WORD, "Meaning of the counter."),
    ),
)

RANGES = TableSpec(
    "ranges",
    "bytes of a split or merged packet that one observation holds",
    (
        Column("trajectory", INT64, "The packet."),
        Column("point", WORD, "The point that saw it."),
        Column("frame", INT64, "Number of the frame in its capture file."),
        Column(
            "first_byte",
            INT64,
            "First byte that the frame holds, counted from 0 in the payload; for fragments counted in the "
            "datagram's payload.",
        ),
        Column("last_byte", INT64, "Last byte that the frame holds."),
    ),
)

TRANSFORMS = TableSpec(
    "transforms",
    "a kind of change at a stage of a path, with a pair of values before and behind",
    (
        Column("path", WORD, "The path."),
        Column("stage", INT16, "The stage of the change; null if a point between missed the packet."),
        Column("kind", WORD, "The kind of change, as in `transforms` of the trajectories."),
        Column(
            "from",
            WORD,
            "Value before; null if there was none, if the kind has no values, or if there are too many different "
            "ones to list.",
        ),
        Column("to", WORD, "Value behind; null as for `from`."),
        Column("packets", INT64, "Packets with this change."),
    ),
)

TABLES = (OBSERVATIONS, TRAJECTORIES, STAGES, LATENCY, RULES, RANGES, TRANSFORMS, LEDGER)
