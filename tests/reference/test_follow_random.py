"""The fast follower against the slow one, packet by packet, on random runs; and what must hold of any run.

PKTRACE_RANDOM_RUNS=5000 asks for more runs than are made by default, and for others each time.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pktrace.analysis.analysis import analyze_trajectories
from pktrace.decode.identity import mixed
from pktrace.schema import BASES, FATES
from pktrace.trajectories import follow as fast_follow
from pktrace.trajectories.follow import follow_packets
from pktrace.trajectories.links.address_translation import Keys
from pktrace.trajectories.model import Trajectories
from tests.reference.follow import Followed, follow
from tests.reference.judge import Judge
from tests.reference.random_runs import RandomRun, random_run
from tests.reference.random_traffic import Options
from tests.reference.rewritten import Taught
from tests.reference.sightings import ICMP, TCP, UDP

EXAMPLES = int(os.environ.get("PKTRACE_RANDOM_RUNS", "100"))
SECOND = 10**9

SPLITS = st.sampled_from(["split", "merge", "fragment", "reassemble"])
REWRITES = st.sampled_from(
    ["nat-source", "nat-destination", "nat-many", "nat-new-id", "new-id", "change", "change-some", "longer", "window"]
)
SHARES = st.sampled_from([0.0, 0.0, 0.1, 0.3])
Packet = tuple[Any, ...]


def fast_packets(found: Trajectories) -> list[Packet]:
    """Everything that following says of each packet, in terms of points and frames."""
    rows, points = found.observations.rows, found.observations.points
    owned: dict[int, list[tuple[str, int]]] = {}

    def name(row: int) -> tuple[str, int]:
        return points[rows["point"][row]], int(rows["frame"][row])

    for row, owner in enumerate(found.owner.tolist()):
        owned.setdefault(owner, []).append(name(row))
    parts: dict[int, list[tuple[Any, ...]]] = {}
    ranges = found.ranges
    for entry in zip(ranges.trajectory.tolist(), ranges.position.tolist(), ranges.row.tolist(),
                     ranges.first.tolist(), ranges.last.tolist(), strict=True):  # fmt: skip
        parts.setdefault(entry[0], []).append((entry[1], name(entry[2]), entry[3], entry[4]))
    return [
        packet_of(
            found.run.paths[found.path[number]].name,
            {position: name(row) for position, row in enumerate(found.seen[number].tolist()) if row >= 0},
            owned.get(number, []),
            BASES[found.basis[number]],
            int(found.candidates[number]),
            parts.get(number, []),
        )
        for number in range(len(found))
    ]


def slow_packets(found: Followed) -> list[Packet]:
    return [
        packet_of(
            packet.path.name,
            {position: (s.point, s.row["frame"]) for position, s in packet.seen.items()},
            [(s.point, s.row["frame"]) for s in packet.owned()],
            packet.basis,
            packet.candidates,
            [(r.position, (r.sighting.point, r.sighting.row["frame"]), r.first, r.last) for r in packet.ranges],
        )
        for packet in found.trajectories
    ]


def packet_of(
    path: str, seen: dict[int, Any], owned: list[Any], basis: str, candidates: int, ranges: list[Any]
) -> Packet:
    # A frame that holds bytes of several packets is owned by one of them: what they hold of it is told by the ranges.
    mine = tuple(sorted(owned)) if not ranges else ()
    return path, tuple(sorted(seen.items())), mine, basis, candidates, tuple(sorted(ranges))


class Recorded(Keys):
    """Keys that know whether what they learned last was applied (test_open_findings.py, test_rounds)."""

    settled = True

    def learn_rewritten(self, *arguments: Any) -> bool:
        news = super().learn_rewritten(*arguments)
        self.settled = not news
        return news

    def learn_changed(self, *arguments: Any) -> bool:
        news = super().learn_changed(*arguments)
        self.settled = not news
        return news


def followed_by_both(made: RandomRun) -> tuple[Trajectories, Followed]:
    """The slow follower is taught what the fast one has learned of rewritten flows."""
    learned: list[Recorded] = []

    def keys_of(*arguments: Any) -> Keys:
        learned.append(Recorded(*arguments))
        return learned[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_follow, "Keys", keys_of)
        fast = follow_packets(made.observations())
    taught = Taught(None)
    if learned[0].learned:
        rows, points = fast.observations.rows, fast.observations.points
        names = [(points[row["point"]], int(row["frame"])) for row in rows]
        pairs = zip(learned[0].keys.tolist(), learned[0].first_flow.tolist(), strict=True)
        behind = np.isin(mixed(learned[0].flow, rows["point"]), np.array(sorted(learned[0].behind_here), np.uint64))
        taught = Taught(
            dict(zip(names, pairs, strict=True)),
            frozenset(name for name, here in zip(names, behind.tolist(), strict=True) if here),
        )
    slow = follow(made.sightings(), made.run, made.coverage, taught)
    if not learned[0].settled:
        slow.hinges_on.add("rounds")
    return fast, slow


def disagreements(made: RandomRun) -> str:
    """What only one of both says, as text; empty where they agree.

    What is learned of rewritten flows, and which ends are therefore ambiguous, is the fast follower's.
    """
    fast, slow = followed_by_both(made)
    if slow.hinges_on:
        return ""
    text = differences(fast, slow)
    if not text:
        for packet, ambiguous in zip(slow.trajectories, fast.ambiguous.tolist(), strict=True):
            packet.ambiguous = ambiguous
    return text or different_fates(fast, slow, made)


def differences(fast: Trajectories, slow: Followed) -> str:
    """Packets that only one of both has, or has otherwise; their order; what belongs to none."""
    a, b = fast_packets(fast), slow_packets(slow)
    lines = [f"fast {packet}" for packet in sorted(set(a) - set(b))]
    lines += [f"slow {packet}" for packet in sorted(set(b) - set(a))]
    if not lines and a != b:
        lines.append("another order")
    for counter, count in (("no_path", slow.no_path), ("off_path", slow.off_path)):
        if fast.ledger.total(counter) != count:
            lines.append(f"{counter}: fast {fast.ledger.total(counter)}, slow {count}")
    return "\n".join(lines)


def different_fates(fast: Trajectories, slow: Followed, made: RandomRun) -> str:
    """Fates and lost stages that differ; both have the same packets in the same order."""
    verdicts = analyze_trajectories(fast).verdicts
    judge = Judge(made.run, slow, slow.reach.coverage)
    lines = []
    for number, packet in enumerate(slow.trajectories):
        judged = judge.judge(packet)
        stage = int(verdicts.lost_stage[number])
        said = (FATES[verdicts.fate[number]], None if stage < 0 else stage)
        if said != (judged.fate, judged.lost_stage):
            lines.append(f"fast {said}, slow {judged.fate} {judged.lost_stage} {judged.reason}: {packet.seen}")
    return "\n".join(lines)


def profile(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize="PKTRACE_RANDOM_RUNS" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def options(changes: st.SearchStrategy[str]) -> st.SearchStrategy[Options]:
    """Runs in which stages change packets so."""
    return st.builds(
        Options,
        seed=st.integers(0, 2**32 - 1),
        points=st.integers(2, 5),
        shape=st.sampled_from(["line", "line", "detour", "twice"]),
        paths=st.integers(1, 2),
        match_all=st.booleans(),
        packets=st.integers(1, 40),
        flows=st.integers(1, 4),
        protocols=st.lists(st.sampled_from([TCP, UDP, ICMP]), min_size=1, max_size=3, unique=True).map(tuple),
        six=st.sampled_from([0.0, 0.0, 0.5]),
        ip_id=st.sampled_from(["host", "zero", "shared", "few"]),
        identical=SHARES,
        small=st.sampled_from([0.0, 0.5, 1.0]),
        errors=SHARES,
        gap_ns=st.sampled_from([10_000, 300_000, 20_000_000]),
        delay_ns=st.sampled_from([30_000, 2_000_000]),
        threshold_ns=st.sampled_from([10_000_000, 200_000_000]),
        loss=SHARES,
        copies=SHARES,
        reordered=SHARES,
        late=st.sampled_from([0.0, 0.0, 0.1]),
        changes=st.lists(st.tuples(st.integers(0, 3), changes), max_size=3).map(tuple),
        clocks=st.sampled_from([(), (), (), (0, 3 * SECOND, -SECOND, 0, 500), (0, 0, 0, 0, 0)]),
        silent=st.sampled_from([None, None, None, 0, 1, 2]),
        missed=SHARES,
        missed_at=st.sampled_from([None, 0, 1, 2]),
        told=st.sampled_from(["all", "nothing", "unknown"]),
        edges=st.booleans(),
        numbered=st.sampled_from(["no", "no", "no", "session", "all but one"]),
    )


@profile(EXAMPLES)
@given(options=options(SPLITS))
def test_both_say_the_same_of_packets_as_they_are(options: Options) -> None:
    """Identical, copied, lost, reordered, late, numbered, split and merged packets; clocks, drops, edges."""
    assert disagreements(random_run(options)) == ""


@profile(EXAMPLES)
@given(options=options(st.one_of(REWRITES, REWRITES, SPLITS)))
def test_both_say_the_same_of_rewritten_packets(options: Options) -> None:
    """The same behind NAT, with other IP IDs, other payload, several of it at once."""
    assert disagreements(random_run(options)) == ""


@profile(EXAMPLES)
@given(options=options(st.sampled_from(["split", "reassemble", "window"])), ip_id=st.sampled_from(["few", "shared"]),
       begin=st.permutations(["nat-many", "fragment"]), stages=st.tuples(st.integers(0, 2), st.integers(0, 2)),
       gap_ns=st.sampled_from([2_000, 100_000]),
       threshold_ns=st.sampled_from([200_000, 1_000_000, 50_000_000]))  # fmt: skip
def test_both_say_the_same_of_fragments_that_share_an_identification(
    options: Options, ip_id: str, begin: list[str], stages: tuple[int, int], gap_ns: int, threshold_ns: int
) -> None:
    """Hosts behind one address whose datagrams become fragments, or arrive as such, with few different IP IDs."""
    changes = (*zip(sorted(stages), begin, strict=True), *options.changes[:1])
    times = {"gap_ns": gap_ns, "threshold_ns": threshold_ns}
    chosen = replace(options, ip_id=ip_id, small=0.2, protocols=(UDP, *options.protocols), changes=changes, **times)
    assert disagreements(random_run(chosen)) == ""


@profile(EXAMPLES // 2)
@given(options=options(st.sampled_from(["nat-source", "nat-destination", "nat-many", "nat-new-id", "window", "split",
                                         "fragment", "reassemble"])))  # fmt: skip
def test_packets_that_can_be_told_apart_are_not_mixed(options: Options) -> None:
    """No packet owns what was seen of two, where each has a payload and an IP ID of its own.

    Where payloads change, or IP IDs repeat at once, it cannot be told from bytes what belongs together; of flows
    without IP IDs see test_open_findings.py.
    """
    made = random_run(replace(options, small=0.0, identical=0.0, ip_id="host", six=0.0))
    origin = {(row["point"], row["frame"]): row["_origin"] for row in made.rows}
    for packet in fast_packets(follow_packets(made.observations())):
        names = {*packet[2], *(name for _, name in packet[1]), *(part[1] for part in packet[-1])}
        assert len({origin[name] for name in names}) == 1, packet


def digests(found: Trajectories) -> dict[tuple[str, int], int]:
    rows, points = found.observations.rows, found.observations.points
    return {(points[row["point"]], int(row["frame"])): int(row["digest"]) for row in rows}


def placed_as(made: RandomRun, found: Trajectories) -> Counter[frozenset[tuple[Any, ...]]]:
    """Packets as what was seen of them where and when, whatever the frames are numbered."""
    rows, points = found.observations.rows, found.observations.points
    packets: dict[int, list[tuple[Any, ...]]] = {}
    for row, owner in zip(rows, found.owner.tolist(), strict=True):
        if owner >= 0:
            sighting = (points[row["point"]], int(row["ts_ns"]), int(row["digest"]))
            packets.setdefault(owner, []).append(sighting)
    return Counter(frozenset(sightings) for sightings in packets.values())


@profile(EXAMPLES // 2)
@given(options=options(REWRITES), order=st.randoms(use_true_random=False))
def test_the_order_of_rows_of_one_time_changes_nothing(options: Options, order: random.Random) -> None:
    """Frames of one point and time may stand in any order in its file, and files in any order in run.toml.

    On one clock: the offsets of several are against the first in run.toml, and rounded. Without parts: a byte is of the
    packet that was sent with it last, which of several of one time is the last in the file. Nor where dropped packets
    are taken for changed ones (test_open_findings.py): of several of one time the first is.
    """
    made = random_run(replace(options, clocks=(), changes=(), tick_ns=200_000))
    found = follow_packets(made.observations())
    if len(found.ranges) or (found.basis == BASES.index("modified")).any():
        return
    before = placed_as(made, found)
    shuffled = [dict(row) for row in made.rows]
    order.shuffle(shuffled)
    shuffled.sort(key=lambda row: row["ts_ns"])
    for point in {row["point"] for row in shuffled}:
        for number, row in enumerate((row for row in shuffled if row["point"] == point), start=1):
            row["frame"] = number
    assert placed_as(made, follow_packets(made.observations(shuffled))) == before


@profile(EXAMPLES // 2)
@given(options=options(SPLITS), which=st.randoms(use_true_random=False))
def test_without_one_observation_other_packets_stay(options: Options, which: random.Random) -> None:
    """An observation of a certain packet less changes no other certain one.

    That cannot hold where much hangs on little: what is learned of flows and clocks hangs on single packets, and so do
    the delays by which equal packets are told apart. So packets here are as they were sent, each with a payload and an
    IP ID of its own, on one clock; and what comes later than the threshold is another packet only beside such bytes. A
    sighting less may make a packet begin later: then its bytes may be found to be a part of another. It may also be the
    first to show that a point missed packets: then what comes again behind it need not be a copy.
    """
    made = random_run(
        replace(options, clocks=(), changes=(), small=0.0, identical=0.0, numbered="no", six=0.0, ip_id="host")
    )
    found = follow_packets(made.observations())
    exact = {packet for packet in fast_packets(found) if packet[3] == "exact"}
    if not exact:
        return
    chosen = which.choice(sorted(exact))
    point, frame = which.choice(chosen[2])
    alike = {name for name, digest in digests(found).items() if digest == digests(found)[point, frame]}
    left = [row for row in made.rows if (row["point"], row["frame"]) != (point, frame)]
    without = follow_packets(made.observations(left))
    if (without.reach.incomplete != found.reach.incomplete).any():
        return
    after = {packet[2] for packet in fast_packets(without)}
    assert {packet[2] for packet in exact if not alike.intersection(packet[2])} <= after


@profile(EXAMPLES // 2)
@given(options=options(st.one_of(REWRITES, SPLITS)))
def test_every_observation_is_placed_or_counted(options: Options) -> None:
    made = random_run(options)
    found = follow_packets(made.observations())
    placed = int((found.owner >= 0).sum())
    assert placed == int(found.sightings.sum())
    assert placed + found.ledger.total("no_path") + found.ledger.total("off_path") == len(made.rows)
