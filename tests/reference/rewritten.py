"""The rungs rewritten and modified: packets whose headers or payload changed on the way, learned flow by flow.

This is the rule that decisions/0006 begins with, from pairs of flows whose packets have equal remains. What goes beyond
it is not here: gateways, flows that answer known ones, crowds of flows that only differ in what the rewrite keeps. So
what is learned is not compared with the fast follower, but handed from it to this one (Taught).
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tests.reference.clocks import Clocks
from tests.reference.run import Run
from tests.reference.sightings import EARLY_NS, ICMP, ICMPV6, TCP, Key, Sighting, Trajectory

ENOUGH = 2  # agreeing packets, where IP IDs are equal and not 0
ENOUGH_ALONE = 4  # where the remains have to do without
DISAGREE = 10  # so many agree for one that does not
WHOLE = Fraction(8, 10)  # of a flow's packets must end for its addresses, ports or IP IDs to be rewritten
MOSTLY = Fraction(2, 10)  # of a flow's packets must end for it to be changed, where headers do not identify packets
MOST_STARTS = 8  # so many of the next starts with its remains may speak for an end


@dataclass(frozen=True)
class Open:
    """Ends, packets not seen further though their path goes on; starts, sightings behind the beginning of a path that
    nothing on it explains.
    """

    ends: list[Trajectory]
    starts: list[Sighting]


def open_ends(trajectories: Sequence[Trajectory], unplaced: Sequence[Sighting]) -> Open:
    """Ends and starts. What belongs to no packet begins where such bytes were seen first: each sighting there is a
    packet of its own, those at other points are the same packets further on.

    Args:
        unplaced: sightings that belong to no packet, in order of time.
    """
    ends = [packet for packet in trajectories if packet.last < packet.path.last]
    starts = [packet.sighting(packet.first) for packet in trajectories if packet.first > 0]
    earliest: dict[Key, Sighting] = {}
    for sighting in unplaced:
        if sighting.point == earliest.setdefault((sighting.part, *sighting.bytes_key), sighting).point:
            starts.append(sighting)
    return Open(ends, starts)


def numbers(s: Sighting) -> Key:
    """What neither a rewrite of the headers nor a change of the payload touches."""
    row = s.row
    protocol = ICMP if row["protocol"] == ICMPV6 else row["protocol"]
    icmp_type = row["icmp_type"]
    if row["protocol"] == ICMPV6:
        icmp_type = {128: 8, 129: 0}.get(icmp_type, icmp_type)  # an echo stays one (RFC 7915 4.2 and 5.2)
    names = ("tcp_seq", "tcp_ack", "tcp_flags", "icmp_code", "icmp_seq")
    return (
        protocol,
        icmp_type,
        *(row[name] for name in names),
        row["fragment_offset"] or 0,
        bool(row["more_fragments"]),
    )


def remains_of_rewrite(s: Sighting) -> Key:
    """Protocol, TCP numbers, flags and window or ICMP type and sequence, payload length and first payload bytes."""
    return (*numbers(s), s.row["_tcp_window"], s.row["payload_length"], s.content)


def remains_of_change(s: Sighting) -> Key:
    """Addresses, ports, IP ID and the numbers above."""
    return (*numbers(s), *s.flow, s.row["ip_id"])


def stays_on_its_link(s: Sighting) -> bool:
    """Link-local, also of multicast: no router forwards it (RFC 3927 7, RFC 4291 2.5.6 and 2.7, 5771 4, 2365 6.1)."""
    source, destination = (ipaddress.ip_address(s.row[name]) for name in ("source", "destination"))
    if destination.version == 6:
        near = destination.packed[0] == 0xFF and destination.packed[1] & 15 <= 3
    else:
        near = any(destination in ipaddress.ip_network(group) for group in ("224.0.0.0/24", "239.255.0.0/16"))
    return source.is_link_local or destination.is_link_local or near


@dataclass(frozen=True)
class Agreement:
    """A pair of flows: how many packets agree, and how many of them with equal IP IDs, with equal ones but 0; the
    point that shows both, if it is one and the same.
    """

    before: Key
    after: Key
    packets: int
    same_id: int
    by_id: int
    here: str | None = None

    @property
    def ids_kept(self) -> bool:
        """Whether what makes one flow of the other leaves IP IDs alone: at most one in ten says otherwise."""
        return self.same_id * (DISAGREE + 1) >= self.packets * DISAGREE


class Comparison:
    """Ends beside starts that have the same remains."""

    def __init__(self, found: Open, run: Run, clocks: Clocks, remains: Callable[[Sighting], Key]) -> None:
        self.run, self.clocks, self.remains = run, clocks, remains
        starts: dict[Key, list[Sighting]] = {}
        for start in sorted(found.starts, key=lambda s: (s.time, s.number)):
            starts.setdefault(remains(start), []).append(start)
        self.fitting: dict[Key, list[tuple[Trajectory, Sighting]]] = {}
        # Ends that some start fits.
        self.doubtful: set[Trajectory] = set()
        for end in found.ends:
            key = remains(end.sighting(end.last))
            later = self.not_before(end, starts.get(key, []))
            some = [(end, start) for start in later[:MOST_STARTS] if self.fits(end, start)]
            self.fitting.setdefault(key, []).extend(some)
            if some or any(self.fits(end, start) for start in later):
                self.doubtful.add(end)

    def not_before(self, end: Trajectory, starts: Sequence[Sighting]) -> Sequence[Sighting]:
        """The starts from the end's time on; all of them where clocks cannot be compared."""
        if not self.clocks.all_known:
            return starts
        left = end.sighting(end.last).time
        return [s for s in starts if s.time >= left - EARLY_NS]

    def fits(self, end: Trajectory, start: Sighting) -> bool:
        """Whether the end may have become the start: further along its path, within the loss threshold; with other
        headers also at the very point where it ends, which may show both sides of what rewrites it.
        """
        last = end.sighting(end.last)
        places = [p for p, point in enumerate(end.path.points) if point == start.point]
        here = self.remains is not remains_of_change and start.flow != last.flow
        if not places or max(places) < end.last + (not here):
            return False
        after = self.clocks.between(last, start)
        if after is not None and not -EARLY_NS <= after <= self.run.threshold_ns:
            return False
        if self.remains is remains_of_change and last.content == start.content:
            return False  # with another length it is a part of the packet, and a matter of ranges
        if stays_on_its_link(last) or stays_on_its_link(start):
            return False
        return last.answering_flow != start.flow  # what echoes a packet back answers it

    def agreements(self) -> list[Agreement]:
        """Evidence per pair of flows, from remains that occur in one flow before and in one behind.

        Where several packets have these remains, as many of them agree as there are ends and starts that fit some.
        """
        packets: Counter[tuple[Key, Key]] = Counter()
        same_id: Counter[tuple[Key, Key]] = Counter()
        by_id: Counter[tuple[Key, Key]] = Counter()
        here: dict[tuple[Key, Key], str] = {}
        for pairs in filter(None, self.fitting.values()):
            flows = {(end.sighting(end.last).flow, start.flow) for end, start in pairs}
            if len(flows) > 1:
                continue
            (pair,) = flows
            agree = min(len({end for end, _ in pairs}), len({start for _, start in pairs}))
            same = [(e, s) for e, s in pairs if e.sighting(e.last).row["ip_id"] == s.row["ip_id"]]
            told = [(e, s) for e, s in same if s.ip_id]
            packets[pair] += agree
            for end, start in pairs:
                if start.point == end.sighting(end.last).point:
                    here[pair] = start.point
            same_id[pair] += min(agree, len({e for e, _ in same}), len({s for _, s in same}))
            by_id[pair] += min(agree, len({e for e, _ in told}), len({s for _, s in told}))
        return [Agreement(*pair, packets[pair], same_id[pair], by_id[pair], here.get(pair)) for pair in packets]


