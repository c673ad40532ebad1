"""What random runs found in the fast follower, as small cases: mended, and to stay so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pktrace.analysis.analysis import Analysis, analyze_observations
from pktrace.run import model
from pktrace.schema import BASES, FATES, RULE_VERDICTS
from pktrace.trajectories.reassembly.byte_ranges_kernel import MOST_PARTS
from tests.reference.random_runs import RandomRun
from tests.reference.random_traffic import Frame, Options, fragment
from tests.reference.test_follow_random import disagreements
from tests.reference.test_open_findings import Seen, datagram, made, segment


def fates(analysis: Analysis) -> list[str]:
    return [FATES[fate] for fate in analysis.verdicts.fate]


def analyzed(run: RandomRun) -> Analysis:
    assert disagreements(run) == ""
    return analyze_observations(run.observations())


def test_a_byte_of_a_merged_frame_is_of_one_packet() -> None:
    """Three segments; the second is sent again; all that arrives is one frame of three: one of the two is lost.

    The frame's bytes were given to both, and those of the first segment to none, for the frame seemed given away. The
    one whose IP ID counts on from the frame's arrived in it.
    """
    seen: list[Seen] = [
        ("p0", 0, segment(1000, 1, size=100)),
        ("p0", 10, segment(1100, 2, size=100)),
        ("p0", 20, segment(1200, 3, size=100)),
        ("p0", 30, segment(1100, 4, size=100)),
        ("p1", 60, segment(1000, 1, size=300)),
    ]
    assert fates(analyzed(made(Options(points=2), seen))) == ["delivered", "delivered", "delivered", "lost"]


@pytest.mark.parametrize("frame", [segment(1000, 5, size=300), replace(datagram(0, 5), payload=bytes(280))])
@pytest.mark.parametrize("lost", range(4))
def test_a_lost_fragment_is_missed(frame: Frame, lost: int) -> None:
    """Whichever it is, and if it is as long as the transport header.

    The first fragment of a TCP packet counted in its sequence space, too, and stood for a lost one; and as many bytes
    as the payload has were taken for all of the datagram.
    """
    size = 4 * 96 - 76 if frame.seq is not None else 4 * 96 - 88
    frame = replace(frame, payload=bytes(size - frame.header))
    parts = [part for _, part in fragment([(0, frame)])]
    assert len(parts) == 4
    seen: list[Seen] = [("p0", 0, frame), ("p0", 500, replace(frame, ip_id=6)), ("p1", 550, replace(frame, ip_id=6))]
    seen += [("p1", 50 + number, part) for number, part in enumerate(parts) if number != lost]
    assert fates(analyzed(made(Options(points=2), seen))) == ["partial", "delivered"]
    seen.append(("p1", 60, parts[lost]))
    assert fates(analyzed(made(Options(points=2), seen))) == ["delivered", "delivered"]


def test_a_whole_packet_is_no_part_of_a_whole_one() -> None:
    """Though there are fragments with their identification."""
    whole, shorter = replace(datagram(0, 5), payload=b"a" * 200), replace(datagram(0, 5), payload=b"b" * 60)
    parts = [part for _, part in fragment([(0, replace(datagram(0, 5), payload=b"c" * 150))])]
    seen: list[Seen] = [("p0", 0, whole), ("p1", 50, shorter)]
    seen += [("p0", 200 + number, part) for number, part in enumerate(parts)]
    found = analyzed(made(Options(points=2), seen))
    assert not len(found.trajectories.ranges)


def test_what_goes_on_as_it_was_is_not_rewritten() -> None:
    """Behind the last point that saw something, all packets end; a few of them ended before it.

    Others begin there, on a way of their own, with the same payload and some of the same IP IDs. Of all ends in the
    run, there were enough to take these flows for one.
    """
    seen: list[Seen] = []
    for number in range(12):
        frame = datagram(0, 30 + number)
        seen.append(("p0", 1000 * number, frame))
        if number % 3:
            seen.append(("p1", 1000 * number + 50, frame))
        else:
            stranger = replace(datagram(0, 30 + number), source="198.51.100.7", destination="198.51.100.8")
            seen.append(("p1", 1000 * number + 60, stranger))
    found = analyzed(made(Options(points=3), seen))
    assert "rewritten" not in {BASES[code] for code in found.trajectories.basis}
    assert len(found.trajectories) == 16


def test_other_ip_ids_of_the_same_flow() -> None:
    """Nothing but IP IDs is rewritten: what goes on is that flow, and no sign of packets that were not rewritten."""
    seen: list[Seen] = []
    for number in range(12):
        frame = datagram(number, 30 + number)
        seen.append(("p0", 1000 * number, frame))
        if number != 5:
            seen.append(("p1", 1000 * number + 50, replace(frame, ip_id=7000 + number)))
            seen.append(("p2", 1000 * number + 100, replace(frame, ip_id=7000 + number)))
    found = analyzed(made(Options(points=3), seen))
    assert fates(found) == [*["delivered"] * 5, "lost", *["delivered"] * 6]


def test_an_icmp_error_is_no_part_of_a_ping() -> None:
    """It is whole, and has no identifier; it shares IP ID and addresses with a ping and with a ping in fragments.

    It asked which of these it was part of, was put to the one that was lost, and that became `ambiguous`.
    """
    ping = replace(datagram(0, 7), protocol=1, sport=None, dport=None, icmp_type=8, icmp_id=5, icmp_seq=1)
    longer = replace(ping, icmp_id=6, payload=b"p" * 280)
    error = replace(ping, icmp_type=3, icmp_id=None, icmp_seq=None, payload=b"e" * 40)
    seen: list[Seen] = [("p0", 0, ping), ("p0", 1000, longer), ("p1", 1900, error)]
    seen += [("p1", 1050 + number, part) for number, (_, part) in enumerate(fragment([(0, longer)]))]
    assert fates(analyzed(made(Options(points=2), seen))) == ["lost", "delivered", "undetermined"]


def test_points_visited_twice_contradict_no_clock() -> None:
    """Packets lost before they pass a point again were seen there only before the points between."""
    seen: list[Seen] = []
    for number in range(4):
        frame = datagram(number, 10 + number)
        seen += [("p0", 5000 * number, frame), ("p1", 5000 * number + 2000, frame)]
    found = analyzed(made(Options(points=2, shape="twice"), seen))
    assert found.trajectories.clocks.contradictions == ()
    assert fates(found) == ["lost"] * 4


def test_what_may_have_gone_on_was_not_dropped_for_certain() -> None:
    """A packet that its rule drops, and that fits what begins behind the filter, may have been let through."""
    seen: list[Seen] = [("p0", 0, datagram()), ("p1", 50, datagram(destination="10.77.0.9"))]
    run = made(Options(points=2), seen)
    rule = model.Rule("drop-all", 0, model.Condition(dports=((500, 500),)), "drop")
    found = analyze_observations(replace(run.observations(), run=replace(run.fast_run, rules=(rule,))))
    assert fates(found)[0] == "ambiguous"
    assert RULE_VERDICTS[found.verdicts.rule_verdict[0]] == "undetermined"


def test_rewritten_ip_ids_are_compared_packet_by_packet() -> None:
    """Two equal datagrams with IP IDs of their own, which the rewrite keeps; another one is lost before it."""
    seen: list[Seen] = [("p0", 100 * number, datagram(0, ip_id)) for number, ip_id in enumerate((7, 8, 9))]
    seen += [("p1", 100 * at + 50, datagram(0, ip_id, destination="10.77.0.9")) for at, ip_id in ((1, 8), (2, 9))]
    found = analyzed(made(Options(points=2), seen))
    assert fates(found)[1:] == ["delivered", "delivered"]
    assert found.trajectories.candidates.tolist() == [1, 1, 1]


def test_hosts_that_share_an_address_and_an_ip_id() -> None:
    """Two hosts behind one gateway send datagrams of one IP ID, 1 ms apart; they become fragments there.

    All but the first fragments were put to the flow of the first datagram with this identification of all the run, and
    the other's called lost where they were translated. The room in each tells them apart, also where a first fragment
    was lost later on.
    """
    hosts = [replace(datagram(0, 7), source=f"10.77.0.{number}", payload=bytes([number]) * 280) for number in (1, 2)]
    seen: list[Seen] = []
    for number, frame in enumerate(hosts):
        seen.append(("p0", 1000 * number, frame))
        outside = replace(frame, source="203.0.113.9", sport=20_000 + number)
        for later, part in enumerate(parts := [part for _, part in fragment([(0, outside)])]):
            seen.append(("p1", 1000 * number + 50 + later, part))
            if (number, later) != (1, 0):
                seen.append(("p2", 1000 * number + 100 + later, part))
        assert len(parts) == 3
    for number in range(8):  # of which it is learned who is who
        frame = replace(hosts[number % 2], ip_id=20 + number, payload=b"")
        outside = replace(frame, source="203.0.113.9", sport=20_000 + number % 2)
        seen += [("p0", 5000 + 500 * number, frame), ("p1", 5100 + 500 * number, outside)]
        seen.append(("p2", 5200 + 500 * number, outside))
    found = analyzed(made(Options(points=3), seen))
    assert fates(found) == ["delivered", "partial", *["delivered"] * 8]


def test_what_is_sent_again_soon_takes_no_earlier_segments() -> None:
    """A superpacket without IP IDs, sent again 0.6 ms later: its segments were seen before that.

    Stamps may be taken late, by 1 ms: so the second one was taken for the sender of the first one's segments.
    """
    seen: list[Seen] = []
    for at in (0, 600):
        whole = replace(segment(1000, 0, size=300), ip_id=None, source="2001:db8::1", destination="fd77::1")
        seen.append(("p0", at, whole))
        for number in range(3):
            part = replace(whole, seq=1000 + 100 * number, payload=whole.payload[100 * number : 100 * number + 100])
            seen.append(("p1", at + 50 + number, part))
    found = analyzed(made(Options(points=2), seen))
    trajectories = found.trajectories
    assert fates(found) == ["delivered", "delivered"]
    assert (trajectories.times[:, 1] - trajectories.times[:, 0]).tolist() == [50_000, 50_000]


@pytest.mark.parametrize("together", [False, True])
def test_whole_ipv6_packets_have_no_identification(together: bool) -> None:
    """Datagrams that become fragments, or are put together: what they begin with tells which is which."""
    sender = replace(datagram(), source="2001:db8::1", destination="fd77::1", ip_id=None)
    seen: list[Seen] = []
    for number in range(4):
        whole = replace(sender, payload=bytes([number]) * 280, origin=number)
        parts = [part for _, part in fragment([(0, whole)])]
        points = ("p1", "p0") if together else ("p0", "p1")
        wait = (50, 0) if together else (0, 50)
        seen.append((points[0], 1000 * number + wait[0], whole))
        seen += [
            (points[1], 1000 * number + wait[1] + later, replace(part, ip_id=70 + number))
            for later, part in enumerate(parts)
            if together or (number, later) != (3, 1)
        ]
    expected = ["delivered"] * 12 if together else [*["delivered"] * 3, "partial"]
    assert fates(analyzed(made(Options(points=2), seen))) == expected


def test_a_segment_of_another_length_is_another_segment() -> None:
    """An acknowledgment is lost, and data with its numbers were missed by the first point; no IP IDs tell them apart.

    The data were taken for the acknowledgment, with another payload, and nothing for lost.
    """
    seen: list[Seen] = []
    for number in range(12):
        frame = replace(segment(1000, 0, size=0), ack=1000 + number)
        seen.append(("p0", 1000 * number, frame))
        seen.append(("p1", 1000 * number + 50, frame if number != 7 else replace(frame, payload=b"d" * 100)))
    found = analyzed(made(Options(points=2), seen))
    assert sorted(fates(found)) == [*["delivered"] * 11, "lost", "undetermined"]


def test_fragments_of_a_protocol_without_ports() -> None:
    """ESP behind a gateway, where datagrams become fragments: all of these show their flow, which is addresses.

    They were of a datagram of the addresses behind the gateway, and what was sent was called lost.
    """
    sender = replace(datagram(), protocol=50, sport=None, dport=None)
    seen: list[Seen] = []
    for number in range(12):
        size = 40 if number < 6 else 280
        frame = replace(sender, ip_id=100 + number, payload=bytes([number]) * size)
        outside = replace(frame, source="203.0.113.9")
        seen.append(("p0", 1000 * number, frame))
        for later, (_, part) in enumerate(fragment([(0, outside)])):
            if (number, later) != (11, 2):
                seen.append(("p1", 1000 * number + 50 + later, part))
    assert fates(analyzed(made(Options(points=2), seen))) == ["delivered"] * 11 + ["partial"]


def test_an_ip_id_that_another_flow_used_long_ago() -> None:
    """A counter wraps: fragments are of the flow whose first fragment came with them, not of the first in the run."""
    hosts = [replace(datagram(0, 7), sport=4000 + number, payload=bytes([number]) * 280) for number in (1, 2)]
    seen: list[Seen] = []
    for number, frame in enumerate(hosts):
        seen.append(("p0", 3_000_000 * number, frame))
        for later, (_, part) in enumerate(fragment([(0, frame)])):
            seen.append(("p1", 3_000_000 * number + 50 + later, part))
    assert fates(analyzed(made(Options(points=2), seen))) == ["delivered", "delivered"]


def test_a_packet_in_more_parts_than_any_network_makes() -> None:
    """Every part was compared with all that came before it; now with a few thousand, and the rest is not judged."""
    many = MOST_PARTS + 10
    whole = replace(segment(1000, 5, size=300), payload=bytes(many))
    seen: list[Seen] = [("p0", 0, whole)]
    seen += [("p1", 50 + n, replace(whole, payload=b"\0", seq=1000 + n, ip_id=6 + n)) for n in range(many)]
    assert fates(analyze_observations(made(Options(points=2), seen).observations()))[0] == "ambiguous"
