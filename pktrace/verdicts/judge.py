"""The judging kernel: one packet after the other, from where it was seen to what is concluded.

Logic: RFC 5644 6.2.4-6.2.5 (seen at both ends of a stage: crossed; seen before and not after: lost, if the capture
after could have seen it; seen later: the capture between missed it) and RFC 7679/7680 (waiting time).
Codes are positions in the closed lists of `schema`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pktrace.compiled import inlined, kernel
from pktrace.trajectories.model import UNSEEN

NONE = 255
CROSSED, LOST, UNOBSERVED, UNDETERMINED = 0, 1, 2, 3
F_DELIVERED, F_LOST, F_DROPPED, F_ABSORBED, F_INJECTED, F_UNDETERMINED = 0, 1, 3, 4, 5, 6
R_NONE, R_LATE, R_OUTSIDE, R_WAITING, R_DROPS, R_CUT, R_CLOCK = 0, 1, 2, 3, 4, 5, 6
R_FIRST_POINT = 10
T_FORWARD, T_DROP, T_PUNT = 0, 1, 2
V_HIT, V_FALSE_PUNT, V_FALSE_FORWARD, V_MISSED_DROP, V_FALSE_DROP, V_UNSEEN, V_UNDETERMINED = 0, 1, 2, 3, 4, 5, 6


class Captures(NamedTuple):
    """What captures cover: arrays (paths x positions) of the point at each position.

    `start`, `end`: int64, ns on the aligned clock; `incomplete`: bool, it missed packets; `cut`: bool, a file is
    damaged; `first`, `behind`: int64, its outages are `outage_begin`[first:behind] in order, and `outage_end` has the
    latest end of those that begin no later; `first` is -1 where nothing bounds when it missed packets.
    """

    start: np.ndarray[Any, Any]
    end: np.ndarray[Any, Any]
    incomplete: np.ndarray[Any, Any]
    cut: np.ndarray[Any, Any]
    first: np.ndarray[Any, Any]
    behind: np.ndarray[Any, Any]
    outage_begin: np.ndarray[Any, Any]
    outage_end: np.ndarray[Any, Any]


@inlined
def _may_have_missed(captures, path, position, since, until):
    """Whether a capture that missed packets may have missed one between two times."""
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
    """Why a capture that has not the packet does not prove that it never came; R_NONE if it does prove it."""
    end = captures.end[path, position]
    if time < captures.start[path, position]:
        return R_OUTSIDE
    if time > end:
        return R_CUT if captures.cut[path, position] else R_OUTSIDE
    if time + wait > end:
        return R_CUT if captures.cut[path, position] else R_WAITING
    if captures.incomplete[path, position] and _may_have_missed(captures, path, position, time, time + wait):
        return R_DROPS
    return R_NONE


@inlined
def _treatment_verdict(expected, observed):
    if expected == observed:
        return V_HIT
    if expected == T_DROP:
        return V_MISSED_DROP
    if observed == T_PUNT:
        return V_FALSE_PUNT
    return V_FALSE_FORWARD


@kernel
def judge_packets(
    times, first_ns, path_of, layout, clocks, expected, absorbed, captures, wait, window, threshold,
    fate, reason, lost_stage, last_at, observed, rule_verdict, stage_verdict, stage_reason,
):  # fmt: skip
    """Judge all packets.

    Args:
        times: int64 (n x positions) aligned, UNSEEN where not seen; first_ns: raw time of the first sighting;
        layout: int64 per path: positions, first and last detour position or -1, 1 if the path has a filter;
        clocks: int64 by path and position, times of equal numbers can be compared;
        expected, absorbed: of rules.expect; captures, wait: of coverage.Trust; window: (start, end);
        threshold: the loss threshold in ns.
        Filled per packet: fate, reason, lost_stage (-1 none), last_at (position), observed, rule_verdict (NONE none);
        per packet and stage: stage_verdict (NONE: no row), stage_reason.
    """
    for packet in range(len(path_of)):
        path = path_of[packet]
        positions = layout[path, 0]
        detour_first = layout[path, 1]
        detour_last = layout[path, 2]
        has_detour = detour_first >= 0
        has_rules = layout[path, 3] != 0
        bypass = positions - 1
        at = times[packet]
        first = np.int64(-1)
        last = np.int64(-1)
        in_detour = False
        for position in range(positions):
            if at[position] != UNSEEN:
                if first < 0:
                    first = position
                last = position
                if has_detour and position >= detour_first and position <= detour_last:
                    in_detour = True
        last_at[packet] = last
        filter_input = detour_first - 1 if has_detour else np.int64(0)
        after = detour_last + 1 if has_detour else np.int64(-1)
        action = expected[packet]
        outside = first_ns[packet] < window[0] or first_ns[packet] > window[1]

        # Injected: first seen where the service's packets come out, and a point before the filter, which would have
        # seen it, was capturing whole at that time. How early it would have passed is bounded by the waits between.
        injected = False
        if has_detour and first >= detour_last and first > filter_input:
            earlier = at[first]
            for stage in range(filter_input, first):
                earlier -= wait[path, stage]
            for position in range(filter_input + 1):
                if clocks[path, position] != clocks[path, first]:
                    continue
                doubt = _doubt(captures, path, position, earlier, at[first] - earlier)
                injected |= doubt == R_NONE
            injected &= not outside and earlier >= window[0]

        # A packet is what the first point of its path saw. One that this point should have seen, and has not, came from
        # elsewhere, or is another packet's changed form.
        foreign = False
        if first > 0 and not injected and not outside and clocks[path, 0] == clocks[path, first]:
            earlier = at[first]
            for stage in range(first):
                earlier -= wait[path, stage]
            foreign = earlier >= window[0] and _doubt(captures, path, 0, earlier, at[first] - earlier) == R_NONE

        # The way it went: through the detour, or over the bypass; unsure where all captures of the detour may have
        # missed it. Then it is taken to have gone as its rule says, but that the filter obeyed is not shown.
        skipped = has_detour and not in_detour and last >= after and not injected
        unsure = np.int64(R_NONE)
        if skipped:
            unsure = np.int64(-1)
            for position in range(detour_first, detour_last + 1):
                # When it came by there: not before it was first seen, unless that was behind the detour.
                begin = at[first]
                for stage in range(position, first):
                    begin -= wait[path, stage]
                if clocks[path, position] != clocks[path, first]:
                    unsure = np.int64(R_CLOCK) if unsure < 0 else unsure
                    continue
                doubt = _doubt(captures, path, position, begin, at[last] - begin)
                if doubt == R_NONE:
                    unsure = np.int64(R_NONE)
                elif unsure < 0:
                    unsure = np.int64(doubt)
            unsure = max(unsure, np.int64(R_NONE))

        unsure_punt = unsure != R_NONE and action == T_PUNT
        late = np.int64(-1)
        position = first if injected else np.int64(0)
        while position < last:
            stage = position
            target = position + 1
            if skipped and not unsure_punt and position == filter_input:
                stage = bypass
                target = after
            if at[position] != UNSEEN and at[target] != UNSEEN:
                stage_verdict[packet, stage] = CROSSED
                comparable = clocks[path, target] == clocks[path, position]
                if comparable and at[target] - at[position] > threshold:
                    stage_verdict[packet, stage] = LOST
                    stage_reason[packet, stage] = R_LATE
                    if late < 0:
                        late = stage
            else:
                stage_verdict[packet, stage] = UNOBSERVED
                missed = target if at[target] == UNSEEN else position
                seen_near = at[last] if at[target] == UNSEEN else at[target]
                why = _doubt(captures, path, missed, seen_near, 0)
                if why == R_NONE and captures.incomplete[path, missed]:
                    why = R_DROPS
                stage_reason[packet, stage] = why
                if foreign and at[position] == UNSEEN and position < first:
                    stage_verdict[packet, stage] = UNDETERMINED
                    stage_reason[packet, stage] = R_FIRST_POINT
            position = target

        # What the filter did with it.
        reached = last >= filter_input if has_detour else True
        treatment = np.int64(NONE)
        if injected:
            reached = False
        elif has_detour:
            if in_detour:
                treatment = np.int64(T_PUNT)
            elif last >= after and unsure == R_NONE:
                treatment = np.int64(T_FORWARD)
        elif has_rules and last == positions - 1:
            treatment = np.int64(T_FORWARD)
        # First seen where the service's packets come out, and not shown to be injected: that accuses nobody.
        unproven = has_detour and first >= detour_last and treatment != action
        if unproven:
            treatment = np.int64(NONE)
            if reached:
                rule_verdict[packet] = V_UNDETERMINED
        elif reached and treatment != NONE:
            rule_verdict[packet] = _treatment_verdict(action, treatment)
        elif reached and unsure != R_NONE:
            rule_verdict[packet] = V_MISSED_DROP if action == T_DROP else V_UNDETERMINED
        observed[packet] = treatment

        if last == positions - 1:
            if injected:
                fate[packet] = F_INJECTED
            elif late >= 0:
                fate[packet] = F_LOST
                reason[packet] = R_LATE
                lost_stage[packet] = late
            elif foreign:
                fate[packet] = F_UNDETERMINED
                reason[packet] = R_FIRST_POINT
            else:
                fate[packet] = F_DELIVERED
            continue

        # It went no further than `last`. Every point where it could have come next must have been able to see it.
        # What its rule drops went no further if it did not come out behind the detour, where every way leads.
        at_filter = has_detour and last == filter_input
        drops_here = (at_filter or (not has_detour and has_rules)) and action == T_DROP
        stage = bypass if at_filter and action != T_PUNT else last
        doubt = R_NONE
        for way in range(2):
            over_bypass = way == 1
            if (over_bypass and not at_filter) or (not over_bypass and at_filter and drops_here):
                continue
            target = after if over_bypass else last + 1
            if doubt == R_NONE and clocks[path, target] != clocks[path, last]:
                doubt = R_CLOCK
            elif doubt == R_NONE:
                doubt = _doubt(captures, path, target, at[last], wait[path, bypass if over_bypass else last])
        if outside:
            doubt = R_OUTSIDE
        if injected:
            fate[packet] = F_INJECTED
        elif late >= 0:
            fate[packet] = F_LOST
            reason[packet] = R_LATE
            lost_stage[packet] = late
        if doubt != R_NONE:
            if fate[packet] == NONE:
                fate[packet] = F_UNDETERMINED
                reason[packet] = doubt
            if not drops_here:
                stage_verdict[packet, stage] = UNDETERMINED
                stage_reason[packet, stage] = doubt
            if at_filter or drops_here:
                rule_verdict[packet] = V_UNDETERMINED
        elif drops_here:
            if fate[packet] == NONE:
                fate[packet] = F_DROPPED
            observed[packet] = T_DROP
            rule_verdict[packet] = V_HIT
        elif absorbed[packet] and has_detour and last >= detour_first and last < detour_last:
            if fate[packet] == NONE:
                fate[packet] = F_ABSORBED
        else:
            if foreign:
                if fate[packet] == NONE:
                    fate[packet] = F_UNDETERMINED
                    reason[packet] = R_FIRST_POINT
                stage_verdict[packet, stage] = UNDETERMINED
                stage_reason[packet, stage] = R_FIRST_POINT
                if at_filter:
                    rule_verdict[packet] = V_UNDETERMINED
                continue
            if fate[packet] == NONE:
                fate[packet] = F_LOST
                lost_stage[packet] = stage
            stage_verdict[packet, stage] = LOST
            if at_filter:
                rule_verdict[packet] = V_UNSEEN
