"""Reading unsigned words out of a buffer in either byte order; for kernels, which check the bounds before."""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined


@inlined
def word(data, at, big):  # type: ignore[no-untyped-def]
    """Unsigned 32 bit word at a checked offset."""
    a, b, c, d = np.int64(data[at]), np.int64(data[at + 1]), np.int64(data[at + 2]), np.int64(data[at + 3])
    if big:
        return (a << 24) | (b << 16) | (c << 8) | d
    return a | (b << 8) | (c << 16) | (d << 24)


@inlined
def half(data, at, big):  # type: ignore[no-untyped-def]
    """Unsigned 16 bit word at a checked offset."""
    a, b = np.int64(data[at]), np.int64(data[at + 1])
    if big:
        return (a << 8) | b
    return a | (b << 8)
