"""Assign the sightings of a point to packets of the same group, in order."""

from __future__ import annotations

import numpy as np

from pktrace.compiled import kernel
from pktrace.trajectories.placing.assignment import assign


@kernel
def pairs_in_order(groups, arrived, packet_groups, sent, earliest, latest):
    """Per sighting the number of its packet, -1 for none: as many as possible, and the nearest, without overtaking.

    Args:
        groups, arrived: of sightings, packet_groups, sent: of packets, each in order of group and time; earliest,
        latest: ns, the bounds of the time from a packet to its sighting.
    """
    given = np.full(len(groups), -1, np.int64)
    packet = 0
    first = 0
    while first < len(groups):
        last = first
        while last < len(groups) and groups[last] == groups[first]:
            last += 1
        while packet < len(packet_groups) and packet_groups[packet] < groups[first]:
            packet += 1
        end = packet
        while end < len(packet_groups) and packet_groups[end] == groups[first]:
            end += 1
        if end > packet:
            times = sent[packet:end].copy()
            found = np.empty(last - first, np.int64)
            early = np.full(end - packet, earliest, np.int64)
            assign(times, times, np.zeros(end - packet, np.int64), arrived[first:last].copy(), early, latest, found)
            for index in range(last - first):
                if found[index] >= 0:
                    given[first + index] = packet + found[index]
        packet = end
        first = last
    return given
