"""Bugs that were found, each with a name: wrong conclusions from captures that are odd, partial or contradictory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from pktrace.analysis.analysis import Analysis, analyze_run
from pktrace.analysis.criteria import exit_code
from pktrace.analysis.tables import stages_table
from pktrace.run.runfile import load_run
from pktrace.schema import FATES, REASONS
from tests.kit.packets import Header, frame
from tests.kit.pcap_files import Interface, Record, Section, Statistics, pcapng_bytes

START = 1_795_410_000 * 10**9
MS, S = 10**6, 10**9
END = START + 10 * S
CHAIN = ("up", "sw", "punt", "ret", "vnic")
DELAYS = (0, 5_000, 10_000, 150_000, 155_000)
AB: Sequence[Mapping[str, Any]] = ({"name": "p", "points": ["a", "b"]},)
PUNTED: Sequence[Mapping[str, Any]] = (
    {"name": "p", "points": list(CHAIN), "detour": ["punt", "ret"], "default": "punt"},
)


def udp(number: int, payload: bytes | None = None, dport: int = 2000, ip_id: int | None = None) -> bytes:
    text = b"PK%08d" % number if payload is None else payload
    identity = number % 65535 + 1 if ip_id is None else ip_id
    return frame(Header("10.0.0.1", "10.0.0.2", 17, text, sport=1000, dport=dport, ip_id=identity))


def file_of(
    records: Sequence[Record], start: int = START - S, end: int = END, simple: bool = False, **of: Any
) -> bytes:
    statistics = [Statistics(ts_ns=end, start_ns=start, end_ns=end, received=len(records), dropped=0)]
    return pcapng_bytes(Section([Interface(name="i", **of)], list(records), statistics, simple=simple))


def sent(count: int = 100, delay: int = 0) -> list[Record]:
    return [Record(START + number * MS + delay, udp(number)) for number in range(count)]


def analyzed(
    folder: Path,
    files: Mapping[str, bytes | list[bytes]],
    paths: Sequence[Mapping[str, Any]] = AB,
    more: Mapping[str, Mapping[str, Any]] | None = None,
    **top: Any,
) -> Analysis:
    points = []
    for name, content in files.items():
        parts = [content] if isinstance(content, bytes) else content
        names = [f"{name}{number}.pcapng" for number in range(len(parts))]
        for part, data in zip(names, parts, strict=True):
            (folder / part).write_bytes(data)
        points.append({"name": name, "captures": names, **(more or {}).get(name, {})})
    (folder / "run.toml").write_text(
        tomli_w.dumps({"schema": 1, "name": "case", "point": points, "path": list(paths), **top})
    )
    return analyze_run(load_run(folder))


def fates(analysis: Analysis) -> dict[tuple[str, str | None], int]:
    pairs = zip(analysis.verdicts.fate.tolist(), analysis.verdicts.reason.tolist(), strict=True)
    found: dict[tuple[str, str | None], int] = {}
    for fate, reason in pairs:
        found[FATES[fate], REASONS[reason]] = found.get((FATES[fate], REASONS[reason]), 0) + 1
    return found


def test_packets_that_cannot_be_decoded_prove_no_loss(tmp_path: Path) -> None:
    """An unknown link type, headers cut by the snap length and missing times once made every packet lost."""
    odd = (
        file_of(sent(delay=50_000), linktype=147),
        file_of(sent(delay=50_000), snaplen=30),
        file_of(sent(delay=50_000), simple=True),
    )
    for number, content in enumerate(odd):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert fates(analyzed(folder, {"a": file_of(sent()), "b": content})) == {("undetermined", "capture_drops"): 100}


def test_a_direction_that_the_file_does_not_tell(tmp_path: Path) -> None:
    files = {"a": file_of(sent()), "b": file_of(sent(delay=50_000))}
    analysis = analyzed(tmp_path, files, more={"b": {"direction": "in"}})
    assert fates(analysis) == {("undetermined", "capture_drops"): 100}
    assert analysis.ledger.total("no_direction") == 100


def test_a_hole_between_two_files_of_a_point(tmp_path: Path) -> None:
    late = sent(delay=50_000)
    parts = [file_of(late[:20], START, START + 20 * MS), file_of(late[60:], START + 60 * MS)]
    analysis = analyzed(tmp_path, {"a": file_of(sent()), "b": parts})
    assert fates(analysis) == {("delivered", None): 60, ("undetermined", "capture_drops"): 40}


def test_packets_dropped_by_the_interface(tmp_path: Path) -> None:
    (tmp_path / "b0.log").write_text(
        "99 packets captured\n99 packets received by filter\n5 packets dropped by interface\n"
    )
    missing = [record for number, record in enumerate(sent(delay=50_000)) if number != 50]
    analysis = analyzed(tmp_path, {"a": file_of(sent()), "b": file_of(missing)})
    assert fates(analysis) == {("delivered", None): 99, ("undetermined", "capture_drops"): 1}


def test_the_same_bytes_seen_in_the_wrong_order_are_two_packets(tmp_path: Path) -> None:
    """Five seconds before its cause: once one delivered packet with a latency of -5 s."""
    first = [*sent(), Record(START + 6 * S, udp(7777))]
    second = [Record(START + S, udp(7777)), *sent(delay=50_000)]
    assert fates(analyzed(tmp_path, {"a": file_of(first), "b": file_of(second)})) == {
        ("delivered", None): 100,
        ("undetermined", "first_point_missing"): 1,
        ("lost", None): 1,
    }


def test_one_packet_cut_short_does_not_weaken_the_digest_of_others(tmp_path: Path) -> None:
    """A single cut record once took the payload out of all digests, and packets that differ only there matched."""
    others = [frame(Header("fd00::1", "fd00::2", 17, b"PK%08d" % n, sport=1, dport=2)) for n in range(50)]
    cut = Record(START + S, udp(3)[:34], length=len(udp(3)))
    here = [Record(START + n * MS, data) for n, data in enumerate(others)]
    there = [Record(START + n * MS + 200_000, data) for n, data in enumerate(others) if n != 25]
    analysis = analyzed(tmp_path, {"a": file_of([*here, cut]), "b": file_of(there)})
    assert (analysis.trajectories.candidates == 1).all()
    lost = np.flatnonzero(analysis.verdicts.packets_with("lost"))
    assert [int(analysis.trajectories.first_rows["frame"][n]) for n in lost][:1] == [26]


def test_clocks_without_a_common_packet_are_not_compared(tmp_path: Path) -> None:
    """An unknown offset was taken for none: packets seen at the last point counted as lost, late."""
    far = {
        name: file_of([Record(r.ts_ns + shift, r.data) for r in sent(30)]) for name, shift in (("b", S), ("c", 2 * S))
    }
    nothing = file_of([Record(START + n * MS, udp(n + 5000)) for n in range(30)])
    path = [{"name": "p", "points": ["a", "b", "c"]}]
    clocks = {name: {"clock": name} for name in "abc"}
    analysis = analyzed(tmp_path, {"a": nothing, **far}, path, clocks)
    assert fates(analysis) == {("delivered", None): 30, ("undetermined", "clock_unknown"): 30}


def test_points_that_share_no_clock_though_run_toml_says_so(tmp_path: Path) -> None:
    """Packets that came to b before a, by its clock, were told apart: each was lost once and appeared once."""
    early = [Record(record.ts_ns - 40 * MS, record.data) for record in sent(30, 10_000) if record.data != udp(7)]
    back = [udp(n, dport=1000) for n in range(500, 530)]
    there = [Record(START + n * MS - 40 * MS, data) for n, data in enumerate(back)]
    here = [Record(START + n * MS + 10_000, data) for n, data in enumerate(back)]
    paths = [{"name": "p", "points": ["a", "b"], "match": {"dport": [2000]}}, {"name": "q", "points": ["b", "a"]}]
    files = {"a": [*sent(30), *here], "b": [*early, *there]}
    analysis = analyzed(tmp_path, {name: file_of(sorted(f, key=lambda r: r.ts_ns)) for name, f in files.items()}, paths)
    assert fates(analysis) == {("delivered", None): 59, ("lost", None): 1}
    assert analysis.ledger.total("clock_contradicted") == 29
    assert not any(len(latency.values) for latency in analysis.latencies)


def test_one_path_for_both_directions_loses_nothing(tmp_path: Path) -> None:
    """On a path without `match`, packets that came the other way were taken for one lost and one injected each."""
    back = [udp(n, dport=1000) for n in range(500, 530)]
    here = [*sent(30), *(Record(START + n * MS + 10 * MS, data) for n, data in enumerate(back))]
    there = [*sent(30, 10 * MS), *(Record(START + n * MS, data) for n, data in enumerate(back))]
    files = {"a": file_of(sorted(here, key=lambda r: r.ts_ns)), "b": file_of(sorted(there, key=lambda r: r.ts_ns))}
    analysis = analyzed(tmp_path, files)
    assert fates(analysis) == {("delivered", None): 60}
    assert (analysis.trajectories.sightings == 2).all()
    assert analysis.ledger.total("against_path") == 30
    assert [latency.values.tolist() for latency in analysis.latencies] == [[10 * MS] * 30] * 2
    table = stages_table(analysis)
    assert table["latency_ns"].null_count == 30


def test_a_stamp_that_is_taken_late_makes_no_loss(tmp_path: Path) -> None:
    """One packet of five got a stamp 5 ms late at the first point: it was lost once, and appeared once."""
    files = {
        name: file_of([Record(r.ts_ns + delay + late * (number == 2), r.data) for number, r in enumerate(sent(5))])
        for name, delay, late in (("a", 0, 5 * MS), ("b", 100_000, 0), ("c", 200_000, 0))
    }
    analysis = analyzed(tmp_path, files, [{"name": "p", "points": ["a", "b", "c"]}])
    assert fates(analysis) == {("delivered", None): 5}
    assert analysis.ledger.total("against_path") == 1


def test_what_came_the_other_way_in_part_is_not_judged(tmp_path: Path) -> None:
    """Seen at c and then at b of a path a, b, c: it may be lost on the way to a, which no stage of the path is."""
    there = [Record(START + n * MS, udp(n)) for n in range(30)]
    files = {"a": file_of([]), "b": file_of([Record(r.ts_ns + 10 * MS, r.data) for r in there]), "c": file_of(there)}
    analysis = analyzed(tmp_path, files, [{"name": "p", "points": ["a", "b", "c"]}])
    assert analysis.ledger.total("clock_contradicted") == 30  # nothing goes the way of the path
    forth = [Record(START + n * MS, udp(n + 100)) for n in range(30)]
    files = {
        name: file_of(sorted([*records, *(Record(r.ts_ns + delay, r.data) for r in forth)], key=lambda r: r.ts_ns))
        for name, delay, records in (
            ("a", 0, []), ("b", 10 * MS, [Record(r.ts_ns + 10 * MS, r.data) for r in there]), ("c", 20 * MS, there)
        )
    }  # fmt: skip
    again = tmp_path / "again"
    again.mkdir()
    analysis = analyzed(again, files, [{"name": "p", "points": ["a", "b", "c"]}])
    assert fates(analysis) == {("delivered", None): 30, ("undetermined", "against_path"): 30}


def chain(extra: Mapping[str, Sequence[Record]]) -> dict[str, bytes]:
    return {name: file_of([*sent(30, delay), *extra.get(name, ())]) for name, delay in zip(CHAIN, DELAYS, strict=True)}


def test_a_copy_of_a_late_packet_does_not_tear_it_apart(tmp_path: Path) -> None:
    at, data = START + S, udp(900)
    came = at + 80 * MS
    extra = {
        "up": [Record(at, data)],
        "sw": [Record(at + 5_000, data)],
        "punt": [Record(at + 10_000, data), Record(at + 12_000, data)],
        "ret": [Record(came, data)],
        "vnic": [Record(came + 5_000, data)],
    }
    analysis = analyzed(tmp_path, chain(extra), PUNTED, loss={"threshold": "50ms"})
    assert fates(analysis) == {("delivered", None): 30, ("lost", "late"): 1}


def test_a_counted_copy_accuses_nobody(tmp_path: Path) -> None:
    """A drop counter that counts a copy once made another packet, lost behind the filter, a false drop."""
    at, dropped, other = START + S, udp(901, dport=6666), udp(902)
    extra = {
        "up": [Record(at, dropped), Record(at + MS, other)],
        "sw": [Record(at + 5_000, dropped), Record(at + 6_000, dropped), Record(at + MS + 5_000, other)],
    }
    (tmp_path / "context").mkdir()
    (tmp_path / "context/counters-after.json").write_text(json.dumps({"c": 2}))
    rule = {"id": "drop", "path": "p", "dport": 6666, "action": "drop", "counter": "c"}
    analysis = analyzed(tmp_path, chain(extra), PUNTED, rule=[rule])
    assert [tally.counts["false_drop"] for tally in analysis.rule_tallies] == [0, 0]
    assert [tally.status for tally in analysis.rule_tallies] == ["verified", "undetermined"]


def test_captures_that_start_one_after_another_show_no_violation(tmp_path: Path) -> None:
    """Packets that passed punt before its neighbours were capturing once looked as if they had been forwarded."""
    begin = START - 20 * 50_000

    def seen(delay: int, start: int) -> bytes:
        times = ((begin + n * 50_000 + delay, n) for n in range(5000))
        return file_of([Record(at, udp(n)) for at, n in times if at >= start], start)

    starts = (START + 100 * MS, START + 100 * MS, START, START + 20 * MS, START)
    files = {name: seen(delay, start) for name, delay, start in zip(CHAIN, DELAYS, starts, strict=True)}
    (tally,) = analyzed(tmp_path, files, PUNTED).rule_tallies
    assert tally.counts["false_forward"] == 0
    assert tally.status != "violated"


def test_sctp_checksums_do_not_count(tmp_path: Path) -> None:
    def sctp(checksum: int) -> bytes:
        header = b"\x03\xe8\x07\xd0" + bytes(4) + checksum.to_bytes(4, "big") + b"chunk"
        return frame(Header("10.0.0.1", "10.0.0.2", 132, header, ip_id=9))

    analysis = analyzed(tmp_path, {"a": file_of([Record(START, sctp(0))]), "b": file_of([Record(START + 9, sctp(7))])})
    assert fates(analysis) == {("delivered", None): 1}


def test_criteria_without_any_packet_cannot_be_decided(tmp_path: Path) -> None:
    """A mistake in `match` once let `--fail-on loss,rules` pass."""
    nobody = [{"name": "p", "points": ["a", "b"], "match": {"destination": "192.0.2.1"}}]
    analysis = analyzed(tmp_path, {"a": file_of(sent()), "b": file_of(sent(delay=9))}, nobody)
    assert exit_code(analysis, frozenset({"loss"})) == 3
    assert exit_code(analysis, frozenset({"rules"})) == 3


def test_equal_packets_in_order_far_beyond_the_table(tmp_path: Path) -> None:
    """More equal packets than the assignment's table holds: losses stay in their stage, and nobody is accused."""
    same = udp(1, b"same", ip_id=0)
    times = [START + n * 20_000 for n in range(7_000)]
    lost = {"filter": set(range(100, 7_000, 140)), "delivery": set(range(130, 7_000, 140))}
    files = {}
    for name, delay in zip(CHAIN, DELAYS, strict=True):
        gone = set() if name in ("up", "sw") else lost["filter"]
        gone = gone | lost["delivery"] if name == "vnic" else gone
        copies = [Record(at + delay, same) for n, at in enumerate(times) if n not in gone]
        files[name] = file_of([*sent(30, delay - 2 * S), *copies], START - 3 * S)
    analysis = analyzed(tmp_path, files, PUNTED)
    stages = analysis.verdicts.lost_stage[analysis.verdicts.packets_with("lost")]
    assert np.bincount(stages, minlength=4).tolist() == [0, len(lost["filter"]), 0, len(lost["delivery"])]
    assert analysis.rule_tallies[0].counts["false_forward"] == 0


