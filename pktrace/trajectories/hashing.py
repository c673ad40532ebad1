"""A hash over columns of many rows at once."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def mixed(*columns: Array) -> Array:
    """A 64 bit hash per row of some columns."""
    state = np.full(len(columns[0]), 0x9E3779B97F4A7C15, np.uint64)
    for column in columns:
        state = (state ^ column.astype(np.uint64)) * np.uint64(0xC2B2AE3D27D4EB4F)
        state ^= state >> np.uint64(29)
        state *= np.uint64(0x165667B19E3779F9)
        state ^= state >> np.uint64(32)
    return state
