"""Writes docs/tables.md from the declared tables: `python -m pktrace.report.tables_page docs/tables.md`.

The page is generated, so that it agrees with the files; a test compares the committed page with this.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pktrace import schema
from pktrace.ledger import DECLARED
from pktrace.trajectories.outcome.changes import KINDS, MOST_PAIRS

# The meanings of the words in the closed lists, as the columns use them.
_FATES = {
    "delivered": "seen at the last point of its path, and at the first one, unless the first one may have missed it",
    "lost": "lost in the stage that `lost_stage` names",
    "partial": "part of its bytes arrived; the rest of the split packet was lost",
    "dropped": "its rule says drop, and no point after the filter saw it",
    "absorbed": "its rule lets the service answer or swallow it, and it did not come out",
    "injected": "first seen after the service, though the points before were capturing",
    "undetermined": "the captures cannot show its fate; `reason` says why",
    "ambiguous": (
        "it ends where other packets begin, and may have become one of them; or it may be a copy of a packet that "
        "the first point saw with the same bytes and that came further. Nothing shows which is true"
    ),
}
_VERDICTS = {
    "crossed": "seen at both ends of the stage",
    "lost": "seen where the stage begins, and never behind it, although the captures there would have seen it",
    "unobserved": "seen later on the path, so that a capture missed it here",
    "undetermined": "not seen after it, but the captures cannot prove that it did not pass",
    "ambiguous": "not seen after it with the same bytes, but it may be a packet seen there, rewritten, or its copy",
}
_REASONS = {
    "late": "it came, but later than the loss threshold",
    "outside_window": "a point that could have seen it was not certainly capturing at that time",
    "waiting_time": "the next point's capture ended before the waiting time was over",
    "capture_drops": "a capture that could have seen it dropped packets",
    "capture_cut": "a capture that could have seen it is damaged and ends before",
    "clock_unknown": "the clocks of the points cannot be compared",
    "against_path": "the packet passed its path in the opposite direction",
    "first_point_missing": "the first point of the path was capturing, and did not see it",
    "filter_dropped": "the filter's own counters account for it",
    "part_lost": "some of its bytes did not cross the stage (split packets)",
}
_TREATMENTS = {
    "forward": "let through past the service",
    "drop": "discarded by the filter",
    "punt": "sent through the detour, to the service",
}
_RULE_VERDICTS = {
    "hit": "treated as its rule says",
    "false_punt": "punted, though its rule says otherwise",
    "false_forward": "forwarded, though its rule says punt",
    "missed_drop": "let through, though its rule says drop",
    "false_drop": "dropped by the filter according to a witness, though its rule says otherwise",
    "unseen": "vanished behind the filter's input, and no witness says where",
    "undetermined": "the captures cannot show the action of the filter",
}
_BASES = {
    "packet_id": "the capture gave it one number at every point (epb_packetid), within a file or a `session`",
    "exact": "the same digest at every point, once per visit: certain",
    "order": "equal packets, matched by order and delay; the number of lost ones is certain, not which ones",
    "rewritten": "headers were rewritten on the way (NAT); matched by the invariant fields, flow by flow",
    "modified": "payload was changed on the way; matched by addresses, ports, IP ID and transport numbers",
    "range": "split or merged on the way (offload, fragments); matched by the bytes that each frame holds",
    "signature": "only the mark of a test generator (TRex) at the end of the payload distinguishes it from others",
}
_CHANGES = {
    "ttl-1": "TTL or hop limit, with the step: `ttl-2`, `ttl+1`, and so on",
    "dscp": "differentiated services code point",
    "ecn": "ECN: Not-ECT, ECT(0), ECT(1), CE (RFC 3168); apart from `dscp`",
    "nat-source": "source address",
    "nat-destination": "destination address",
    "nat-source-port": "source port",
    "nat-destination-port": "destination port",
    "icmp-id": "identifier of an ICMP query; no values",
    "ip-id": "IP identification; no values",
    "mac-source": "source MAC address of the frame, if both captures have it (Ethernet, Linux cooked)",
    "mac-destination": "destination MAC address of the frame (Ethernet)",
    "vlan-push": "the frame got a VLAN tag; the tag is in `to`",
    "vlan-pop": "the frame lost its VLAN tag; the tag was `from`",
    "vlan-change": "another outermost VLAN tag",
    "vxlan-push": "put into a tunnel, by its kind: `gre-push`, `geneve-push`, and so on; `to` is the tunnel",
    "vxlan-pop": "taken out of a tunnel, by its kind; `from` is the tunnel",
    "tunnel-change": "from one tunnel into another",
    "checksum-completion": "the transport checksum was left to the interface before, and is complete behind",
    "checksum-removal": "the transport checksum is complete before, and left to the interface behind",
    "payload": "length or first bytes of the payload; no values",
    "tcp-mss": "value of the MSS option (MSS clamping)",
    "tcp-options": "TCP options other than the value of the MSS; no values",
    "tcp-window": "TCP window; no values",
    "tcp-flags": "TCP flags; no values",
    "tcp-sequence": "TCP sequence number; no values",
    "tcp-acknowledgment": "TCP acknowledgment number; no values",
    "split": "a frame behind holds only a part of a frame before (segmentation offload); no values",
    "merge": "a frame behind holds more than one frame before (receive offload); no values",
    "fragmentation": "split into IP fragments; no values",
    "reassembly": "merged from IP fragments; no values",
}
_CHANGES_TEXT = f"""
### kinds of change

