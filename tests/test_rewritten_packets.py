"""Bugs that were found, each with a name: packets whose headers or payload change on the way, and what is like them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pktrace.analysis.analysis import Analysis
from pktrace.schema import BASES, FATES
from tests.kit.packets import Header, frame
from tests.kit.pcap_files import Record
from tests.test_named_cases import END, MS, START, S, analyzed, fates, file_of

SERVER, OTHER_SERVER, PUBLIC, INNER = "198.51.100.20", "198.51.100.21", "203.0.113.5", "100.64.0.9"
US = 1_000
Seen = list[tuple[int, bytes]]  # times and frames


def host(number: int) -> str:
    return f"192.168.7.{10 + number}"


def datagram(
    source: str, sport: int, payload: bytes, ip_id: int = 0, dport: int = 53, destination: str = SERVER
) -> bytes:
    return frame(Header(source, destination, 17, payload, sport=sport, dport=dport, ip_id=ip_id))


def run(folder: Path, points: Mapping[str, Seen], **top: Any) -> Analysis:
    files = {name: file_of([Record(at, data) for at, data in sorted(seen)]) for name, seen in points.items()}
    return analyzed(folder, files, [{"name": "p", "points": list(points)}], **top)


def followed(analysis: Analysis, field: str = "content") -> list[tuple[int, ...]]:
    """Of every packet, what its sightings hold in a field."""
    rows = analysis.trajectories.observations.rows
    return [tuple(int(rows[field][row]) for row in seen if row >= 0) for seen in analysis.trajectories.seen]


# --- flows of few packets -----------------------------------------------------------------------------------


def test_short_flows_behind_two_gateways(tmp_path: Path) -> None:
    """Packets at the first gateway fitted what both had made of them, so that no pair of flows was clear."""
    points: dict[str, Seen] = {name: [] for name in "abcd"}
    for flow in range(6):
        for number in range(5):
            at, payload = START + (number * 6 + flow) * MS, b"%d-%d" % (flow, number)
            inside = datagram(INNER, 20_000 + flow, payload, 100 + number)
            outside = datagram(PUBLIC, 20_000 + flow, payload, 7_000 + number * 6 + flow)
            for delay, (name, data) in enumerate(
                zip("abcd", (datagram(host(flow), 40_000, payload, 100 + number), inside, inside, outside), strict=True)
            ):
                points[name].append((at + delay * 20 * US, data))
    analysis = run(tmp_path, points)
    assert fates(analysis) == {("delivered", None): 30}
    assert all(len(set(one)) == 1 and len(one) == 4 for one in followed(analysis))


def queries(count: int, keep_ids: bool = False) -> dict[str, Seen]:
    """Queries from a port of their own each, one packet a flow; the gateway keeps the port, and IP IDs if asked to."""
    points: dict[str, Seen] = {"a": [], "b": []}
    for number in range(count):
        at, payload = START + number * MS, b"query %d" % number
        points["a"].append((at, datagram(host(number % 4), 30_000 + number, payload, 500 + number)))
        identity = 500 + number if keep_ids else 9_000 + number
        points["b"].append((at + 30 * US, datagram(PUBLIC, 50_000 - number, payload, identity)))
    return points


@pytest.mark.parametrize("keep_ids", [True, False])
def test_flows_of_one_packet_behind_one_gateway(tmp_path: Path, keep_ids: bool) -> None:
    """Each flow was looked at alone: all of them were ambiguous."""
    analysis = run(tmp_path, queries(20, keep_ids))
    assert fates(analysis) == {("delivered", None): 20}
    assert all(len(set(one)) == 1 for one in followed(analysis))


def test_too_few_flows_of_one_packet_show_no_gateway(tmp_path: Path) -> None:
    assert fates(run(tmp_path, queries(3))).keys() == {("ambiguous", None), ("delivered", None)}


def test_what_comes_much_later_than_is_usual_is_of_no_known_gateway(tmp_path: Path) -> None:
    points = queries(20)
    points["a"].append((START + 100 * MS, datagram(host(9), 41_000, b"alone")))
    points["b"].append((START + 900 * MS, datagram(PUBLIC, 42_000, b"alone")))
    assert fates(run(tmp_path, points))["ambiguous", None] == 1


def test_an_answer_is_undone_as_its_question_was_done(tmp_path: Path) -> None:
    """The first answer of a conversation is one packet; what it answers is known."""
    points: dict[str, Seen] = {"a": [], "b": []}
    for number in range(5):
        at, payload = START + number * MS, b"question %d" % number
        points["a"].append((at, datagram(host(0), 40_000, payload, dport=5_000)))
        points["b"].append((at + 30 * US, datagram(PUBLIC, 20_007, payload, 77 + number, dport=5_000)))
    answer = Header(SERVER, PUBLIC, 17, b"answer", sport=5_000, dport=20_007, ip_id=1)
    inside = Header(SERVER, host(0), 17, b"answer", sport=5_000, dport=40_000, ip_id=2)
    points["b"].append((START + 20 * MS, frame(answer)))
    points["a"].append((START + 20 * MS + 30 * US, frame(inside)))
    paths = [
        {"name": "out", "points": ["a", "b"], "match": {"source": "192.168.7.0/24"}},
        {"name": "back", "points": ["b", "a"], "match": {"source": SERVER}},
    ]
    files = {name: file_of([Record(at, data) for at, data in sorted(seen)]) for name, seen in points.items()}
    assert fates(analyzed(tmp_path, files, paths)) == {("delivered", None): 6}


def test_what_a_known_flow_loses_is_lost(tmp_path: Path) -> None:
    """A packet lost of a flow that is known to be rewritten was ambiguous where another flow has the same bytes."""
    points: dict[str, Seen] = {"a": [], "b": []}
    for flow in range(2):
        for number in range(20):
            at, payload = START + (2 * number + flow) * MS, b"%d-%d" % (flow, number)
            points["a"].append((at, datagram(host(flow), 40_000, b"same" if number == 9 else payload, number + 1)))
            if (flow, number) != (0, 9):
                inside = datagram(PUBLIC, 20_000 + flow, b"same" if number == 9 else payload, number + 1)
                points["b"].append((at + 30 * US, inside))
    assert fates(run(tmp_path, points)) == {("delivered", None): 39, ("lost", None): 1}


# --- packets that are all the same --------------------------------------------------------------------------


def crowd(
    count: int, lost: Sequence[int], seed: int = 1, same_time: bool = True, server: str = SERVER, ids: bool = False
) -> dict[str, Seen]:
    """Eight hosts whose packets are all the same, and eight flows behind the gateway."""
    times, others = random.Random(seed), random.Random(seed + 1)
    points: dict[str, Seen] = {"a": [], "b": [], "c": []}
    at = behind = START
    for number in range(count):
        at, behind = at + int(times.expovariate(1 / MS)), behind + int(others.expovariate(1 / MS))
        flow, identity = times.randrange(8), 1 + number if ids else 0
        data = datagram(host(flow), 40_000, b"heartbeat", identity, 9_000)
        points["a"].append((at, data))
        points["b"].append((at + times.randrange(5, 20) * US, data))
        if number not in lost:
            begun = (at if same_time else behind) + times.randrange(30, 60) * US
            points["c"].append((begun, datagram(PUBLIC, 20_000 + 7 * flow, b"heartbeat", identity, 9_000, server)))
    return points


def test_the_losses_of_a_crowd_are_counted(tmp_path: Path) -> None:
    """All packets of hosts that send the same through one gateway were ambiguous."""
    analysis = run(tmp_path, crowd(600, range(50, 600, 60)))
    assert fates(analysis) == {("delivered", None): 590, ("lost", None): 10}
    assert set(analysis.verdicts.lost_stage[analysis.verdicts.packets_with("lost")].tolist()) == {1}
    assert set(analysis.trajectories.basis.tolist()) == {BASES.index("order")}
    assert (analysis.trajectories.candidates > 1).all()


def test_packets_of_a_crowd_that_ip_ids_tell_apart(tmp_path: Path) -> None:
    analysis = run(tmp_path, crowd(600, range(50, 600, 60), ids=True))
    assert fates(analysis) == {("delivered", None): 590, ("lost", None): 10}
    assert all(len(set(one)) == 1 for one in followed(analysis, "ip_id"))


@pytest.mark.parametrize("seed", range(5))
def test_strangers_with_the_same_bytes_are_no_crowd(tmp_path: Path, seed: int) -> None:
    """As many flows with the same bytes to the same server, at times of their own."""
    analysis = run(tmp_path, crowd(400, (), seed, same_time=False))
    assert not any(set(one) >= {0, 2} for one in followed(analysis, "point"))
    assert fates(analysis)["ambiguous", None] > 300  # of the 400; the others have ended before any begins


def test_a_crowd_that_goes_elsewhere_is_another_one(tmp_path: Path) -> None:
    """At the very times of the others, but neither side of the flows is the same."""
    analysis = run(tmp_path, crowd(400, (), server=OTHER_SERVER))
    assert not any(set(one) >= {0, 2} for one in followed(analysis, "point"))


def test_heartbeats_of_two_hosts_are_no_rewritten_flow(tmp_path: Path) -> None:
    """One flow ends and one begins, four times each and more: that was enough. They come at times of their own."""
    seen = {
        "a": [(START + number * 100 * MS, datagram(host(0), 40_000, b"alive")) for number in range(40)],
        "b": [(START + number * 100 * MS + 60 * MS, datagram(PUBLIC, 20_000, b"alive")) for number in range(40)],
    }
    analysis = run(tmp_path, seen)
    assert all(len(one) == 1 for one in followed(analysis))
    assert fates(analysis)["ambiguous", None] >= 40


def test_identical_packets_keep_the_ip_ids_that_tell_them_apart(tmp_path: Path) -> None:
    """Whether a gateway keeps IP IDs was told by one pair of packets, which need not be one packet."""
    points: dict[str, Seen] = {"a": [], "b": []}
    for number in range(200):
        at = START + number * 40 * US
        points["a"].append((at, datagram(host(0), 40_000, b"same", 100 + number)))
        if number % 50 != 0:
            points["b"].append((at + 15 * US, datagram(PUBLIC, 20_000, b"same", 100 + number)))
    analysis = run(tmp_path, points)
    assert fates(analysis) == {("delivered", None): 196, ("lost", None): 4}
    assert all(len(set(one)) == 1 for one in followed(analysis, "ip_id"))


def test_packets_that_are_the_same_but_for_a_port_that_stays(tmp_path: Path) -> None:
    points: dict[str, Seen] = {"a": [], "b": []}
    for number in range(160):
        at, flow = START + number * MS, number % 8
        points["a"].append((at, datagram(host(flow), 40_000, b"same", dport=9_000 + flow)))
        if number != 80:
            points["b"].append((at + 15 * US, datagram(PUBLIC, 20_000 + flow, b"same", dport=9_000 + flow)))
    analysis = run(tmp_path, points)
    assert fates(analysis) == {("delivered", None): 159, ("lost", None): 1}
    assert all(len(set(one)) == 1 for one in followed(analysis, "dport"))


def strangers(seed: int, kind: str, flows: int, server: str, gateway: bool) -> dict[str, Seen]:
    """Forty packets that end at a, and forty that begin at b, at times of their own, with bytes in common."""
    chance = random.Random(seed)
    points = queries(40) if gateway else {"a": [], "b": []}
    for name, source, port, destination in (("a", host(0), 10_000, SERVER), ("b", PUBLIC, 15_000, server)):
        for number in range(40):
            payload = {"few": chance.randrange(20), "many": chance.randrange(300), "same": 1, "count": number}[kind]
            data = datagram(source, port + number % flows, b"ping %d" % payload, destination=destination)
            points[name].append((START + chance.randrange(S), data))
    return points


@pytest.mark.parametrize("gateway", [False, True])
@pytest.mark.parametrize("flows", [1, 5, 40])
@pytest.mark.parametrize("kind", ["few", "many", "same", "count"])
def test_strangers_are_not_matched(tmp_path: Path, kind: str, flows: int, gateway: bool) -> None:
    """Four packets with the same remains made a flow of two, whenever they came."""
    for seed, server in enumerate((SERVER, OTHER_SERVER)):
        (tmp_path / server).mkdir()
        analysis = run(tmp_path / server, strangers(seed, kind, flows, server, gateway))
        of_both = [ports for ports in followed(analysis, "sport") if len(ports) == 2]
        assert len(of_both) == (40 if gateway else 0)
        assert all(ports[0] >= 30_000 for ports in of_both)


def test_a_count_that_two_links_have_in_common(tmp_path: Path) -> None:
    """The same payloads in the same order, always later by as much; but both sides are others."""
    seen: dict[str, Seen] = {"a": [], "b": []}
    for number in range(100):
        at, payload = START + number * 20 * MS, b"number %d" % number
        seen["a"].append((at, datagram(host(0), 40_000, payload)))
        seen["b"].append((at + 9 * MS, datagram("172.16.3.3", 5_000, payload, destination=OTHER_SERVER)))
    assert all(len(one) == 1 for one in followed(run(tmp_path, seen)))


# --- order --------------------------------------------------------------------------------------------------


def test_packets_that_overtake_each_other_behind_a_gateway(tmp_path: Path) -> None:
    """Keys were made in the array of digests: the order rung no longer saw which of two frames was the same."""
    points: dict[str, Seen] = {name: [] for name in "abc"}
    for number in range(40):
        at = START + number * MS
        inside, outside = (
            frame(Header(source, SERVER, 6, b"", 41_003, 443, ip_id, seq=5, ack=9 + 1000 * (number // 2), flags=0x10))
            for source, ip_id in ((host(0), number + 1), (PUBLIC, 8_000 - 3 * number))
        )
        points["a"].append((at, inside))
        points["b"].append((at + 20 * US, outside))
        # The first of each pair is held back until the other one has passed.
        points["c"].append((at + (2 * MS if number % 2 == 0 else 40 * US), outside))
    analysis = run(tmp_path, points)
    assert fates(analysis) == {("delivered", None): 40}
    assert all(behind == there for _, behind, there in followed(analysis, "ip_id"))


def test_copies_that_no_earlier_point_could_see_are_one_packet(tmp_path: Path) -> None:
    """A copy at the edge of the captures before began a packet of its own, although its IP ID is the same."""
    files = {
        "a": file_of([Record(START + S + n * MS, datagram(host(0), 1, b"%d" % n, n + 1)) for n in range(9)], START + S),
        "b": file_of(
            [Record(START + n * US, datagram(host(0), 1, b"edge", 99)) for n in (0, 20)]
            + [Record(START + S + n * MS + 9, datagram(host(0), 1, b"%d" % n, n + 1)) for n in range(9)]
        ),
    }
    analysis = analyzed(tmp_path, files, [{"name": "p", "points": ["a", "b"]}])
    assert len(analysis.trajectories.path) == 10
    assert analysis.trajectories.duplicates.tolist() == [1] + [0] * 9


# --- changed payloads ---------------------------------------------------------------------------------------


def test_a_few_changed_payloads_without_identification_are_no_losses(tmp_path: Path) -> None:
    """Less than a fifth of the flow was changed: it was called lost, and as many injected."""
    points: dict[str, Seen] = {"a": [], "b": []}
    for number in range(60):
        at = START + number * MS
        payload = b"%060d" % number
        points["a"].append((at, datagram(host(0), 40_000, payload)))
        points["b"].append((at + 20 * US, datagram(host(0), 40_000, payload[::-1] if number % 10 == 5 else payload)))
    assert fates(run(tmp_path, points, loss={"threshold": "100ms"})) == {("delivered", None): 60}


def test_what_begins_at_the_edge_of_a_capture_makes_nothing_doubtful(tmp_path: Path) -> None:
    """A packet without IP ID that was lost fitted what the point before could not have seen yet."""
    here = [(START + number * MS, datagram(host(0), 40_000, b"%04d" % number)) for number in range(12)]
    files = {
        "a": file_of([Record(at, data) for at, data in here[4:]], START + 4 * MS - 1, END),
        "b": file_of([Record(at + 20 * US, data) for n, (at, data) in enumerate(here) if n != 5], START - S, END),
    }
    analysis = analyzed(tmp_path, files, [{"name": "p", "points": ["a", "b"]}], loss={"threshold": "50ms"})
    assert fates(analysis)["lost", None] == 1
    assert ("ambiguous", None) not in fates(analysis)


def test_equal_first_bytes_without_identification_make_no_segments(tmp_path: Path) -> None:
    """One shorter datagram with the first bytes of another made all others with ID 0 parts of longer ones."""
    first = bytes(range(64))
    points: dict[str, Seen] = {"a": [], "b": []}
    for number in range(40):
        at = START + number * MS
        longer = first + b"." * 100 if number == 0 else b"%064d" % number + b"." * (100 if number % 2 else 0)
        changed = first if number == 1 else b"%064d" % (1000 + number) + b"." * (112 if number % 2 else 12)
        points["a"].append((at, datagram(host(0), 40_000, longer)))
        if number:
            points["b"].append((at + 20 * US, datagram(host(0), 40_000, changed)))
    analysis = run(tmp_path, points)
    assert ("partial", None) not in fates(analysis)
    assert not np.isin(BASES.index("range"), analysis.trajectories.basis)


# --- segments of UDP packets --------------------------------------------------------------------------------


@pytest.mark.parametrize("snaplen", [0, 96])
def test_segments_that_fit_two_superpackets(tmp_path: Path, snaplen: int) -> None:
    """Where captures do not have the bytes that would tell, the segment went to one of them all the same."""
    whole: Seen = []
    parts: Seen = []
    for number in range(10):
        at, payload = START + number * MS, [b"%d-%d" % (number, part) + bytes(400) for part in range(3)]
        whole.append((at, datagram(host(0), 40_000, b"".join(payload), 500 + 7 * number)))
        parts += [
            (at + (20 + part) * US, datagram(host(0), 40_000, payload[part], 500 + 7 * number + part))
            for part in range(3)
        ]
    # Two at once, of which the second has the next ID; of both, a segment with ID 902 is seen last.
    at = START + 20 * MS
    for number in range(2):
        payload = [b"both %d-%d" % (number, part) + bytes(400) for part in range(3)]
        whole.append((at + number * US, datagram(host(0), 40_000, b"".join(payload), 900 + number)))
        parts += [
            (at + (20 + 2 * part + number) * US, datagram(host(0), 40_000, payload[part], 900 + number + part))
            for part in range(3)
            if number + part != 2 or number == 1
        ]
    files = {
        name: file_of([Record(when, data) for when, data in sorted(seen)], snaplen=snaplen)
        for name, seen in (("a", whole), ("b", parts))
    }
    analysis = analyzed(tmp_path, files, [{"name": "p", "points": ["a", "b"]}])
    begun = analysis.trajectories.seen[:, 0] >= 0
    fates_of = [FATES[fate] for fate in analysis.verdicts.fate[begun].tolist()]
    if snaplen:
        assert fates_of == ["delivered"] * 10 + ["ambiguous"] * 2
        assert analysis.trajectories.candidates[begun].tolist() == [1] * 10 + [2] * 2
    else:
        assert fates_of == ["delivered"] * 10 + ["partial", "delivered"]
