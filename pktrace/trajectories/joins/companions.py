"""Companions: segments without payload, which distinguish a gateway that translates TCP numbers from a proxy.

A proxy that ends TCP sends the payloads of its client in segments of its own: each payload is unique, in order and
forward in time, and numbers may differ by a constant. Its ACKs are its own.

Rule: connections whose numbers differ are one if the segments without payload follow the same translation at both
points, nine of ten of either side and at least four; their options have the same length, and time stamps differ by a
constant; and on one clock they go forward in time. Between two clocks, options are required. Segments with payload
decide, too, if they have the same time stamps on both sides: a host's begin at random (RFC 7323 5.4), so a proxy's are
others.
Bound: a proxy that sends an ACK for each ACK of its client, behind it, with the same options and a clock in step to the
tick.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode.identity import among, found_among, groups_of, mixed
from pktrace.observations.payloads import Payloads
from pktrace.protocols import ACK, FIN, RST, SYN, TCP
from pktrace.trajectories.bounds import STAMP_NS
from pktrace.trajectories.fields import Fields
from pktrace.trajectories.flows import flow_of
from pktrace.trajectories.grouping import counted
from pktrace.trajectories.joins.translations import Translations

Array = np.ndarray[Any, Any]
_NEARLY_ALL, _FEWEST = 0.9, 4
_TIME_STAMPS = 8  # kind of the option (RFC 7323 3.2)


def companions_follow(
    rows: Fields,
    flow: Array,
    points: Array,
    times: Array,
    translations: Translations,
    payloads: Payloads,
    x: Array,
    y: Array,
    one_clock: bool,
) -> Array:
    """bool per pair of TCP segments at two points: the companions of their connections follow a translation.

    Args:
        rows: all observations; flow: uint64, points: int32, times: int64 per row; x, y: row numbers, all x at one point
        and all y at another; one_clock: times of these points can be compared.
    """
    found = np.zeros(len(x), bool)
    if not len(x) or not len(translations):
        return found
    a, b = int(points[x[0]]), int(points[y[0]])
    first, of_pair = groups_of(flow[x], flow[y])
    one, other = rows.at(x[first]), rows.at(y[first])
    here = np.append(flow[x[first]], flow_of(one, answering=True))
    there = np.append(flow[y[first]], flow_of(other, answering=True))
    number = np.tile(np.arange(len(first)), 2)
    answers = np.arange(len(number)) >= len(first)
    # A flow with two partners passed no translator.
    alone = (counted(here, here) == 1) & (counted(there, there) == 1)
    here, there, number, answers = here[alone], there[alone], number[alone], answers[alone]
    sent, sent_of = _empty(rows, flow, points, a, here)
    came, came_of = _empty(rows, flow, points, b, there)
    which, moved = translations.applied(rows.at(sent), times[sent], flow[sent], b)
    sent_keys = mixed(sent_of[which], moved["tcp_seq"], moved["tcp_ack"], moved["tcp_flags"] & (FIN | ACK))
    behind = rows.at(came)
    came_keys = mixed(came_of, behind["tcp_seq"], behind["tcp_ack"], behind["tcp_flags"] & (FIN | ACK))
    followed = np.zeros(len(sent), bool)
    followed[which[among(sent_keys, came_keys)]] = True
    led = among(came_keys, sent_keys)
    ok = np.ones(len(first), bool)
    for side, told in ((sent_of, followed), (came_of, led)):
        of_pair_here = number[side]
        many = np.bincount(of_pair_here, minlength=len(first))
        ok &= (many >= _FEWEST) & (np.bincount(of_pair_here, weights=told, minlength=len(first)) >= _NEARLY_ALL * many)
    # The first segment counts if several have equal numbers.
    once, _ = groups_of(sent_keys)
    place = found_among(sent_keys[once], came_keys)
    matched = place >= 0
    before, after = sent[which[once[matched]]], came[place[matched]]
    of_flow = sent_of[which[once[matched]]]
    alike = _alike(rows, payloads, before, after, of_flow, len(number), one_clock)
    if one_clock:
        later = np.where(answers[of_flow], times[before] - times[after], times[after] - times[before])
        alike &= _mostly(of_flow, later >= -STAMP_NS, len(number))
    ok &= np.bincount(number, weights=~alike, minlength=len(first)) == 0
    return np.asarray((ok | _keep_time_stamps(rows, payloads, x, y, of_pair, len(first)))[of_pair])


def _keep_time_stamps(rows: Fields, payloads: Payloads, x: Array, y: Array, of_pair: Array, count: int) -> Array:
    """bool per pair of connections: nearly all segments have the same time stamps on both sides."""
    (one, _), (other, _) = (payloads.options(rows.at(side)) for side in (x, y))
    stamps = [(_time_stamps(one, side), _time_stamps(other, side)) for side in (0, 1)]
    same = (stamps[0][0] == stamps[0][1]) & (stamps[1][0] == stamps[1][1]) & (stamps[0][0] != 0)
    return _mostly(of_pair, same, count)


def _empty(rows: Fields, flow: Array, points: Array, point: int, flows: Array) -> tuple[Array, Array]:
    """Segments without payload of some flows at a point, and the number of the flow of each."""
    at = np.flatnonzero(points == point)
    of_flow = found_among(flow[at], flows)
    at, of_flow = at[of_flow >= 0], of_flow[of_flow >= 0]
    fits = (rows["protocol"][at] == TCP) & (rows["payload_length"][at] == 0)
    fits &= rows["tcp_flags"][at] & (SYN | RST | ACK) == ACK
    return at[fits], of_flow[fits]


def _alike(
    rows: Fields, payloads: Payloads, before: Array, after: Array, of_flow: Array, flows: int, one_clock: bool
) -> Array:  # fmt: skip
    """bool per flow: its options are as long on both sides, and time stamps differ by a constant."""
    one, one_size = payloads.options(rows.at(before))
    other, other_size = payloads.options(rows.at(after))
    found = _mostly(of_flow, (one_size == other_size) & ((one_size > 0) | one_clock), flows)
    many = np.bincount(of_flow, minlength=flows)
    for side in (0, 1):
        moved = _time_stamps(other, side) - _time_stamps(one, side)
        groups, which = groups_of(of_flow, moved)
        commonest = np.zeros(flows)
        np.maximum.at(commonest, of_flow[groups], np.bincount(which, minlength=len(groups)))
        found &= commonest >= _NEARLY_ALL * many
    return found


def _mostly(of_flow: Array, holds: Array, flows: int) -> Array:
    """bool per flow: the condition holds for nearly all of its segments."""
    many = np.bincount(of_flow, minlength=flows)
    return np.asarray(np.bincount(of_flow, weights=holds, minlength=flows) >= _NEARLY_ALL * many)


def _time_stamps(options: Array, side: int) -> Array:
    """uint32 per line of options: the value (side 0) or the echo (1) of the time stamps option, 0 without one."""
    found = np.zeros(len(options), np.uint32)
    at = np.zeros(len(options), np.int64)
    line = np.arange(len(options))
    open_lines = np.ones(len(options), bool)
    for _ in range(options.shape[1]):
        kind = np.where(at < options.shape[1], options[line, np.minimum(at, options.shape[1] - 1)], 0)
        open_lines &= kind != 0
        size = np.where(kind == 1, 1, options[line, np.minimum(at + 1, options.shape[1] - 1)])
        open_lines &= (kind == 1) | (size >= 2)
        here = open_lines & (kind == _TIME_STAMPS) & (size == 10) & (at + 10 <= options.shape[1])
        chosen = np.flatnonzero(here)
        for byte in range(4):
            found[chosen] = (found[chosen] << np.uint32(8)) | options[chosen, at[chosen] + 2 + 4 * side + byte]
        open_lines &= ~here
        if not open_lines.any():
            break
        at = at + np.where(open_lines, size, 0)
    return found
