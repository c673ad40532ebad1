"""The fast follower against the slow one, packet by packet, on random runs; and what must hold of any run."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pktrace.schema import BASES
from pktrace.trajectories.follow import follow_packets
from pktrace.trajectories.model import Trajectories
from tests.reference.follow import Followed, follow
from tests.reference.random_runs import Options, RandomRun, random_run
from tests.reference.sightings import ICMP, TCP, UDP

EXAMPLES = int(os.environ.get("PKTRACE_RANDOM_RUNS", "200"))
SECOND = 10**9

CHANGES = st.sampled_from(
    ["nat-source", "nat-destination", "nat-many", "nat-new-id", "new-id", "change", "change-some", "longer", "split",
     "merge", "fragment", "reassemble", "window"]
)  # fmt: skip
SHARES = st.sampled_from([0.0, 0.0, 0.1, 0.3])
OPTIONS = st.builds(
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
    gap_ns=st.sampled_from([10_000, 300_000, 20_000_000]),
    delay_ns=st.sampled_from([30_000, 2_000_000]),
    threshold_ns=st.sampled_from([10_000_000, 200_000_000]),
    loss=SHARES,
    copies=SHARES,
    reordered=SHARES,
    late=st.sampled_from([0.0, 0.0, 0.1]),
    changes=st.lists(st.tuples(st.integers(0, 3), CHANGES), max_size=3).map(tuple),
    clocks=st.sampled_from([(), (), (0, 3 * SECOND, -SECOND, 0, 500), (0, 0, 0, 0, 0)]),
    silent=st.sampled_from([None, None, None, 0, 1, 2]),
    missed=SHARES,
    missed_at=st.sampled_from([None, 0, 1, 2]),
    told=st.sampled_from(["all", "nothing", "unknown"]),
    edges=st.booleans(),
    numbered=st.sampled_from(["no", "no", "no", "session", "all but one"]),
)

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
            bool(found.ambiguous[number]),
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
            packet.ambiguous,
            [(r.position, (r.sighting.point, r.sighting.row["frame"]), r.first, r.last) for r in packet.ranges],
        )
        for packet in found.trajectories
    ]


def packet_of(
    path: str, seen: dict[int, Any], owned: list[Any], basis: str, candidates: int, ambiguous: bool, ranges: list[Any]
) -> Packet:
    # A frame that holds bytes of several packets is owned by one of them: what they hold of it is told by the ranges.
    mine = tuple(sorted(owned)) if not ranges else ()
    return path, tuple(sorted(seen.items())), mine, basis, candidates, ambiguous, tuple(sorted(ranges))


def disagreements(made: RandomRun) -> str:
    """What only one of both says, as text; empty where they agree."""
    fast = follow_packets(made.observations())
    slow = follow(made.sightings(), made.run, made.coverage)
    text = compared(fast, slow)
    return "" if slow.hinges_on else text


def compared(fast: Trajectories, slow: Followed) -> str:
    a, b = fast_packets(fast), slow_packets(slow)
    lines = [f"fast {packet}" for packet in sorted(set(a) - set(b))]
    lines += [f"slow {packet}" for packet in sorted(set(b) - set(a))]
    if not lines and a != b:
        lines.append("another order")
    for counter, count in (("no_path", slow.no_path), ("off_path", slow.off_path)):
        if fast.ledger.total(counter) != count:
            lines.append(f"{counter}: fast {fast.ledger.total(counter)}, slow {count}")
    return "\n".join(lines)


def profile(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize="PKTRACE_RANDOM_RUNS" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@profile(EXAMPLES)
@given(options=OPTIONS)
def test_both_say_the_same(options: Options) -> None:
    assert disagreements(random_run(options)) == ""
