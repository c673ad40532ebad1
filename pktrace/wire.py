"""What capture hands to decode - the packet index - and how both read words out of a buffer."""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined

# The packet index has one row per packet, in file order; row n is frame n + 1 of Wireshark.
#   offset, captured: the captured bytes are data[offset : offset + captured]
#   length: bytes on the wire;  ts: ns since the epoch, NO_TIME where there is none, OUT_OF_RANGE where 64 bits are few
#   interface: which of the file's interfaces, -1 where the file does not describe it
#   direction: 0 unknown, 1 in, 2 out (epb_flags bits 0-1)
#   dropped: packets that the capture lost on this interface since the one before (epb_dropcount)
PACKET = np.dtype(
    [
        ("offset", np.int64),
        ("ts", np.int64),
        ("captured", np.uint32),
        ("length", np.uint32),
        ("interface", np.int32),
        ("dropped", np.uint32),
        ("direction", np.uint8),
    ],
    align=True,
)
NO_TIME = np.int64(-(1 << 63))
OUT_OF_RANGE = np.int64(-(1 << 63) + 1)


@inlined
def word(data, at, big):
    """Unsigned 32 bit word at an offset that the caller has checked."""
    a, b, c, d = np.int64(data[at]), np.int64(data[at + 1]), np.int64(data[at + 2]), np.int64(data[at + 3])
    if big:
        return (a << 24) | (b << 16) | (c << 8) | d
    return a | (b << 8) | (c << 16) | (d << 24)


@inlined
def half(data, at, big):
    """Unsigned 16 bit word at an offset that the caller has checked."""
    a, b = np.int64(data[at]), np.int64(data[at + 1])
    if big:
        return (a << 8) | b
    return a | (b << 8)
