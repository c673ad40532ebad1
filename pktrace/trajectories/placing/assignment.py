"""Order-preserving assignment of sightings to packets: as many pairs as possible, with the smallest sum of differences.

Sorting is written out: numba's own would triple the time that the matcher `order` takes to compile.
"""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined

LOOK_AHEAD = 256  # packets or sightings that are searched for the nearest one
_SKIP_COST = np.int64(1 << 45)  # ns: above any difference within a threshold, 2^17 of them fit 63 bits
_LARGEST_TABLE = 1 << 25  # cells of the assignment table; beyond it, in order by nearest delay


@inlined
def sort(values, order):
    """Put `order` into the order of `values[order]`, stable: merge sort, bottom up."""
    size = len(order)
    other = np.empty(size, np.int64)
    width = 1
    while width < size:
        for low in range(0, size, 2 * width):
            middle = min(low + width, size)
            high = min(low + 2 * width, size)
            a = low
            b = middle
            for at in range(low, high):
                if a < middle and (b >= high or values[order[a]] <= values[order[b]]):
                    other[at] = order[a]
                    a += 1
                else:
                    other[at] = order[b]
                    b += 1
        for at in range(size):
            order[at] = other[at]
        width *= 2


@inlined
def assign(due, sent, penalty, arrived, earliest, latest, given):
    """Order-preserving assignment: given[j] becomes the packet of arrived[j], or -1.

    Minimal sum of |arrived - due| + penalty among the assignments with most pairs; pairs need arrived - sent within
    [earliest, latest] of the packet. Dynamic programming over both lists, each in order: of `due`, and of time.
    """
    rows = len(due)
    columns = len(arrived)
    for j in range(columns):
        given[j] = -1
    if rows * columns > _LARGEST_TABLE:
        _assign_nearest(due, sent, penalty, arrived, earliest, latest, given)
        return
    step = np.zeros((rows + 1, columns + 1), np.uint8)
    cost = np.zeros(columns + 1, np.int64)  # of the row above, overwritten from the left by this row's
    for j in range(columns + 1):
        cost[j] = j * _SKIP_COST
    for i in range(1, rows + 1):
        diagonal = cost[0]
        for j in range(1, columns + 1):
            best = cost[j]  # packet i - 1 did not arrive
            taken = 1
            if cost[j - 1] + _SKIP_COST < best:  # sighting j - 1 is of no packet before
                best = cost[j - 1] + _SKIP_COST
                taken = 2
            after = arrived[j - 1] - sent[i - 1]
            pair = diagonal + abs(arrived[j - 1] - due[i - 1]) + penalty[i - 1]
            if after >= earliest[i - 1] and after <= latest and pair <= best:
                best = pair
                taken = 3
            diagonal = cost[j]
            cost[j] = best
            step[i, j] = taken
    i = rows
    j = columns
    while i > 0 and j > 0:
        if step[i, j] == 3:
            given[j - 1] = i - 1
            i -= 1
            j -= 1
        elif step[i, j] == 2:
            j -= 1
        else:
            i -= 1


@inlined
def _assign_nearest(due, sent, penalty, arrived, earliest, latest, given):
    """The same in linear time, for long runs of equal packets: as many pairs, each sighting with the nearest packet
    that leaves enough for the others.

    The first packets that will do, one after the other, are as many pairs as there can be; so are the last ones, from
    the end on, for the same sightings; and so is whatever lies between, in order.
    """
    free = 0
    for j in range(len(arrived)):
        while free < len(sent) and arrived[j] - sent[free] > latest:
            free += 1
        if free < len(sent) and arrived[j] - sent[free] >= earliest[free]:
            given[j] = free
            free += 1
    last = np.empty(len(arrived), np.int64)
    free = np.int64(len(sent) - 1)
    for j in range(len(arrived) - 1, -1, -1):
        if given[j] >= 0:
            while free > given[j] and arrived[j] - sent[free] < earliest[free]:
                free -= 1
            last[j] = max(free, given[j])
            free = last[j] - 1
    free = np.int64(0)
    for j in range(len(arrived)):
        if given[j] >= 0:
            first = max(free, given[j])
            best = np.int64(-1)
            best_cost = np.int64(1) << np.int64(62)
            for i in range(first, min(first + LOOK_AHEAD, last[j]) + 1):
                after = arrived[j] - sent[i]
                cost = abs(arrived[j] - due[i]) + penalty[i]
                if after >= earliest[i] and after <= latest and cost < best_cost:
                    best = np.int64(i)
                    best_cost = cost
            given[j] = best
            free = best + 1 if best >= 0 else free
