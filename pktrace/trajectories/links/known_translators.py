"""Known translators: the mapping that other flows have shown helps with flows of few packets.

Rule: pairs of flows belong to one *gateway* if the same addresses become the same others between the same positions of
a path. They also belong to one gateway if the new source, or the old destination, is the same, and the other side of
the flow stays, address and port. A gateway is known by as many agreeing packets as one flow alone would need.
One packet of a further flow is then enough, if none disagrees, IP IDs are treated alike, and it took no more than ten
times the usual delay there, or a millisecond. Usual delays are close to each other; delays between strangers are not.
Bound: a flow of few packets is taken for another one only if just these two have packets with these invariants, and one
begins within ten times the usual delay after the other, at a known gateway.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode.identity import mixed
from pktrace.trajectories.bounds import EARLY_NS
from pktrace.trajectories.fields import Fields
from pktrace.trajectories.flows import side_of
from pktrace.trajectories.links.flow_evidence import CONCENTRATED, DISAGREE, FlowEvidence, usual_times
from pktrace.trajectories.links.loose_ends import LooseEnds

Array = np.ndarray[Any, Any]
ENOUGH = 2  # agreeing packets, if IP IDs are equal and not 0
ENOUGH_ALONE = 4  # the same for invariants without IP IDs
LONG = 10  # times the usual delay


class Gateways:
    """The gateways that accepted pairs of flows show."""

    def __init__(self) -> None:
        # Per kind of gateway: its hash, and the columns of _columns, for each pair of flows.
        self._known: list[tuple[tuple[Array, ...], ...]] = []

    def remember(self, accepted: FlowEvidence, found: LooseEnds, rows: Fields) -> None:
        """Add pairs of flows that are accepted."""
        self._known.append(tuple((of, *_columns(accepted)) for of in _gateways(accepted, found, rows)))

    def supported(self, pairs: FlowEvidence, eligible: Array, found: LooseEnds, rows: Fields, window: int) -> Array:
        """bool per pair: it belongs to a known gateway. Pairs that are not accepted yet make gateways known, too.

        Args:
            eligible: bool per pair, those that may count; window: ns, from `window_of`.
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
            # The pair itself counts as one packet.
            enough = kinds[at] - pairs.kinds >= ENOUGH_ALONE - 1
            enough |= (by_id[at] - pairs.by_id >= ENOUGH - 1) & (pairs.by_id > 0)
            enough &= unique[at] == gateway
            # Strangers that look like pairs by chance have times spread over the whole window.
            alike = np.abs(delay - usual[place]) * 2 * CONCENTRATED <= window
            steady = np.bincount(place, weights=counts[0] * (alike & timed)) * (DISAGREE + 1) >= kinds * DISAGREE
            enough &= steady[at] & (np.abs(longest - usual[at]) * 2 * CONCENTRATED <= window)
            enough &= np.abs(longest) <= np.maximum(LONG * np.abs(usual[at]), EARLY_NS)
            keeps_ids = same_id * (DISAGREE + 1) >= kinds * DISAGREE
            supported |= enough & (~keeps_ids[at] | (pairs.same_id == pairs.packets))
        return supported & usable


def _columns(pairs: FlowEvidence) -> tuple[Array, ...]:
    # Equal packets are one witness.
    return pairs.kinds, np.minimum(pairs.kinds, pairs.same_id), pairs.by_id, pairs.usual, pairs.timed


def _gateways(pairs: FlowEvidence, found: LooseEnds, rows: Fields) -> tuple[Array, Array, Array]:
    """Per pair three hashes, one per kind of gateway; a hash of the pair alone if a kind does not apply."""
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