def test_a_packet_first_seen_behind_the_filter_accuses_nobody(tmp_path: Path) -> None:
    """So close to the start that it may have passed before the other captures began, or never passed the filter."""
    extra = {"vnic": [Record(START - S + 1_000, udp(903))]}
    (tally,) = analyzed(tmp_path, chain(extra), PUNTED).rule_tallies
    assert tally.counts["undetermined"] == 1
    assert tally.counts["hit"] == 30
    assert tally.status == "undetermined"


def _in_time(folder: Path, files_of: Callable[[int], Mapping[str, bytes]], count: int) -> Analysis:
    """The analysis of so many; kernels are compiled before, by one of a few."""
    for number in (50, count):
        (folder / str(number)).mkdir()
        files = files_of(number)
        begun = time.process_time()
        analysis = analyzed(folder / str(number), files, [{"name": "p", "points": list(files)}])
    assert time.process_time() - begun < 10, "what is to be linear takes time by the square"
    return analysis


def test_many_equal_packets_that_begin_behind_a_point(tmp_path: Path) -> None:
    """Each was compared with all others, to find out that it is nobody's copy."""

    def files_of(count: int) -> Mapping[str, bytes]:
        same = udp(1, b"same", ip_id=0)
        copies = [Record(START + number * 2_000, same) for number in range(count)]
        return {"a": file_of(sent(10)), "b": file_of(copies)}

    assert fates(_in_time(tmp_path, files_of, 250_000)) == {("lost", None): 10, ("delivered", None): 250_000}


