"""The judging kernel: conclusions from the sightings of each packet, one packet after the other.

Logic: RFC 5644 6.2.4-6.2.5 (seen at both ends of a stage: crossed; seen before and not after: lost, if the capture
after would have seen it; seen later: the capture between missed it) and RFC 7679/7680 (waiting time). Each step is a
function: extent, injection, origin, way taken, stages crossed, treatment, end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pktrace.compiled import inlined, kernel
from pktrace.trajectories.model import UNSEEN
from pktrace.verdicts.codes import NONE, Fate, Reason, RuleVerdict, Treatment, Verdict


class Packets(NamedTuple):
    """Packets to judge.

    `times`: int64 (packets x positions), aligned, UNSEEN without a sighting; `first_ns`: int64, raw time of the first
    sighting; `path`: int16; `expected`: uint8, Treatment by the rules; `absorbed`: bool, its rule lets the service keep
    it.
    """

    times: np.ndarray[Any, Any]
    first_ns: np.ndarray[Any, Any]
    path: np.ndarray[Any, Any]
    expected: np.ndarray[Any, Any]
    absorbed: np.ndarray[Any, Any]


class Paths(NamedTuple):
    """Paths as arrays.

    `layout`: int64 per path: positions, first and last detour position or -1, 1 if the path has a filter; `clock`:
    int64 (paths x positions), times of equal numbers can be compared; `wait`: int64 (paths x stages), ns.
    """

    layout: np.ndarray[Any, Any]
    clock: np.ndarray[Any, Any]
    wait: np.ndarray[Any, Any]


class Captures(NamedTuple):
    """Capture evidence as arrays (paths x positions), for the point at each position.

    `start`, `end`: int64, ns on the aligned clock; `incomplete`: bool, the capture missed packets; `cut`: bool, a file
    is damaged; `first`, `behind`: int64, its outages are `outage_begin`[first:behind] in order, and `outage_end` has
    the latest end of all outages that begin no later; `first` is -1 if the times of its misses are unknown.
    """

    start: np.ndarray[Any, Any]
    end: np.ndarray[Any, Any]
    incomplete: np.ndarray[Any, Any]
    cut: np.ndarray[Any, Any]
    first: np.ndarray[Any, Any]
    behind: np.ndarray[Any, Any]
    outage_begin: np.ndarray[Any, Any]
    outage_end: np.ndarray[Any, Any]


class Judgement(NamedTuple):
    """The conclusions, filled by the kernel.

    Per packet: `fate` (Fate), `reason` (Reason), `lost_stage` (-1 none), `last_at` (position), `observed` (Treatment or
    NONE), `rule_verdict` (RuleVerdict or NONE); per packet and stage: `stage_verdict` (Verdict, NONE without a row) and
    `stage_reason` (Reason).
    """

    fate: np.ndarray[Any, Any]
    reason: np.ndarray[Any, Any]
    lost_stage: np.ndarray[Any, Any]
    last_at: np.ndarray[Any, Any]
    observed: np.ndarray[Any, Any]
    rule_verdict: np.ndarray[Any, Any]
    stage_verdict: np.ndarray[Any, Any]
    stage_reason: np.ndarray[Any, Any]


@kernel
def judge_packets(packets, paths, captures, window, threshold, into):
    """Judge all packets.

    Args:
        packets, paths, captures: as above; window: int64 (start, end), raw ns in which every point captured; threshold:
        the loss threshold, ns; into: the Judgement to fill.
    """
    for packet in range(len(packets.path)):
        at = packets.times[packet]
        path = packets.path[packet]
        positions = paths.layout[path, 0]
        first, last, in_detour = _extent(at, paths, path)
        into.last_at[packet] = last
        outside = packets.first_ns[packet] < window[0] or packets.first_ns[packet] > window[1]
        injected = not outside and _is_injected(at, paths, captures, path, first, window)
        foreign = not outside and not injected and _is_foreign(at, paths, captures, path, first, window)
        skipped, unsure = _way_taken(at, paths, captures, path, first, last, in_detour or injected)
        unsure_punt = unsure != Reason.NONE and packets.expected[packet] == Treatment.PUNT
        over_bypass = skipped and not unsure_punt
        begin = first if injected else np.int64(0)
        late = _cross_stages(packet, at, paths, captures, path, begin, last, over_bypass, threshold, into)
        if foreign:
            _doubt_earlier_stages(packet, paths, path, first, into)
        _treat(packet, packets, paths, path, first, last, in_detour, injected, unsure, into)
        if injected:
            into.fate[packet] = Fate.INJECTED
        elif late >= 0:
            into.fate[packet] = Fate.LOST
            into.reason[packet] = Reason.LATE
            into.lost_stage[packet] = late
        if last < positions - 1:
            _end(packet, at, packets, paths, captures, path, last, outside, foreign, into)
        elif into.fate[packet] == NONE:
            into.fate[packet] = Fate.UNDETERMINED if foreign else Fate.DELIVERED
            into.reason[packet] = Reason.FIRST_POINT_MISSING if foreign else Reason.NONE


@inlined
def _may_have_missed(captures, path, position, since, until):
    """True if a capture that missed packets may have missed one between two times."""
    low = captures.first[path, position]
    if low < 0:
        return True
    first, high = low, captures.behind[path, position]
    while low < high:  # the first outage that begins behind `until`
        middle = (low + high) // 2
        if captures.outage_begin[middle] <= until:
            low = middle + 1
        else:
            high = middle
    return low > first and captures.outage_end[low - 1] >= since


@inlined
def _doubt(captures, path, position, time, wait):
    """The reason why a capture without the packet does not prove its absence; Reason.NONE if it proves it."""
    end = captures.end[path, position]
    cut = captures.cut[path, position]
    if time < captures.start[path, position]:
        return Reason.OUTSIDE_WINDOW
    if time > end:
        return Reason.CAPTURE_CUT if cut else Reason.OUTSIDE_WINDOW
    if time + wait > end:
        return Reason.CAPTURE_CUT if cut else Reason.WAITING_TIME
    if captures.incomplete[path, position] and _may_have_missed(captures, path, position, time, time + wait):
        return Reason.CAPTURE_DROPS
    return Reason.NONE


@inlined
def _doubt_whole(captures, path, position, time, wait):
    """The same for a capture that has to have missed nothing at all: packets that several points of a detour missed at
    once are no proven misses of any.
    """
    doubt = _doubt(captures, path, position, time, wait)
    return Reason.CAPTURE_DROPS if doubt == Reason.NONE and captures.incomplete[path, position] else doubt


@inlined
def _extent(at, paths, path):
    """First and last position that saw the packet, and True if the detour saw it."""
    detour_first, detour_last = paths.layout[path, 1], paths.layout[path, 2]
    first, last, in_detour = np.int64(-1), np.int64(-1), False
    for position in range(paths.layout[path, 0]):
        if at[position] != UNSEEN:
            if first < 0:
                first = position
            last = position
            in_detour |= detour_first >= 0 and position >= detour_first and position <= detour_last
    return first, last, in_detour


@inlined
def _earliest(at, paths, path, position, first):
    """The earliest time at which a packet first seen at `first` passed an earlier position, by the waits between."""
    time = at[first]
    for stage in range(position, first):
        time -= paths.wait[path, stage]
    return time


@inlined
def _is_injected(at, paths, captures, path, first, window):
    """True for a packet first seen at the service's exit or behind, if a point up to the filter proves that it did not
    pass before.
    """
    filter_input, detour_last = paths.layout[path, 1] - 1, paths.layout[path, 2]
    if detour_last < 0 or first < detour_last or first <= filter_input:
        return False
    earlier = _earliest(at, paths, path, filter_input, first)
    if earlier < window[0]:
        return False
    for position in range(filter_input + 1):
        if paths.clock[path, position] != paths.clock[path, first]:
            continue
        if _doubt_whole(captures, path, position, earlier, at[first] - earlier) == Reason.NONE:
            return True
    return False


@inlined
def _is_foreign(at, paths, captures, path, first, window):
    """True for a packet first seen behind the first point, if the first point proves that it did not pass there.

    The first point of a path defines its packets; this one came from elsewhere, or is another packet after a rewrite.
    """
    if first == 0 or paths.clock[path, 0] != paths.clock[path, first]:
        return False
    earlier = _earliest(at, paths, path, 0, first)
    return earlier >= window[0] and _doubt(captures, path, 0, earlier, at[first] - earlier) == Reason.NONE


@inlined
def _way_taken(at, paths, captures, path, first, last, in_detour):
    """(True if a packet skipped the detour, the reason for doubt or Reason.NONE).

    The bypass is in doubt if all captures of the detour may have missed the packet. The packet is then assumed to have
    followed its rule, which is no proof that the filter obeyed the rule.
    """
    detour_first, detour_last = paths.layout[path, 1], paths.layout[path, 2]
    if detour_first < 0 or in_detour or last <= detour_last:
        return False, Reason.NONE
    unsure = Reason.NONE
    for position in range(detour_first, detour_last + 1):
        # It did not pass there before its first sighting, unless it was first seen behind the detour.
        begin = _earliest(at, paths, path, position, first)
        doubt = Reason.CLOCK_UNKNOWN
        if paths.clock[path, position] == paths.clock[path, first]:
            doubt = _doubt_whole(captures, path, position, begin, at[last] - begin)
        if doubt == Reason.NONE:
            return True, Reason.NONE
        if position == detour_first:
            unsure = doubt
    return True, unsure


@inlined
def _cross_stages(packet, at, paths, captures, path, begin, last, over_bypass, threshold, into):
    """Give verdicts to the stages up to the packet's last sighting; returns the first stage in which it was late, or
    -1.
    """
    late = np.int64(-1)
    position = begin
    while position < last:
        stage, target = position, position + 1
        if over_bypass and position == paths.layout[path, 1] - 1:
            stage, target = paths.layout[path, 0] - 1, paths.layout[path, 2] + 1
        if at[position] != UNSEEN and at[target] != UNSEEN:
            into.stage_verdict[packet, stage] = Verdict.CROSSED
            comparable = paths.clock[path, target] == paths.clock[path, position]
            if comparable and at[target] - at[position] > threshold:
                into.stage_verdict[packet, stage] = Verdict.LOST
                into.stage_reason[packet, stage] = Reason.LATE
                if late < 0:
                    late = stage
        else:
            into.stage_verdict[packet, stage] = Verdict.UNOBSERVED
            missed = target if at[target] == UNSEEN else position
            near = at[last] if at[target] == UNSEEN else at[target]
            into.stage_reason[packet, stage] = _why_missed(captures, path, missed, near)
        position = target
    return late


@inlined
def _why_missed(captures, path, position, near):
    """The reason why a capture missed a packet that passed around a given time."""
    return _doubt_whole(captures, path, position, near, 0)


@inlined
def _doubt_earlier_stages(packet, paths, path, first, into):
    """Stages before the first sighting are undetermined if the first point did not see the packet."""
    for stage in range(into.stage_verdict.shape[1]):
        begin = paths.layout[path, 1] - 1 if stage == paths.layout[path, 0] - 1 else stage
        if begin < first and into.stage_verdict[packet, stage] == Verdict.UNOBSERVED:
            into.stage_verdict[packet, stage] = Verdict.UNDETERMINED
            into.stage_reason[packet, stage] = Reason.FIRST_POINT_MISSING


@inlined
def _treat(packet, packets, paths, path, first, last, in_detour, injected, unsure, into):
    """Conclude the filter's treatment of the packet, and compare it with the rule."""
    positions, detour_first, detour_last = paths.layout[path, 0], paths.layout[path, 1], paths.layout[path, 2]
    has_detour = detour_first >= 0
    if injected:
        return
    action = packets.expected[packet]
    treatment = np.int64(NONE)
    if has_detour:
        if in_detour:
            treatment = np.int64(Treatment.PUNT)
        elif last > detour_last and unsure == Reason.NONE:
            treatment = np.int64(Treatment.FORWARD)
    elif paths.layout[path, 3] != 0 and last == positions - 1:
        treatment = np.int64(Treatment.FORWARD)
    reached = not has_detour or last >= detour_first - 1
    # A packet first seen at the service's exit, and not shown to be injected, is no evidence against the filter.
    if has_detour and first >= detour_last and treatment != action:
        if reached:
            into.rule_verdict[packet] = RuleVerdict.UNDETERMINED
        return
    into.observed[packet] = treatment
    if not reached:
        return
    if treatment != NONE:
        if action == treatment:
            into.rule_verdict[packet] = RuleVerdict.HIT
        elif action == Treatment.DROP:
            into.rule_verdict[packet] = RuleVerdict.MISSED_DROP
        elif treatment == Treatment.PUNT:
            into.rule_verdict[packet] = RuleVerdict.FALSE_PUNT
        else:
            into.rule_verdict[packet] = RuleVerdict.FALSE_FORWARD
    elif unsure != Reason.NONE:
        into.rule_verdict[packet] = (
            RuleVerdict.MISSED_DROP if action == Treatment.DROP else RuleVerdict.UNDETERMINED
        )  # fmt: skip


