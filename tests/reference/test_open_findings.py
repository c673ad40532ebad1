"""The smallest cases in which the fast follower departed from its rule; one that still does is marked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pktrace.analysis.analysis import analyze_observations
from pktrace.schema import FATES
from pktrace.trajectories import follow as fast_follow
from pktrace.trajectories.follow import follow_packets
from pktrace.trajectories.links.address_translation import Keys
from tests.reference.random_runs import RandomRun, make_run, random_run
from tests.reference.random_traffic import START_NS, Frame, Options
from tests.reference.reach import Coverage
from tests.reference.sightings import TCP, UDP
from tests.reference.test_follow_random import disagreements

MS = 1_000_000
Seen = tuple[str, int, Frame]  # point, time in us, frame


def made(
    options: Options, seen: list[Seen], dropped: tuple[str, ...] = (), ends: dict[str, int] | None = None
) -> RandomRun:
    """A run of these sightings; captures may say that they dropped a packet, or end at a time in us."""
    run, fast = make_run(options)
    rows = []
    for number, (point, time, frame) in enumerate(sorted(seen, key=lambda entry: entry[1]), start=1):
        rows.append(frame.row() | {"point": point, "capture": point, "frame": number, "ts_ns": START_NS + 1000 * time})
    last = max(time for _, time, _ in seen) + 100_000_000
    coverage = {
        point.name: Coverage(
            START_NS - 10 * MS,
            START_NS + 1000 * (ends or {}).get(point.name, last),
            int(point.name in dropped),
            1,
        )
        for point in run.points
    }
    return RandomRun(run, fast, rows, coverage)


def datagram(number: int = 0, ip_id: int = 7, destination: str = "10.77.0.1", source: str = "192.0.2.1") -> Frame:
    return Frame(UDP, source, destination, 4000, 500, ip_id, b"%06d" % number, punted=False)


def segment(seq: int, ip_id: int, ack: int = 1, destination: str = "10.77.0.1", size: int = 0) -> Frame:
    return Frame(TCP, "192.0.2.1", destination, 4000, 500, ip_id, bytes(size), seq=seq, ack=ack, flags=16, window=9)


def test_capture_over() -> None:
    """Behind the end of the first capture a copy may be a new packet: it is not shown to be the old one's."""
    one = datagram()
    seen = [("p0", 0, one), ("p1", 50, one), ("p2", 100, one), ("p2", 50_000, one)]
    run = made(Options(points=3, threshold_ns=10 * MS), seen, ends={"p0": 20_000})
    assert disagreements(run) == ""


def test_bypass_unseen() -> None:
    """A packet that the filter's input missed, which dropped some, and that went over the bypass."""
    one = datagram()
    seen = [("p0", 0, one), ("p0", 500, one), ("p1", 550, one), ("p4", 80, one), ("p4", 600, one)]
    known = datagram(1)
    seen += [("p0", 2000, known), ("p1", 2050, known), ("p4", 2100, known)]
    run = made(Options(points=5, shape="detour"), seen, dropped=("p1",))
    assert disagreements(run) == ""


def fates(run: RandomRun) -> list[str]:
    return [FATES[fate] for fate in analyze_observations(run.observations()).verdicts.fate]


def test_equal_starts() -> None:
    """Equal datagrams behind a NAT whose new address fits no path: none of them is known to be lost."""
    seen: list[Seen] = []
    for number in range(6):
        seen.append(("p0", 100_000 * number, datagram(0, 0)))
        seen.append(("p1", 100_000 * number + 50, datagram(0, 0, destination="172.16.0.1")))
    run = made(Options(points=2, match_all=False, threshold_ns=2000 * MS), seen)
    assert "lost" not in fates(run)


@pytest.mark.parametrize(
    "ip_id",
    [
        5,
        pytest.param(
            6,
            marks=pytest.mark.xfail(reason="candidates_of looks at only eight starts of other IP IDs", strict=True),
        ),
    ],
)
def test_ninth_start(ip_id: int) -> None:
    """An end that a start fits is not lost, however many come before that start and do not fit."""
    seen: list[Seen] = [("p0", 0, datagram(0, 5)), ("p1", 10, datagram(0, 5))]
    seen += [("p1", 20 + number, datagram(0, 4, source=f"169.254.0.{100 + number}")) for number in range(8)]
    seen.append(("p2", 100, datagram(0, ip_id, source="203.0.113.9")))
    assert fates(made(Options(points=3), seen))[0] == "ambiguous"


def test_copies_of_parts() -> None:
    """The copy of a segment belongs to the packet that was split, or is counted."""
    whole, parts = segment(1000, 5, size=300), [segment(1000 + at, 5 + at // 100, size=100) for at in (0, 100, 200)]
    seen: list[Seen] = [("p0", 0, whole)]
    seen += [("p1", 50 + number, part) for number, part in enumerate(parts)]
    seen.append(("p1", 60, parts[1]))
    found = follow_packets(made(Options(points=2), seen).observations())
    left = found.ledger.total("no_path") + found.ledger.total("off_path")
    assert int((found.owner >= 0).sum()) + left == len(found.owner)


def test_placed_and_counted() -> None:
    """A segment of a rewritten flow whose payload is changed, too: placed, and not left out."""
    inside, outside = (
        [replace(segment(seq, 5 + seq, size=100), source=source, destination="192.0.2.1") for seq in (1000, 1100)]
        for source in ("10.77.0.1", "203.0.113.9")
    )
    outside[1] = replace(outside[1], payload=b"x" * 100)
    seen: list[Seen] = [("p1", 100 * number, frame) for number, frame in enumerate(inside)]
    seen += [("p0", 100 * number + 50, frame) for number, frame in enumerate(outside)]
    found = follow_packets(made(Options(points=2, paths=2, match_all=False), seen).observations())
    left = found.ledger.total("no_path") + found.ledger.total("off_path")
    assert int((found.owner >= 0).sum()) + left == len(found.owner)


def test_rounds() -> None:
    """Flows behind two rewrites, each learned in a round of its own: whatever was learned is applied."""
    learned: list[Keys] = []

    class Recorded(Keys):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            learned.append(self)
            self.settled = True

        def learn_rewritten(self, *arguments: Any) -> bool:
            news = super().learn_rewritten(*arguments)
            self.settled = not news
            return news

    options = Options(
        seed=2971031800, points=3, shape="twice", paths=2, match_all=False, packets=27, flows=4, protocols=(UDP,),
        ip_id="shared", small=0.0, gap_ns=10_000, threshold_ns=200 * MS, copies=0.1, late=0.1,
        changes=((0, "nat-new-id"), (1, "new-id")), missed_at=2, told="nothing",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_follow, "Keys", Recorded)
        follow_packets(random_run(options).observations())
    assert learned[0].settled


def test_dropped_on_both_sides() -> None:
    """Datagrams with payloads of their own, of which each capture says that it dropped some: none was changed."""
    seen: list[Seen] = []
    for number in range(24):
        frame = replace(datagram(number, 0), payload=b"%032d" % number)
        if number % 3 != 1:
            seen.append(("p0", 100 * number, frame))
        if number % 3 != 0:
            seen.append(("p1", 100 * number + 50, frame))
    run = made(Options(points=2), seen, dropped=("p0", "p1"))
    found = follow_packets(run.observations())
    rows = found.observations.rows
    for first, second in found.seen.tolist():
        assert -1 in (first, second) or rows["digest"][first] == rows["digest"][second]