def accepted(agreements: Sequence[Agreement], sure: Callable[[Agreement], bool]) -> list[Agreement]:
    """Which pairs of flows are one: enough packets agree, and few of either flow agree with another."""
    found = []
    for one in agreements:
        clear = all(
            one.packets * (DISAGREE + 1) >= sum(a.packets for a in agreements if same(a)) * DISAGREE
            for same in (lambda a, b=one.before: a.before == b, lambda a, b=one.after: a.after == b)  # type: ignore[misc]
        )
        if clear and (one.by_id >= ENOUGH or one.packets >= ENOUGH_ALONE or sure(one)):
            found.append(one)
    return found


class Keys:
    """The keys by which sightings are grouped: their bytes, until flows turn out to be rewritten."""

    def __init__(self, run: Run, sightings: Sequence[Sighting], first_keys: dict[Sighting, Key]) -> None:
        self.run, self.sightings = run, sightings
        self.keys = {s: (s.part, *first_keys[s]) for s in sightings}
        self.began_as: dict[Key, Key] = {}  # the flow before, per flow that is known to be rewritten or changed
        self.without_id: set[Key] = set()
        self.by_header: set[Key] = set()
        self.open: set[Sighting] = set()
        # Ends that fit a start of which it cannot be shown that they became it.
        self.doubtful: set[Trajectory] = set()
        # Flows and points where other flows became them: these points show packets as they come and as they leave.
        self.behind_here: set[tuple[Key, str]] = set()

    def second_forms(self) -> dict[Sighting, Sighting]:
        """Sightings of packets as they leave a point that saw them come, and how they came: the last with their key
        within the loss threshold, or one that was stamped a little later. They are not followed.
        """
        found = {}
        for second in self.sightings:
            if (second.flow, second.point) not in self.behind_here:
                continue
            firsts = [
                s
                for s in self.sightings
                if s.point == second.point
                and (s.flow, s.point) not in self.behind_here
                and self.keys[s] == self.keys[second]
            ]
            before = [s for s in firsts if 0 <= second.ts_ns - s.ts_ns <= self.run.threshold_ns]
            behind = [s for s in firsts if 0 < s.ts_ns - second.ts_ns <= EARLY_NS]
            if before:
                found[second] = max(before, key=lambda s: (s.ts_ns, s.number))
            elif behind:
                found[second] = min(behind, key=lambda s: (s.ts_ns, s.number))
        return found

    def first_flow(self, flow: Key) -> Key:
        """The flow that a flow began as."""
        while self.began_as.get(flow, flow) != flow:
            flow = self.began_as[flow]
        return flow

    def flow_began_as(self, sighting: Sighting) -> object:
        """The flow that the sighting's flow began as."""
        return self.first_flow(sighting.flow)

    def share_of_ends(self, found: Open, flow: Key) -> Fraction:
        """Which share of the packets of a flow ends, of those that the points saw where some end."""
        ends = [end.sighting(end.last) for end in found.ends if end.sighting(end.last).flow == flow]
        points = {s.point for s in ends}
        seen = sum(s.flow == flow and s.point in points for s in self.sightings)
        return Fraction(len(ends) * len(points), seen)

    def learn_rewritten(self, found: Open, clocks: Clocks) -> bool:
        """Flows whose addresses, ports, IP IDs or options are rewritten; returns whether keys changed.

        What replaces addresses, ports or IP IDs does so in all packets of a flow; options change in some.
        """
        comparison = Comparison(found, self.run, clocks, remains_of_rewrite)
        self.doubtful = comparison.doubtful
        agreements = [
            a
            for a in comparison.agreements()
            if (a.before == a.after and a.ids_kept) or self.share_of_ends(found, a.before) >= WHOLE
        ]
        found_ones = accepted(agreements, lambda a: a.before[0] == TCP)
        self.behind_here |= {(a.after, a.here) for a in found_ones if a.here is not None}
        return self.take(found_ones, by_header=False)

    def learn_changed(self, found: Open, clocks: Clocks, open_sightings: set[Sighting]) -> bool:
        """Flows whose payload is changed; returns whether keys changed.

        Only packets that end or begin somewhere get new keys, for others of the flow may pass unchanged.
        """
        self.open |= open_sightings
        comparison = Comparison(found, self.run, clocks, remains_of_change)
        # Where neither IP IDs nor numbers tell packets apart, any two of a flow fit: a good part of it has to end.
        weak = {
            s.flow
            for s in (end.sighting(end.last) for end in found.ends)
            if not s.ip_id and s.row["protocol"] != TCP and s.row["icmp_id"] is None
        }
        agreements = [
            a for a in comparison.agreements() if a.before not in weak or self.share_of_ends(found, a.before) >= MOSTLY
        ]
        if self.take(accepted(agreements, lambda a: a.before[0] == TCP and a.same_id > 0), by_header=True):
            return True
        flows = {a.before for a in agreements}
        self.doubtful |= {end for end in comparison.doubtful if end.sighting(end.last).flow in flows}
        return False

    def take(self, agreements: Sequence[Agreement], *, by_header: bool) -> bool:
        """Remember the pairs of flows that are one, and give their packets new keys; returns whether any is new."""
        news = False
        for one in agreements:
            before = self.first_flow(one.before)
            if self.first_flow(one.after) not in (before, one.after):
                continue  # it is another flow's already
            known = self.began_as.get(one.after) == before
            known = known and (one.ids_kept or before in self.without_id)
            known = known and (not by_header or before in self.by_header)
            if known or (by_header and not one.ids_kept):
                continue
            news = True
            if self.first_flow(one.after) in self.without_id:
                self.without_id.add(before)  # what is dropped further on is dropped of the whole chain
            self.began_as[before] = before
            self.began_as[one.after] = before
            if not one.ids_kept:
                self.without_id.add(before)
            if by_header:
                self.by_header.add(before)
        if news:
            self.assign()
        return news

    def assign(self) -> None:
        """New keys for the packets of the flows that are known: the first of the flows and the remains, with the IP ID
        where it is kept.
        """
        for sighting in self.sightings:
            if sighting.flow not in self.began_as:
                continue
            began = self.first_flow(sighting.flow)
            if began in self.by_header and sighting not in self.open:
                continue
            remains = numbers(sighting) if began in self.by_header else remains_of_rewrite(sighting)
            ip_id = None if began in self.without_id else sighting.row["ip_id"]
            self.keys[sighting] = (sighting.part, "flow", *began, *remains, ip_id)