@inlined
def _why_not_ended(at, paths, captures, path, last, drops_here, at_filter):
    """The reason why a packet may have gone further than its last sighting; Reason.NONE if each possible next point
    proves its absence.

    From the filter a packet may go into the detour, or past it. For a packet that its rule drops, absence behind the
    detour is enough, since every way leads there.
    """
    doubt = Reason.NONE
    for way in range(2):
        over_bypass = way == 1
        if (over_bypass and not at_filter) or (not over_bypass and at_filter and drops_here):
            continue
        target = paths.layout[path, 2] + 1 if over_bypass else last + 1
        wait = paths.wait[path, paths.layout[path, 0] - 1 if over_bypass else last]
        if doubt == Reason.NONE and paths.clock[path, target] != paths.clock[path, last]:
            doubt = Reason.CLOCK_UNKNOWN
        elif doubt == Reason.NONE:
            doubt = _doubt(captures, path, target, at[last], wait)
    return doubt


@inlined
def _end(packet, at, packets, paths, captures, path, last, outside, foreign, into):
    """Conclude the fate of a packet whose last sighting is at `last`."""
    detour_first, detour_last = paths.layout[path, 1], paths.layout[path, 2]
    has_detour, action = detour_first >= 0, packets.expected[packet]
    at_filter = has_detour and last == detour_first - 1
    drops_here = (at_filter or (not has_detour and paths.layout[path, 3] != 0)) and action == Treatment.DROP
    stage = paths.layout[path, 0] - 1 if at_filter and action != Treatment.PUNT else last
    doubt = _why_not_ended(at, paths, captures, path, last, drops_here, at_filter)
    if outside:
        doubt = Reason.OUTSIDE_WINDOW
    swallowed = packets.absorbed[packet] and has_detour and last >= detour_first and last < detour_last
    if doubt == Reason.NONE and foreign and not drops_here and not swallowed:
        doubt = Reason.FIRST_POINT_MISSING
    open_fate = into.fate[packet] == NONE
    if doubt != Reason.NONE:
        if open_fate:
            into.fate[packet] = Fate.UNDETERMINED
            into.reason[packet] = doubt
        if not drops_here:
            into.stage_verdict[packet, stage] = Verdict.UNDETERMINED
            into.stage_reason[packet, stage] = doubt
        if at_filter or drops_here:
            into.rule_verdict[packet] = RuleVerdict.UNDETERMINED
    elif drops_here:
        if open_fate:
            into.fate[packet] = Fate.DROPPED
        into.observed[packet] = Treatment.DROP
        into.rule_verdict[packet] = RuleVerdict.HIT
    elif swallowed:
        if open_fate:
            into.fate[packet] = Fate.ABSORBED
    else:
        if open_fate:
            into.fate[packet] = Fate.LOST
            into.lost_stage[packet] = stage
        into.stage_verdict[packet, stage] = Verdict.LOST
        if at_filter:
            into.rule_verdict[packet] = RuleVerdict.UNSEEN
