"""Numbers for the distinct addresses of many packets, in one pass with a hash table."""

from __future__ import annotations

import numpy as np

from pktrace.compiled import kernel


@kernel
def number_addresses(version, high, low, absent, slots, code, first):
    """Number the distinct addresses in order of appearance.

    Args:
        version, high, low: uint8, uint64, uint64 per entry; absent: bool, entries to leave out;
        slots: int32, zeros, a power of two of at least twice as many as entries;
        code: int32, filled: the address's number, 0 for those left out; first: int64, filled: an entry that has it.

    Returns:
        How many there are.
    """
    count = 0
    last = len(slots) - 1
    for entry in range(len(version)):
        code[entry] = 0
        if absent[entry]:
            continue
        state = (high[entry] * np.uint64(0x9E3779B185EBCA87)) ^ low[entry] ^ np.uint64(version[entry])
        state = (state ^ (state >> np.uint64(32))) * np.uint64(0xC2B2AE3D27D4EB4F)
        slot = np.int64((state >> np.uint64(20)) & np.uint64(last))
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