@dataclass(frozen=True)
class Taught:
    """Keys that another follower has learned: by point and frame the key, and what the flow began as; points and
    frames of packets in a flow that other flows become at that very point.

    None where it has learned nothing. With them everything but learning can be compared.
    """

    keys: dict[tuple[str, int], tuple[int, int]] | None
    behind_here: frozenset[tuple[str, int]] = frozenset()

    def of(self, run: Run, sightings: Sequence[Sighting], first_keys: dict[Sighting, Key]) -> Keys:
        """The same as keys that learn nothing more."""
        return _TaughtKeys(run, sightings, first_keys, self)


class _TaughtKeys(Keys):
    def __init__(
        self, run: Run, sightings: Sequence[Sighting], first_keys: dict[Sighting, Key], taught: Taught
    ) -> None:
        super().__init__(run, sightings, first_keys)
        self._told = taught.keys
        if self._told is not None:
            self.keys = {s: (self._told[s.point, s.row["frame"]][0],) for s in sightings}
            self.began_as = {("something",): ("something",)}
        self.behind_here = {(s.flow, s.point) for s in sightings if (s.point, s.row["frame"]) in taught.behind_here}

    def flow_began_as(self, sighting: Sighting) -> object:
        return sighting.flow if self._told is None else self._told[sighting.point, sighting.row["frame"]][1]

    def learn_rewritten(self, found: Open, clocks: Clocks) -> bool:
        return False

    def learn_changed(self, found: Open, clocks: Clocks, open_sightings: set[Sighting]) -> bool:
        return False
