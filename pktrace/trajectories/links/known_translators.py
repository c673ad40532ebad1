"""What rewrites addresses does so for many flows: what is known of it helps with flows of few packets.

Rule: pairs of flows are of one *gateway* where the same addresses become the same others between the same positions of
a path; or where what becomes of the source, or what the destination was, is the same and the other side of the flow
stays, address and port. A gateway is known by as many packets that agree as one flow alone would need. Then one packet
of a further flow is enough, if it says no other, IP IDs are treated alike, and it took no more than ten times as long
as is usual there, or a millisecond. What is usual are times close to each other, as strangers do not have them.
Bound: a flow of few packets is taken for another one only if just these two have packets with these remains, and one
begins within ten times the usual delay after the other, where a known gateway sends what it rewrites.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode.identity import mixed
from pktrace.trajectories.bounds import EARLY_NS
from pktrace.trajectories.fields import Fields
from pktrace.trajectories.flows import side_of
from pktrace.trajectories.links.flow_evidence import CONCENTRATED, DISAGREE, Agreement, usual_times
from pktrace.trajectories.links.loose_ends import Open

Array = np.ndarray[Any, Any]
ENOUGH = 2  # agreeing packets, where IP IDs are equal and not 0
ENOUGH_ALONE = 4  # where the remains have to do without
LONG = 10  # times the usual delay


class Gateways:
    """What pairs of flows that were accepted tell of the gateways between them."""

    def __init__(self) -> None:
        # By kind of gateway: which it is, and the columns of _columns, of each pair of flows.
        self._known: list[tuple[tuple[Array, ...], ...]] = []

    def remember(self, accepted: Agreement, found: Open, rows: Fields) -> None:
        """Pairs of flows that are accepted."""
        self._known.append(tuple((of, *_columns(accepted)) for of in _gateways(accepted, found, rows)))

    def supported(self, pairs: Agreement, eligible: Array, found: Open, rows: Fields, window: int) -> Array:
        """bool per pair: it is of a known gateway. Pairs that are not accepted yet make gateways known, too.

        Args:
            eligible: bool per pair, what may count; window: ns, of `window_of`.
        """
        supported = np.zeros(len(pairs), bool)
        usable = eligible & pairs.told & pairs.timed & pairs.steady
        longest = np.maximum(pairs.delay, pairs.usual)
        for kind, gateway in enumerate(_gateways(pairs, found, rows)):
            here = gateway[usable], *(column[usable] for column in _columns(pairs))
            of, *counts, delay, timed = (
                np.concatenate(column) for column in zip(*(known[kind] for known in self._known), here, strict=True)
            )
            if not len(of):
                continue
            unique, place = np.unique(of, return_inverse=True)
            kinds, same_id, by_id = (np.bincount(place, weights=column) for column in counts)
            usual, _ = usual_times(place[timed], delay[timed], len(unique))
            at = np.minimum(np.searchsorted(unique, gateway), len(unique) - 1)
            # Of the pair itself counts one packet.
            enough = kinds[at] - pairs.kinds >= ENOUGH_ALONE - 1
            enough |= (by_id[at] - pairs.by_id >= ENOUGH - 1) & (pairs.by_id > 0)
            enough &= unique[at] == gateway
            # Of strangers that look like pairs by chance, times are spread over all that is possible.
            alike = np.abs(delay - usual[place]) * 2 * CONCENTRATED <= window
            steady = np.bincount(place, weights=counts[0] * (alike & timed)) * (DISAGREE + 1) >= kinds * DISAGREE
            enough &= steady[at] & (np.abs(longest - usual[at]) * 2 * CONCENTRATED <= window)
            enough &= np.abs(longest) <= np.maximum(LONG * np.abs(usual[at]), EARLY_NS)
            keeps_ids = same_id * (DISAGREE + 1) >= kinds * DISAGREE
            supported |= enough & (~keeps_ids[at] | (pairs.same_id == pairs.packets))
        return supported & usable


def _columns(pairs: Agreement) -> tuple[Array, ...]:
    # Packets that are all the same are one witness.
    return pairs.kinds, np.minimum(pairs.kinds, pairs.same_id), pairs.by_id, pairs.usual, pairs.timed


def _gateways(pairs: Agreement, found: Open, rows: Fields) -> tuple[Array, Array, Array]:
    """Per pair, three hashes of what may be the gateway; a hash of the pair alone where a kind does not apply."""
    before, behind = rows.at(found.end_rows[pairs.end]), rows.at(found.start_rows[pairs.start])
    stage = found.end_path[pairs.end], found.end_position[pairs.end], pairs.at
    sides = {}
    for side in ("source", "destination"):
        one, other = side_of(before, side), side_of(behind, side)
        sides[side] = one, other, np.logical_and.reduce([a == b for a, b in zip(one, other, strict=True)])
    alone = mixed(pairs.before, pairs.after)
    (source, new_source, source_stays), (destination, new_destination, destination_stays) = sides.values()
    addresses = (column for side in (source, destination, new_source, new_destination) for column in side[:2])
    return (
        mixed(*stage, *addresses),
        np.where(destination_stays, mixed(*stage, *new_source[:2]), alone),
        np.where(source_stays, ~mixed(*stage, *destination[:2]), alone),
    )
