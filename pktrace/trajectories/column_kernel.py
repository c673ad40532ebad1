"""The kernel that reads the columns for following out of each row in one pass."""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined, kernel
from pktrace.decode import rows as field
from pktrace.protocols import ICMP, ICMPV6
from pktrace.trajectories.paths import (
    DESTINATION,
    ICMP_TYPE,
    NO_PATH,
    NOT_FOLLOWED,
    PROTOCOL,
    SOURCE,
    SPORT,
    TUNNEL_ID,
    VLAN,
)

_WANTED, _ASKED = field.HAS_IP | field.HAS_TIME, field.HAS_IP | field.HAS_TIME | field.NO_DIRECTION


@inlined
def _fits(row, tests, at):
    """True if a row passes one test. A test has a kind, then a version and masked halves, or the ends of a range.

    Single numbers are read from the table, because a view of one line would take longer than the test.
    """
    kind, low, high = tests[at, 0], tests[at, 2], tests[at, 3]
    if kind == SOURCE or kind == DESTINATION:
        if row["ip_version"] != tests[at, 1]:
            return False
        upper, lower = row["destination_high"], row["destination_low"]
        if kind == SOURCE:
            upper, lower = row["source_high"], row["source_low"]
        return lower & tests[at, 5] == high and upper & tests[at, 4] == low
    if kind == PROTOCOL:
        return low <= row["protocol"] <= high
    if kind == ICMP_TYPE:
        icmp = row["protocol"] == (ICMPV6 if row["ip_version"] == 6 else ICMP) and row["has"] & field.HAS_ICMP != 0
        return icmp and low <= row["icmp_type"] <= high
    if kind == VLAN:
        return row["has"] & field.HAS_VLAN != 0 and low <= row["vlan"] <= high
    if kind == TUNNEL_ID:
        return row["has"] & field.HAS_TUNNEL_ID != 0 and low <= row["tunnel_id"] <= high
    if not row["has"] & field.HAS_PORTS:
        return False
    value = row["sport"] if kind == SPORT else row["dport"]
    return low <= value <= high


@kernel
def read_columns(rows, first, last, asked, points, times, identities, paths):
    """Fill the columns of rows [first, last).

    Args:
        asked: of `paths.path_tests`; points: int32, times: int64, identities: uint64, paths: int16 per row, filled.

    Returns:
        The bits of `has` that any row has.
    """
    candidates, conditions, alternatives, tests = asked
    found = np.uint32(0)
    for number in range(first, last):
        row = rows[number]
        has, point = row["has"], row["point"]
        found |= has
        points[number], times[number], identities[number] = point, row["ts_ns"], row["identity"]
        if has & _ASKED != _WANTED:
            paths[number] = NOT_FOLLOWED
            continue
        paths[number] = NO_PATH
        for place in range(candidates.shape[1]):
            path = candidates[point, place]
            if path < 0:
                break
            fits = True
            for condition in range(conditions[path], conditions[path + 1]):
                fits = False
                for test in range(alternatives[condition], alternatives[condition + 1]):
                    if _fits(row, tests, test):
                        fits = True
                        break
                if not fits:
                    break
            if fits:
                paths[number] = path
                break
    return found