def test_a_loop_that_a_point_sees_very_often(tmp_path: Path) -> None:
    """Each copy looked for its original among all copies before it."""

    def files_of(count: int) -> Mapping[str, bytes]:
        copies = [Record(START + 1_000 * number, udp(1)) for number in range(1, count + 1)]
        return {"a": file_of([Record(START, udp(1))]), "b": file_of(copies), "c": file_of(copies)}

    analysis = _in_time(tmp_path, files_of, 20_000)
    assert fates(analysis) == {("delivered", None): 1}
    assert analysis.trajectories.duplicates.tolist() == [19_999]


def test_superpackets_of_very_many_flows(tmp_path: Path) -> None:
    """Every flow whose packets an offload had split was looked for among the packets of all flows."""

    def files_of(count: int) -> Mapping[str, bytes]:
        whole: list[Record] = []
        parts: list[Record] = []
        for flow in range(count):
            at, first, second = START + flow * 20_000, b"%06d" % flow + bytes(94), bytes(60)
            for ip_id, payload, delay, to in (
                (7, first + second, 0, whole),
                (7, first, 9, parts),
                (8, second, 10, parts),
            ):
                header = Header("10.0.0.1", "10.0.0.2", 17, payload, sport=1024 + flow, dport=53, ip_id=ip_id)
                to.append(Record(at + delay, frame(header)))
        return {"a": file_of(whole), "b": file_of(parts), "c": file_of(parts)}

    assert fates(_in_time(tmp_path, files_of, 6_000)) == {("delivered", None): 6_000}


