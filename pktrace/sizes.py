"""Sizes in their usual text forms: 64G, 1.5 GiB, 2000000."""

from __future__ import annotations

import re

_UNITS = "KMGTP"
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,3})?)\s*(?:([KMGTP])(?:i?B)?|B)?", re.IGNORECASE)


def size_of(text: str, base: int = 1024) -> int:
    """The number in a text such as `64G`; `base` is 1024 for bytes and 1000 for counts.

    Raises:
        ValueError: the text is no number with a unit.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size; sizes are written as 500M, 64G or 2T")
    power = 1 + _UNITS.index(found[2].upper()) if found[2] else 0
    return int(float(found[1]) * base**power) if "." in found[1] else int(found[1]) * base**power


def as_size(count: int) -> str:
    """Bytes with three digits and a unit: 1.25 GiB."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1000 or unit == "TiB":
            break
        value /= 1024
    return f"{count} bytes" if unit == "bytes" else f"{value:.3g} {unit}"
