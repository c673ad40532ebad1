"""Bursts: the segments into which an offload split the UDP packets of one flow, as one point saw them."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np

from pktrace.trajectories.exact import EARLY_NS

Array = np.ndarray[Any, Any]
_AT_ONCE = 8  # bursts of one flow that may be under way at the same time
_MOST_LOOKS = 256  # packets sent before a burst among which its own is looked for


def bursts(
    rows: Array, times: Array, senders: Array, arrivals: Array
) -> tuple[list[tuple[int, int, int, int]], set[int], list[int]]:
    """Which segments belong to which packets.

    Args:
        rows, times: of one flow, for all of them are looked at; senders: packets that were sent, arrivals: what one
        point saw, both in order of time.

    Returns:
        (sender, segment, first byte, end) of every segment that belongs to one; senders of which it cannot be told
        whether a segment is theirs, and these segments: they fit several.
    """
    size = rows["payload_length"].astype(np.int64).tolist()
    ids = rows["ip_id"].astype(np.int64).tolist()
    content = rows["content"].tolist()
    at = times.tolist()
    early = int(EARLY_NS)
    begins: dict[tuple[int, int], list[int]] = {}
    for place, sender in enumerate(senders.tolist()):
        begins.setdefault((ids[sender], content[sender]), []).append(place)
    order = senders.tolist()
    sent = [at[sender] for sender in order]
    found: list[tuple[int, int, int, int]] = []
    doubtful: set[int] = set()
    undecided: list[int] = []
    waiting: list[list[int]] = []  # bursts without their first segment
    under_way: list[list[int]] = []  # (place of the packet, size of its segments, the next index) of the last bursts
    open_from = 0
    step = 0
    for segment in arrivals.tolist():
        # Bursts may be under way at the same time: the one that this segment continues, with the fewest left out.
        indices = [(ids[segment] - ids[order[burst[0]]]) & 0xFFFF for burst in under_way]
        fitting = [
            (index - burst[2], -number, burst)
            for number, (index, burst) in enumerate(zip(indices, under_way, strict=True))
            if index >= burst[2] and _fits(index, size[segment], burst[1], size[order[burst[0]]])
        ]
        alike = begins.get((ids[segment], content[segment]), [])
        # The last of the packets that begin so that was sent before and is longer. What continues a burst begins none
        # that was stamped later.
        last = bisect_right(alike, at[segment] + (0 if fitting else early), key=sent.__getitem__)
        place = next(
            (
                place
                for place in alike[max(0, last - _MOST_LOOKS) : last][::-1]
                if place >= open_from and size[segment] < size[order[place]]
            ),
            -1,
        )
        if place >= 0:
            _place_waiting(waiting, open_from, place, order, sent, ids, size, at, step, found)
            waiting = []
            step = size[segment]
            open_from = place + 1
            under_way = [*under_way[1 - _AT_ONCE :], [place, step, 1]]
            found.append((order[place], segment, 0, step))
            continue
        if len(fitting) > 1:
            doubtful.update(order[burst[0]] for _, _, burst in fitting)
            undecided.append(segment)
            continue
        gap, _, best = min(fitting, default=(0, 0, None))
        continues = bool(waiting) and 1 <= (ids[segment] - ids[waiting[-1][-1]]) & 0xFFFF < 64
        if best is not None and not (gap and continues):
            index = best[2] + gap
            best[2] = index + 1
            found.append((order[best[0]], segment, index * best[1], index * best[1] + size[segment]))
        elif continues:
            waiting[-1].append(segment)
        else:
            waiting.append([segment])
    _place_waiting(waiting, open_from, len(order), order, sent, ids, size, at, step, found)
    return found, doubtful, undecided


def _fits(index: int, length: int, step: int, whole: int) -> bool:
    """Whether segment number `index` of a packet of `whole` bytes in steps of `step` has this length."""
    return index >= 0 and step > 0 and index * step < whole and length == min(step, whole - index * step)


def _place_waiting(
    waiting: list[list[int]], low: int, high: int, order: list[int], sent: list[int], ids: list[int], size: list[int],
    at: list[int], step: int, found: list[tuple[int, int, int, int]],
) -> None:  # fmt: skip
    """Give bursts without their first segment to packets of order[low:high]: each to the last one before that fits."""
    for burst in waiting:
        last = bisect_right(sent, at[burst[0]] + int(EARLY_NS), low, high)
        for place in range(last - 1, max(low, last - _MOST_LOOKS) - 1, -1):
            sender = order[place]
            first = (ids[burst[0]] - ids[sender]) & 0xFFFF
            # The first segment would have been known by its bytes: without identification (ID 0 in all) none fits.
            if first == 0 or not _fits(first, size[burst[0]], step, size[sender]):
                continue
            indices = [(ids[segment] - ids[sender]) & 0xFFFF for segment in burst]
            if all(
                _fits(index, size[segment], step, size[sender]) for index, segment in zip(indices, burst, strict=True)
            ):
                found += [
                    (sender, segment, index * step, index * step + size[segment])
                    for index, segment in zip(indices, burst, strict=True)
                ]
                break
