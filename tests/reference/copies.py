"""Packets that may be copies of another one: the first point of their path saw the same bytes just before."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.reference.sightings import Key, Trajectory

CLOSE_NS = 1_000_000  # what is seen again within it, with one IP ID, no sender has sent twice (RFC 6864 4.2)
OFTEN = 8  # sightings with the same bytes: an IP ID that comes with them more often is the same in all packets
LEAST_DOUBLED = 8  # different packets that a point has to show twice before it is taken for one that shows all twice


def maybe_copies(trajectories: Sequence[Trajectory]) -> set[Trajectory]:
    """Packets that the first point of their path saw close behind one with the same bytes, which may be themselves.

    So it is where the IP ID is not 0 and comes with these bytes a few times at most, and at points that show most of
    their different packets twice, or most of those from one host to another. One of such packets is certain: that which
    was seen furthest, the first of several.
    """
    equal: dict[tuple[str, Key], list[Trajectory]] = {}
    begun: Counter[tuple[Any, ...]] = Counter()  # by point, and by point and hosts
    for packet in trajectories:
        if packet.first > 0:
            continue
        first = packet.sighting(0)
        begun.update([(first.point,), (first.point, *hosts(packet))])
        if packet.candidates > 1:
            equal.setdefault((first.point, first.bytes_key), []).append(packet)
    clusters: list[tuple[bool, list[Trajectory]]] = []
    doubled: Counter[tuple[Any, ...]] = Counter()
    for (point, _), packets in equal.items():
        packets.sort(key=lambda packet: (packet.sighting(0).ts_ns, packet.sighting(0).number))
        for name in ((point,), (point, *hosts(packets[0]))):
            begun[name] -= len(packets) - 1  # different ones are counted
        mine = [[packets[0]]]
        for before, packet in itertools.pairwise(packets):
            if packet.sighting(0).ts_ns - before.sighting(0).ts_ns > CLOSE_NS:
                mine.append([])
            mine[-1].append(packet)
        # What is sent very often comes close together in any number.
        mostly_pairs = 2 * sum(len(cluster) == 2 for cluster in mine) > len(mine)
        for name in ((point,), (point, *hosts(packets[0]))):
            doubled[name] += mostly_pairs
        clusters += [(len(packets) <= OFTEN, cluster) for cluster in mine]
    found = set()
    for few, cluster in clusters:
        first = cluster[0].sighting(0)
        names = (first.point,), (first.point, *hosts(cluster[0]))
        twice = any(doubled[name] >= LEAST_DOUBLED and 2 * doubled[name] >= begun[name] for name in names)
        if (first.ip_id and few) or twice:
            furthest = max(packet.last for packet in cluster)
            certain = next(packet for packet in cluster if packet.last == furthest)
            found |= set(cluster) - {certain}
    return found


def hosts(packet: Trajectory) -> tuple[Any, ...]:
    """Protocol, source and destination, as the first point of the path saw them."""
    row = packet.sighting(0).row
    return row["protocol"], row["source"], row["destination"]
