"""The radix sort of keys against NumPy's stable sort."""

from __future__ import annotations

import numpy as np
import pytest

from pktrace.trajectories.sorting import sorted_by_key


@pytest.mark.parametrize("size", [0, 1, 2, 3, 100, 5000])
@pytest.mark.parametrize("kind", ["hashes", "repeated", "small", "one", "upper bits alike", "lower bits alike"])
def test_keys_are_put_in_order_and_equal_ones_stay_as_they_stand(size: int, kind: str) -> None:
    rng = np.random.default_rng(size)
    keys = rng.integers(0, 1 << 64, size, np.uint64)
    if kind == "repeated":
        keys = keys[rng.integers(0, max(1, size // 4), size)] if size else keys
    elif kind == "small":
        keys %= np.uint64(300)
    elif kind == "one":
        keys[:] = 7
    elif kind == "upper bits alike":
        keys >>= np.uint64(20)
    elif kind == "lower bits alike":
        keys <<= np.uint64(40)
    members = rng.permutation(size)
    order, values = sorted_by_key(keys, members)
    expected = members[np.argsort(keys[members], kind="stable")]
    assert order.tolist() == expected.tolist()
    assert values.tolist() == keys[expected].tolist()
