"""TCP flows whose sequence or acknowledgment numbers are translated on the way: SYN proxies, random initial numbers.

Rule: what ends and begins in one flow with equal IP ID, flags, payload length and first bytes is compared by how far
its numbers are apart. A translation adds the same to all sequence numbers of a flow, and the same to all its
acknowledgment numbers, modulo 2^32. A flow is renumbered at a stage where one such pair of differences, not both 0, is
that of

- two packets with IP IDs other than 0, or, without IP IDs, eight, and most of the flow ends there;
- nearly all ends that fit a start (all but one in ten), of which at most one in ten fits with other differences, too;
- at least half of the flow's ends at the stage.

The flow that answers is renumbered the other way round. Numbers less what was added are part of the keys then.
Bound: a false translation needs two packets of one flow with the same IP ID and bytes that are as far apart, to the
number, as two others, and hardly any others; a false match an equal number besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pktrace.decode.identity import group_numbers, mixed
from pktrace.run.model import Run
from pktrace.trajectories.agreement import DISAGREE, Open, Pairs
from pktrace.trajectories.remains import flow_of

Array = np.ndarray[Any, Any]
Shift = tuple[int, int]  # what was added to sequence and acknowledgment numbers
_TCP, _SYN, _ACK = 6, 2, 16
_ENOUGH = 2
_ENOUGH_WITHOUT_ID = 8
_HALF = 2
_WHOLE = 0.8


def renumberings(
    pairs: Pairs, found: Open, run: Run, rows: Array, flows: Array, known: dict[tuple[int, int], Shift],
    share: Callable[[Array], Array],
) -> tuple[dict[tuple[int, int], Shift], Array]:  # fmt: skip
    """By flow and point what is added to numbers there; and ends that may be renumbered.

    Args:
        pairs: that fit by `remains.of_renumbered`; flows: uint64 per row; known: what was found before; share: which
            share of the packets of flows ends.

    Returns:
        What is new; and bool per end: a start fits it with other numbers, which may be a translation.
    """
    doubtful = np.zeros(len(found.end_rows), bool)
    ended, begun = rows[found.end_rows[pairs.end]], rows[found.start_rows[pairs.start]]
    tcp = ended["protocol"] == _TCP
    doubtful[pairs.end[tcp & (ended["ip_id"] != 0)]] = True
    syn = tcp & (ended["tcp_flags"] & _SYN != 0) & (ended["tcp_window"] == begun["tcp_window"])
    syns = pairs.end[syn]
    tcp &= ended["tcp_flags"] & (_SYN | _ACK) == _ACK
    pairs, ended, begun = pairs.chosen(tcp), ended[tcp], begun[tcp]
    if not len(pairs):
        return {}, doubtful
    added = [begun[name] - ended[name] for name in ("tcp_seq", "tcp_ack")]  # uint32: modulo 2^32
    moved, numbered = (added[0] != 0) | (added[1] != 0), ended["ip_id"] != 0
    flow_at = flows[found.end_rows]
    _, at_end, ends_here = np.unique(
        mixed(flow_at, found.end_path, found.end_position), return_inverse=True, return_counts=True
    )
    here = ends_here[at_end]
    unique = np.unique(flow_at[pairs.end])
    mostly = (share(unique) >= _WHOLE)[np.searchsorted(unique, flow_at)[pairs.end]]
    of_stage = group_numbers(flow_at[pairs.end], at_end[pairs.end], pairs.at)
    order = np.argsort(of_stage, kind="stable")
    found_here: dict[tuple[int, int], Shift] = {}
    answers: list[tuple[int, int, Shift]] = []
    for mine in np.split(order, np.flatnonzero(np.diff(of_stage[order])) + 1):
        if len(mine) < _ENOUGH or not moved[mine].any():
            continue
        of_shift = group_numbers(added[0][mine], added[1][mine])
        # Each end counts once for each difference.
        many = np.bincount(np.unique(np.stack([of_shift, pairs.end[mine]]), axis=1)[0])
        best = int(np.argmax(many))
        agreeing = mine[of_shift == best]
        one, whole = int(agreeing[0]), bool(mostly[agreeing[0]])
        packets = min(int(many[best]), len(np.unique(pairs.start[agreeing])))
        if not moved[one] or _HALF * packets < here[pairs.end[one]]:
            continue
        if whole:
            doubtful[pairs.end[mine]] = True
        with_id = agreeing[numbered[agreeing]]
        enough = _different(ended[with_id]) >= _ENOUGH or (whole and _different(ended[agreeing]) >= _ENOUGH_WITHOUT_ID)
        fitting = len(np.unique(pairs.end[mine]))
        clear = packets * (DISAGREE + 1) >= fitting * DISAGREE
        clear &= (int(many.sum()) - int(many[best])) * DISAGREE <= fitting
        if not enough or not clear:
            continue
        end = int(pairs.end[one])
        flow, point = int(flow_at[end]), int(rows["point"][found.end_rows[end]])
        answer = int(flow_of(rows[found.end_rows[end : end + 1]], answering=True)[0])
        before = known.get((flow, point), (0, 0))
        shift = tuple((int(column[one]) + was) % (1 << 32) for column, was in zip(added, before, strict=True))
        points, at = run.paths[int(found.end_path[end])].points, int(pairs.at[one])
        if set(points[:at]) & set(points[at:]):
            continue  # of a point on both sides it would have to be told which visit it was
        for behind in points[at:]:
            found_here[flow, behind] = shift[0], shift[1]
            answers.append((answer, behind, (shift[1], shift[0])))
    doubtful[syns[np.isin(flow_at[syns], flow_at[doubtful])]] = True
    told = {flow for flow, _ in (*known, *found_here)}
    found_here |= {(flow, point): shift for flow, point, shift in answers if flow not in told}
    return {place: shift for place, shift in found_here.items() if known.get(place) != shift}, doubtful


def _different(packets: Array) -> int:
    """How many of them differ in IP ID or numbers."""
    return len(np.unique(mixed(packets["ip_id"], packets["tcp_seq"], packets["tcp_ack"])))


def without_shifts(
    rows: Array, flows: Array, began: Array, shifts: dict[tuple[int, int], Shift]
) -> tuple[Array, Array]:
    """Keys of renumbered packets: what stays, and numbers less what was added where they were seen.

    Args:
        began: uint64 per row, what its flow began as.

    Returns:
        Also bool per row: it may have that key. What came through as it was, where other packets of its flow were
        renumbered, stays together.
    """
    known = mixed(np.array([flow for flow, _ in shifts], np.uint64), np.array([point for _, point in shifts]))
    order = np.argsort(known)
    place = mixed(flows, rows["point"])
    at = order[np.minimum(np.searchsorted(known[order], place), len(known) - 1)]
    added = np.where((known[at] == place)[:, None], np.array(list(shifts.values()), np.uint32)[at], np.uint32(0))
    added[rows["tcp_flags"] & _ACK == 0, 1] = 0
    # A SYN without an IP ID may be made anew by who answers in the place of the server: with a window of its own.
    alone = (rows["tcp_flags"] & _SYN != 0) & (rows["ip_id"] == 0)
    keys = mixed(
        began, rows["tcp_seq"] - added[:, 0], rows["tcp_ack"] - added[:, 1], np.where(alone, rows["tcp_window"], 0),
        rows["ip_id"], rows["tcp_flags"], rows["fragment_offset"], rows["more_fragments"], rows["payload_length"],
        rows["content"],
    )  # fmt: skip
    _, first, of_identity = np.unique(rows["identity"], return_index=True, return_inverse=True)
    apart = (added != added[first[of_identity]]).any(axis=1)
    return keys, ~np.isin(of_identity, of_identity[apart])