def test_a_pipe_for_a_capture_is_refused_at_once(tmp_path: Path) -> None:
    """Its hash waited for a writer for ever, after the reader had refused it."""
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-m", "pktrace", "observe", str(tmp_path / "pipe"), "-o", str(tmp_path / "out.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "is no regular file" in done.stderr
    assert os.listdir(tmp_path) == ["pipe"]


def _equal_behind_nat(folder: Path, behind: Sequence[tuple[int, int]]) -> Analysis:
    """Two segments that are equal but for IP IDs, which a NAT at the first stage replaces, among others.

    Args:
        behind: which of the two the last point sees, and how long after the first was sent.
    """

    def segment(number: int, source: str, ip_id: int, ack: int) -> bytes:
        return frame(Header(source, "10.0.0.2", 6, b"", sport=1000, dport=80, ip_id=ip_id, seq=7, ack=ack, flags=0x10))

    files: dict[str, list[Record]] = {"a": [], "b": [], "c": []}
    sent = [(START + number * MS, 1000 + number) for number in range(20)]
    sent += [(START + 30 * MS, 5000), (START + 30 * MS + 117_000, 5000)]
    inner, outer = (
        [segment(number, source, first + step * number, ack) for number, (_, ack) in enumerate(sent)]
        for source, first, step in (("10.0.0.1", 100, 1), ("10.9.9.9", 5000, 3))
    )
    for number, (at, _) in enumerate(sent):
        files["a"].append(Record(at, inner[number]))
        files["b"].append(Record(at + 14_000, outer[number]))
        if number < 20:
            files["c"].append(Record(at + 30_000, outer[number]))
    files["c"] += [Record(START + 30 * MS + delay, outer[20 + which]) for which, delay in behind]
    return analyzed(
        folder,
        {name: file_of(sorted(records, key=lambda record: record.ts_ns)) for name, records in files.items()},
        ({"name": "p", "points": ["a", "b", "c"]},),
    )


def test_equal_packets_that_nat_told_apart_are_not_swapped_by_reordering(tmp_path: Path) -> None:
    """Keys of rewritten flows were written over the digests, which tell such packets apart behind the NAT."""
    analysis = _equal_behind_nat(tmp_path, [(1, 135_000), (0, 1_130_000)])
    assert fates(analysis) == {("delivered", None): 22}
    ip_ids = analysis.observations.rows["ip_id"][analysis.trajectories.seen[-2:]]
    assert ip_ids.tolist() == [[120, 5060, 5060], [121, 5063, 5063]]


def test_a_copy_of_one_of_two_equal_packets_does_not_stand_for_the_other(tmp_path: Path) -> None:
    """A duplicate was taken for the other packet, which was lost in the same stage."""
    for name, twice in (("first", 0), ("second", 1)):
        (tmp_path / name).mkdir()
        analysis = _equal_behind_nat(tmp_path / name, [(twice, 150_000), (twice, 160_000)])
        assert fates(analysis) == {("delivered", None): 21, ("lost", None): 1}
        lost = analysis.verdicts.packets_with("lost").nonzero()[0]
        assert lost.tolist() == [21 - twice]
        assert analysis.trajectories.duplicates[20:].tolist() == [1 - twice, twice]
