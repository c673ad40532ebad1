"""Numbers for the distinct addresses of many packets, in one pass with a hash table."""

from __future__ import annotations

import numpy as np

from pktrace.compiled import kernel
from pktrace.decode.identity import TABLES, add_pair, finished
from pktrace.wire import memory


@kernel
def number_addresses(version, high, low, absent, secret, slots, code, first):
    """Number the distinct addresses in order of appearance.

    Args:
        version, high, low: uint8, uint64, uint64 per entry; absent: bool, entries to leave out;
        secret: as in identity.py;
        slots: int32, zeros, a power of two of at least twice as many as entries;
        code: int32, filled: the address's number, 0 for entries left out; first: int64, filled: an entry with the
        address.

    Returns:
        The number of distinct addresses.
    """
    count = 0
    last = len(slots) - 1
    key = memory(secret)
    for entry in range(len(version)):
        code[entry] = 0
        if absent[entry]:
            continue
        # The same bits as IPv4 and as IPv6 address are two entries in neighbouring places.
        lower, upper = add_pair(np.uint64(0), np.uint64(0), key, TABLES + 4, high[entry], low[entry])
        slot = np.int64((finished(lower, upper, key, TABLES) + np.uint64(version[entry])) & np.uint64(last))
        while slots[slot]:
            other = first[slots[slot] - 1]
            if low[other] == low[entry] and high[other] == high[entry] and version[other] == version[entry]:
                break
            slot = (slot + 1) & last
        if not slots[slot]:
            first[count] = entry
            count += 1
            slots[slot] = count
        code[entry] = slots[slot] - 1
    return count
