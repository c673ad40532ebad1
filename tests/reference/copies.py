"""Packets that may be copies of another one: the first point of their path saw the same bytes just before."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tests.reference.sightings import Key, Trajectory

CLOSE_NS = 1_000_000  # what is seen again within it, with one IP ID, no sender has sent twice (RFC 6864 4.2)
OFTEN = 8  # sightings with the same bytes: an IP ID that comes with them more often is the same in all packets
LEAST_DOUBLED = 8  # different packets that a point has to show twice before it is taken for one that shows all twice


def maybe_copies(trajectories: Sequence[Trajectory]) -> set[Trajectory]:
    """Packets that the first point of their path saw close behind one with the same bytes, which may be themselves.

    So it is where the IP ID is not 0 and comes with these bytes a few times at most, and at points that show most of
    their different packets twice. One of such packets is certain: that which was seen furthest, the first of several.
    """
    equal: dict[tuple[str, Key], list[Trajectory]] = {}
    begun: dict[str, int] = {}
    for packet in trajectories:
        if packet.first > 0:
            continue
        first = packet.sighting(0)
        begun[first.point] = begun.get(first.point, 0) + 1
        if packet.candidates > 1:
            equal.setdefault((first.point, first.bytes_key), []).append(packet)
    clusters: list[tuple[bool, list[Trajectory]]] = []
    doubled: dict[str, int] = {}
    for (point, _), packets in equal.items():
        packets.sort(key=lambda packet: (packet.sighting(0).ts_ns, packet.sighting(0).number))
        begun[point] -= len(packets) - 1  # different ones are counted
        mine = [[packets[0]]]
        for before, packet in itertools.pairwise(packets):
            if packet.sighting(0).ts_ns - before.sighting(0).ts_ns > CLOSE_NS:
                mine.append([])
            mine[-1].append(packet)
        # What is sent very often comes close together in any number.
        mostly_pairs = 2 * sum(len(cluster) == 2 for cluster in mine) > len(mine)
        doubled[point] = doubled.get(point, 0) + mostly_pairs
        clusters += [(len(packets) <= OFTEN, cluster) for cluster in mine]
    found = set()
    for few, cluster in clusters:
        first = cluster[0].sighting(0)
        twice = doubled[first.point] >= LEAST_DOUBLED and 2 * doubled[first.point] >= begun[first.point]
        if (first.ip_id and few) or twice:
            furthest = max(packet.last for packet in cluster)
            certain = next(packet for packet in cluster if packet.last == furthest)
            found |= set(cluster) - {certain}
    return found
