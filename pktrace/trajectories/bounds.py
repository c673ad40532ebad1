"""Bounds that several matchers share; the other bounds of a matcher stand beside its rule."""

from __future__ import annotations

import numpy as np

# A sighting may lie this far before its cause on one clock, ns: captures stamp some packets late.
EARLY_NS = np.int64(1_000_000)
# Two stamps of one clock may be this far in the wrong order if nothing is known about them, ns.
STAMP_NS = 20_000
# Payload bytes that distinguish a packet from those of strangers.
ENOUGH_BYTES = 16