In `trajectories.transforms` (in order of stages) and `transforms.kind`. Neighbouring sightings are compared; if a
point between them missed the packet, the stage of the change is unknown. IP ID, payload, flags, numbers and options are
not compared if the packet is split or merged at either end, since its parts have their own. A kind that has more than
{MOST_PAIRS:,} different pairs of values at a stage is one row without values.

"""
_STATUSES = {
    "verified": "every packet was treated rightly, and the counter, if there is one, agrees",
    "violated": "at least one packet was certainly treated wrongly",
    "not_exercised": "no packet hit it",
    "shadowed": "no packet hit it, because an earlier rule takes all of its packets",
    "undetermined": "some packets vanished or could not be judged, or the counter differs",
}
_LISTS: tuple[tuple[str, str, Sequence[str | None], Mapping[str, str]], ...] = (
    ("fate", "`trajectories.fate`", schema.FATES, _FATES),
    ("verdict", "`stages.verdict`", schema.VERDICTS, _VERDICTS),
    ("reason", "`trajectories.reason`, `stages.reason`", schema.REASONS, _REASONS),
    ("action", "`expected_action`, `observed_action`, `rules.action`", schema.TREATMENTS, _TREATMENTS),
    ("rule verdict", "`trajectories.rule_verdict`, columns of `rules`", schema.RULE_VERDICTS, _RULE_VERDICTS),
    ("basis", "`trajectories.basis`", schema.BASES, _BASES),
    ("status", "`rules.status`", schema.RULE_STATUSES, _STATUSES),
)
_HEAD = """# The tables

<!-- Generated by `make docs` from pktrace/schema.py and pktrace/ledger.py; changes by hand are overwritten. -->

`pktrace analyze RUN` writes these as Parquet files (zstd) into `RUN/results/`; `pktrace observe` writes the
first of them alone. They open unchanged in polars, pandas, DuckDB and Spark.

* Times are int64 nanoseconds since the epoch, their columns end in `_ns`. Times of points are raw: as captured,
  on the clock of that point.
* Null means that there is no such value. It never means zero.
* Rows are in a total order, and the same input gives the same bytes.
* Each column carries its sentence as field metadata (`description`). Each file carries
  `pktrace.schema_version`, `pktrace.version`, `pktrace.run`, `pktrace.digest_payload_bytes` and the SHA-256 of
  every file that was read: `run.toml`, captures, their logs, `context/` (`pktrace.input.sha256:<file>`).
"""
_TIMES = """
After these follows one column `<point>_ns` (int64) per point of the run: the time stamp of the packet's
first sighting there. For a split packet it is the first sighting of any of its bytes. It is null if the point
did not see the packet. If a path visits a point twice, `<point>_2_ns` is the second visit.
"""


def tables_page() -> str:
    """The whole page as Markdown.

    Raises:
        KeyError: a word of a closed list, or a kind of change, has no meaning here.
    """
    for kind in KINDS:
        _ = _CHANGES[kind.name]
    parts = [_HEAD]
    for table in schema.TABLES:
        parts.append(f"\n## {table.name}.parquet\n\nOne row: {table.row}.\n\n")
        columns = [(f"`{column.name}`", _type_name(column.type), column.sentence) for column in table.columns]
        parts.append(_markdown(("column", "type", "meaning"), columns))
        if table is schema.TRAJECTORIES:
            parts.append(_TIMES)
    parts.append("\n## Closed lists\n\nThese columns hold one of these words, or null, and nothing else.\n")
    for name, where, words, meanings in _LISTS:
        parts.append(f"\n### {name}\n\nIn {where}.\n\n")
        rows = [(f"`{word}`", meanings[word]) for word in words if word is not None]
        parts.append(_markdown(("word", "meaning"), rows))
    parts.append(_CHANGES_TEXT)
    parts.append(_markdown(("word", "change"), [(f"`{kind}`", text) for kind, text in _CHANGES.items()]))
    parts.append(
        "\n### ledger counters\n\nIn `ledger.counter`. Everything that an analysis does not use is counted.\n\n"
    )
    counters = [(f"`{counter.name}`", counter.severity, counter.sentence) for counter in DECLARED.values()]
    parts.append(_markdown(("counter", "severity", "meaning"), counters))
    return "".join(parts)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _type_name(kind: Any) -> str:
    if kind == schema.WORD:
        return "string (dictionary)"
    if kind == schema.WORDS:
        return "list of strings"
    return str(kind)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        Path(sys.argv[1]).write_text(tables_page(), encoding="utf-8")
    else:
        sys.stdout.write(tables_page())
