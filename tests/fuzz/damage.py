"""Cuts and flipped bits of a whole capture, and what must be true of what is read from them.

A cut file holds the first packets of the whole one, unchanged, and is cut, not corrupt. A flipped byte changes no
packet that ends before it. (Only the digest may differ: it covers what the shortest packet of its kind kept.)
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import Literal

from tests.fuzz.outcome import COMPRESSED, Outcome, Reader, same_rows

MASKS = (0xFF, 0x01, 0x80, 0x20)
# The head by which a format is recognised: pcap's file header, the shortest section header block of pcapng.
LONGEST_HEAD = 28
EVERYTHING = "PKTRACE_FUZZ_EVERYTHING" in os.environ


def sample(name: str, size: int, count: int) -> list[int]:
    """Some of the numbers below `size`, the same ones in every run; all of them if asked for or if they are few."""
    if EVERYTHING or count >= size:
        return list(range(size))
    return sorted(random.Random(name).sample(range(size), count))


def flips(name: str, size: int, count: int) -> list[tuple[int, int]]:
    """(position, mask) of single damaged bytes, sampled likewise."""
    return [(number // len(MASKS), MASKS[number % len(MASKS)]) for number in sample(name, size * len(MASKS), count)]


def flipped(content: bytes, position: int, mask: int) -> bytes:
    """The content with one byte changed."""
    return content[:position] + bytes([content[position] ^ mask]) + content[position + 1 :]


def complaints_about_cuts(reader: Reader, content: bytes, lengths: Iterable[int]) -> list[str]:
    """What does not hold of the content cut to each of these lengths (ascending)."""
    whole = reader.read(content)
    if whole.error is not None:
        return [f"the whole file: {whole.error}"]
    compressed = content.startswith(COMPRESSED)
    ends = _ends(content, whole)
    found, before = [], 0
    for length in lengths:
        try:
            got = reader.read(content[:length])
        except Exception as problem:  # noqa: BLE001 - which ones there are is the question
            found.append(f"cut to {length} bytes: {type(problem).__name__}: {problem}")
            continue
        complaint = _about_cut(whole, got, length, compressed, before, ends)
        before = max(before, got.frames)
        if complaint:
            found.append(f"cut to {length} bytes: {complaint}")
    return found


def _about_cut(whole: Outcome, got: Outcome, length: int, compressed: bool, before: int, ends: set[int]) -> str | None:
    if got.error is not None:
        return None if compressed or length < LONGEST_HEAD else f"no capture any more: {got.error}"
    if got.frames < before:
        return f"{got.frames} packets, where a shorter part had {before}"
    if got.frames > whole.frames:
        return f"{got.frames} packets, the whole file has {whole.frames}"
    column = same_rows(got.table, whole.table, got.frames)
    if column:
        return f"column {column} differs from that of the whole file"
    if whole.counted("capture_corrupt") == 0 and got.counted("capture_corrupt"):
        return "corrupt, where the file is only cut"
    if compressed:
        silent = got.frames < whole.frames and not got.counted("capture_cut")
    else:
        silent = length not in ends and not got.observations.damaged
    return "the ledger does not say that the file is cut" if silent else None


def _ends(content: bytes, whole: Outcome) -> set[int]:
    """Where a block or record of an undamaged file ends, so that a cut there goes unnoticed."""
    if whole.observations is None:
        return set()
    if content[:4] != b"\x0a\x0d\x0d\x0a":
        rows = whole.observations.rows
        return {24, *(rows["byte_offset"] + rows["captured_length"]).tolist()}
    ends: set[int] = set()
    at = 0
    order: Literal["little", "big"] = "little"
    while at + 12 <= len(content):
        if content[at : at + 4] == b"\x0a\x0d\x0d\x0a":
            order = "big" if content[at + 8] == 0x1A else "little"
        at += max(12, int.from_bytes(content[at + 4 : at + 8], order))
        ends.add(at)
    return ends


def complaints_about_flips(reader: Reader, content: bytes, damages: Iterable[tuple[int, int]]) -> list[str]:
    """What does not hold of the content with each of these single bytes changed."""
    whole = reader.read(content)
    if whole.error is not None:
        return [f"the whole file: {whole.error}"]
    compressed = content.startswith(COMPRESSED)
    offsets = whole.table.column("byte_offset").to_pylist()
    found = []
    for position, mask in damages:
        try:
            got = reader.read(flipped(content, position, mask))
        except Exception as problem:  # noqa: BLE001 - which ones there are is the question
            found.append(f"byte {position} ^ {mask:#04x}: {type(problem).__name__}: {problem}")
            continue
        complaint = None if compressed else _about_flip(whole, got, offsets, position)
        if complaint:
            found.append(f"byte {position} ^ {mask:#04x}: {complaint}")
    return found


def _about_flip(whole: Outcome, got: Outcome, offsets: list[int], position: int) -> str | None:
    if got.error is not None:
        return None if position < LONGEST_HEAD else f"no capture any more: {got.error}"
    # The block of a packet is over where the bytes of the next one begin.
    untouched = sum(offset <= position for offset in offsets[1:])
    if position < LONGEST_HEAD or not untouched:
        return None
    if got.frames < untouched:
        return f"{got.frames} packets, though {untouched} end before it"
    column = same_rows(got.table, whole.table, untouched)
    return f"column {column} of an earlier packet changes" if column else None
