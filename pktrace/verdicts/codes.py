"""Codes of the closed lists in `schema`, for kernels: a code is a word's place in its list."""

from __future__ import annotations

from enum import IntEnum

NONE = 255  # no word


class Verdict(IntEnum):
    """The conclusion about a packet at a stage (`schema.VERDICTS`)."""

    CROSSED = 0
    LOST = 1
    UNOBSERVED = 2
    UNDETERMINED = 3
    AMBIGUOUS = 4


class Fate(IntEnum):
    """The result for a packet as a whole (`schema.FATES`)."""

    DELIVERED = 0
    LOST = 1
    PARTIAL = 2
    DROPPED = 3
    ABSORBED = 4
    INJECTED = 5
    UNDETERMINED = 6
    AMBIGUOUS = 7


class Reason(IntEnum):
    """The reason of a fate or a verdict (`schema.REASONS`)."""

    NONE = 0
    LATE = 1
    OUTSIDE_WINDOW = 2
    WAITING_TIME = 3
    CAPTURE_DROPS = 4
    CAPTURE_CUT = 5
    CLOCK_UNKNOWN = 6
    FILTER_DROPPED = 7
    PART_LOST = 8
    AGAINST_PATH = 9
    FIRST_POINT_MISSING = 10


class Treatment(IntEnum):
    """The action of the filter on a packet (`schema.TREATMENTS`)."""

    FORWARD = 0
    DROP = 1
    PUNT = 2


class RuleVerdict(IntEnum):
    """The conclusion about the filter's treatment of a packet (`schema.RULE_VERDICTS`)."""

    HIT = 0
    FALSE_PUNT = 1
    FALSE_FORWARD = 2
    MISSED_DROP = 3
    FALSE_DROP = 4
    UNSEEN = 5
    UNDETERMINED = 6
