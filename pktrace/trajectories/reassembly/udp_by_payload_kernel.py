"""The kernel that assigns pieces of frames to equal pieces of packets, in the order in which these were sent."""

from __future__ import annotations

from pktrace.compiled import inlined, kernel

# The certainty of an assignment.
BY_ORDER = 1  # of several packets, all of whose pieces arrived
OF_ONE = 2  # of one packet with several equal pieces, some missing
ALONE = 3  # there is no other


@inlined
def _close(low, high, lost, begin, end, packet, given, sure, doubted, undecided):
    """Decide on the arrivals [begin, end) that were assigned to the senders [low, high) in order.

    Args:
        lost: some of the senders got no arrival.
    """
    one = True
    any_given = False
    for sender in range(low + 1, high):
        one &= packet[sender] == packet[low]
    for arrival in range(begin, end):
        any_given |= given[arrival] >= 0
    if not any_given:
        return
    for arrival in range(begin, end):
        if given[arrival] >= 0:
            if not lost:
                sure[arrival] = ALONE if high - low == 1 else BY_ORDER
            elif one:
                sure[arrival] = OF_ONE
            else:
                given[arrival] = -1
                undecided[arrival] = True
    if lost and not one:
        for sender in range(low, high):
            doubted[sender] = True


@kernel
def give_in_order(
    firsts, lasts, sent, packet, begins, ends, arrived, early, threshold, given, sure, doubted, undecided, may
):  # fmt: skip
    """Assign arrivals to senders, one run after the other: the first to the first.

    An assignment is certain if as many arrived as were sent before, each time something was sent. Otherwise all of them
    stay unassigned, unless they belong to one packet.

    Args:
        firsts, lasts, begins, ends: per run, its senders and its arrivals, both in order of time;
        sent, packet: per sender; arrived: per arrival;
        given: int64 per arrival, -1, filled with its sender; sure: uint8 per arrival, filled with the certainty;
        doubted: bool per sender, undecided: bool per arrival, filled: they may belong together, and nothing decides;
        may: bool per arrival, filled: something was sent in time before it.
    """
    for run in range(len(firsts)):
        low, following = firsts[run], firsts[run]  # senders that are under way
        begin = begins[run]
        taken = 0  # of these, the first ones that got an arrival, or are too old for one
        lost = False
        for arrival in range(begins[run], ends[run]):
            time = arrived[arrival]
            while following < lasts[run] and sent[following] - early <= time:
                while low + taken < following and sent[following] - sent[low + taken] > threshold + early:
                    # Nothing came while the first was under way: it was lost, and is no rival of the next.
                    low += 1 if taken == 0 else 0
                    lost |= taken > 0
                    taken += 1 if taken > 0 else 0
                if following - low == taken:
                    _close(low, following, lost, begin, arrival, packet, given, sure, doubted, undecided)
                    low, begin, taken, lost = following, arrival, 0, False
                following += 1
            while low + taken < following and time - sent[low + taken] > threshold:
                low += 1 if taken == 0 else 0
                lost |= taken > 0
                taken += 1 if taken > 0 else 0
            may[arrival] = following > firsts[run] and time - sent[following - 1] <= threshold
            if low + taken < following:
                given[arrival] = low + taken
                taken += 1
        lost |= low + taken < following
        _close(low, following, lost, begin, ends[run], packet, given, sure, doubted, undecided)
