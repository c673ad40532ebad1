"""Bounds that several matchers share; each matcher has its own ones beside its rule."""

from __future__ import annotations

import numpy as np

# How far before its cause a sighting may lie on one clock, ns: captures stamp some packets late.
EARLY_NS = np.int64(1_000_000)
# How far two stamps of one clock may be in the wrong order where nothing is known of them, ns.
STAMP_NS = 20_000
# Payload bytes that distinguish a packet from those of strangers.
ENOUGH_BYTES = 16
