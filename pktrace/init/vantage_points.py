"""Vantage points of bare capture files: files, rotated sets of files, interfaces, directions.

A *place* may become a point of run.toml. Files that continue each other are one place; a file with packets of several
interfaces is one place per interface.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from pktrace.init.samples import Sample, Tally
from pktrace.run.model import ANY_DIRECTION

Array = np.ndarray[Any, Any]
NOWHERE = -1
_IN, _OUT = 1, 2
_COUNTED = 1  # the pattern of tcpdump -C among the patterns below
_OVERLAP_NS = 10_000_000  # packets of a rotated capture are at most this far out of order
_PAUSE_NS = 1_000_000_000  # files with a plain number in their names continue each other across at most this gap
_LONGEST_NAME = 60
_COMPRESSED = re.compile(r"\.(gz|zst|zstd|lz4)$", re.IGNORECASE)
_SUFFIX = re.compile(r"\.(pcapng|pcap|ntar|cap|dmp|trc|log)\d*$", re.IGNORECASE)
# Name patterns of files that continue each other: the base name, then the counter of the tool.
_ROTATED = (
    re.compile(r"^(?P<base>.+)_\d{5}_\d{14}(?P<end>\.[^.]+)?$"),  # dumpcap -b
    re.compile(r"^(?P<base>.+\.(?:pcapng|pcap|cap|dmp))\d+(?P<end>)$", re.IGNORECASE),  # tcpdump -C: x.pcap1
    re.compile(  # tcpdump -G with a date, also behind a separator
        r"^(?P<base>.+?)[-_.]\d{4}-?\d{2}-?\d{2}(?:[-_T.]?\d{2}[-:_.]?\d{2}(?:[-:_.]?\d{2})?)?(?P<end>\.[^.]+)?$"
    ),
    re.compile(r"^(?P<base>.+?)[-_.]\d{2,}(?P<end>\.[^.]+)?$"),  # x-00, x_001
)


@dataclass(frozen=True)
class Place:
    """A place where packets were seen.

    `captures` are indices into the files, in order of time; `interface` is the selector for run.toml, None if the files
    are taken whole; names are made of `stem`, from the file, and `label`, from the interface.
    """

    captures: tuple[int, ...]
    stem: str
    label: str | None = None
    interface: str | None = None
    direction: str = ANY_DIRECTION
    name: str = ""
    tallies: dict[int, Tally] = field(default_factory=dict)  # by direction: unknown, in, out

    def tally(self) -> Tally:
        """All packets of the place."""
        total = Tally()
        for part in self.tallies.values():
            total.add(part)
        return total


@dataclass(frozen=True)
class _Selector:
    """A selector of the packets of one interface of a file: `text` for run.toml, `label` for people."""

    text: str
    label: str
    by_index: bool  # by the index in the packets, instead of the interface's description


def places_of(samples: Sequence[Sample], rows: Array) -> tuple[list[Place], Array, list[str]]:
    """(places; the place of each row; labels of interfaces without packets).

    Args:
        rows: the rows of all samples, one after the other.
    """
    where = np.full(len(rows), NOWHERE, np.int32)
    bounds = np.cumsum([0, *(len(sample.rows) for sample in samples)])
    places: list[Place] = []
    silent: list[str] = []
    for files, stem in _sets(samples):
        selectors = [_selectors(samples[file]) for file in files]
        found = sorted({selector for held in selectors for selector in held.values()}, key=_by_number)
        names = {interface.name for file in files for interface in samples[file].interfaces if interface.name}
        if found and not found[0].by_index:
            silent += sorted(names - {selector.label for selector in found})
        if len(found) <= 1:
            label = found[0].label if found and found[0].text in names else None
            tallies: dict[int, Tally] = {}
            for file in files:
                where[bounds[file] : bounds[file + 1]] = len(places)
                _add(tallies, samples[file], None)
            places.append(Place(files, stem, min(names) if len(names) == 1 else label, tallies=tallies))
            continue
        for selector in found:
            tallies, of_place = {}, []
            for file, held in zip(files, selectors, strict=True):
                if not _has(samples[file], selector):
                    continue
                of_place.append(file)
                keys = [key for key, value in held.items() if value == selector]
                part = slice(bounds[file], bounds[file + 1])
                own = rows["ifindex" if selector.by_index else "interface"][part]
                where[part][np.isin(own, keys)] = len(places)
                _add(tallies, samples[file], (selector.by_index, set(keys)))
            places.append(Place(tuple(of_place), stem, selector.label, selector.text, tallies=tallies))
    return places, where, silent


def _by_number(selector: _Selector) -> tuple[int, str]:
    """Sort key: numbers by value, then names by the alphabet."""
    digits = selector.text.removeprefix("#")
    return (int(digits), "") if digits.isascii() and digits.isdecimal() else (1 << 32, selector.text)


def _selectors(sample: Sample) -> dict[int, _Selector]:
    """The interfaces of one file that have packets, by their number.

    An interface index in the packets (SLL2, modified pcap) is more precise than the one interface `any` of all packets.
    Interfaces of one name are one: a later section of the file describes them again.
    """
    numbers = sorted({number for number, _, _ in sample.tallies})
    indices = sorted({index for _, index, _ in sample.tallies})
    if len(numbers) == 1 and len([index for index in indices if index]) > 1:
        return {index: _Selector(str(index), f"if{index}", True) for index in indices}
    found = {}
    for number in numbers:
        name = sample.interfaces[number].name if number < len(sample.interfaces) else None
        found[number] = _Selector(name or f"#{number}", name or f"if{number}", False)
    return found


def _has(sample: Sample, selector: _Selector) -> bool:
    """True if the file describes the interface, with or without packets; run.toml may then name it for the file."""
    if selector.by_index:
        return any(index for _, index, _ in sample.tallies)
    names = [interface.name or f"#{number}" for number, interface in enumerate(sample.interfaces)]
    return selector.text in names


def _add(tallies: dict[int, Tally], sample: Sample, chosen: tuple[bool, set[int]] | None) -> None:
    """Add the tallies of a file, all of them or only the chosen interfaces (indices or numbers)."""
    for (number, index, direction), tally in sample.tallies.items():
        if chosen is None or (index if chosen[0] else number) in chosen[1]:
            tallies.setdefault(direction, Tally()).add(tally)


def _sets(samples: Sequence[Sample]) -> list[tuple[tuple[int, ...], str]]:
    """Files that belong together, in order of time, with the stem of their names."""
    groups: dict[tuple[str, str, int], list[int]] = {}
    for number, sample in enumerate(samples):
        folder, name = os.path.split(sample.name)
        base, kind = _base(name)
        groups.setdefault((folder, base, kind), []).append(number)
    # x.pcap is the first file of a set that continues with x.pcap1.
    for folder, base, kind in list(groups):
        plain = (folder, base, -1)
        if kind == _COUNTED and plain in groups:
            groups[folder, base, kind] += groups.pop(plain)
    spans = [_span(sample) for sample in samples]
    found = []
    for (_, base, kind), files in sorted(groups.items(), key=lambda item: item[0]):
        ordered = sorted(files, key=lambda file: (spans[file] is None, spans[file], samples[file].name))
        longest = _PAUSE_NS if kind == len(_ROTATED) - 1 else None
        if kind >= 0 and len(files) > 1 and _follow_each_other([spans[file] for file in ordered], longest):
            found.append((tuple(ordered), _stem(base)))
        else:
            found.extend(((file,), _stem(os.path.basename(samples[file].name))) for file in sorted(files))
    return found


def _base(name: str) -> tuple[str, int]:
    """The common part of the names of a rotated set, and the kind of their counter; -1 for a name without a counter."""
    name = _COMPRESSED.sub("", name)
    for kind, pattern in enumerate(_ROTATED):
        found = pattern.match(name)
        if found:
            return found["base"] + (found["end"] or ""), kind
    return name, -1


def _stem(name: str) -> str:
    return _SUFFIX.sub("", _COMPRESSED.sub("", name))


def _span(sample: Sample) -> tuple[int, int] | None:
    tally = sample.tally()
    return None if tally.first_ns is None or tally.last_ns is None else (tally.first_ns, tally.last_ns)


def _follow_each_other(spans: list[tuple[int, int] | None], longest_pause: int | None) -> bool:
    """True if the spans of the files follow one another; files without packets contradict nothing."""
    known = [span for span in spans if span is not None]
    pauses = [later[0] - earlier[1] for earlier, later in pairwise(known)]
    return all(pause >= -_OVERLAP_NS and (longest_pause is None or pause <= longest_pause) for pause in pauses)


def split_directions(places: list[Place], where: Array, rows: Array, keys: Array) -> tuple[list[Place], Array]:
    """Split each place that saw packets twice, once going in and once going out, into two places.

    The split is needed only if no other place saw the packet in between; otherwise a path visits the place twice.
    """
    order = np.lexsort((rows["ts_ns"], keys))
    key, place, direction = keys[order], where[order], rows["direction"][order]
    # Neighbours in order of (key, time): the same packet at the same place, in and at once out again.
    pair = (key[1:] == key[:-1]) & (place[1:] == place[:-1]) & (direction[:-1] == _IN) & (direction[1:] == _OUT)
    twice = np.bincount(place[1:][pair & (place[1:] >= 0)], minlength=len(places))
    total = np.bincount(place[place >= 0], minlength=len(places))
    result = list(places)
    where = where.copy()
    for number, entry in enumerate(places):
        if 10 * twice[number] > total[number]:
            where[(where == number) & (rows["direction"] == _OUT)] = len(result)
            parts = {way: tally for way, tally in entry.tallies.items() if way != _OUT}
            result[number] = replace(entry, direction="in", tallies=parts)
            result.append(replace(entry, direction="out", tallies={_OUT: entry.tallies.get(_OUT, Tally())}))
    return result, where


def named(places: list[Place]) -> list[Place]:
    """The places with names: the name of the interface, else of the file; plain characters, each name once."""
    candidates = []
    for place in places:
        stem, label = _plain(place.stem), _plain(place.label or "")
        long = f"{stem}-{label}" if label else stem
        short = stem if not label or (label == "any" and place.interface is None) else label
        end = "" if place.direction == ANY_DIRECTION else f"-{place.direction}"
        whole = long if place.interface is not None else stem
        candidates.append([name + end for name in (short, whole, long)])
    names: list[str] = []
    for number, choices in enumerate(candidates):
        for rank, name in enumerate(choices):
            others = [other[rank] for at, other in enumerate(candidates) if at != number]
            if name not in others and name not in names:
                break
        else:
            name = choices[-1]
        names.append(name)
    taken: set[str] = set()
    result = []
    for place, name in zip(places, names, strict=True):
        # `first_ns` is a column of the trajectories, and `<point>_2_ns` is the column of a second visit.
        name = f"{name}-point" if name == "first" or name.endswith("_2") else name
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name}-{count}"
        taken.add(unique)
        result.append(replace(place, name=unique))
    return result


def _plain(text: str) -> str:
    """Text of letters, digits and `. _ -`, as a name for a point."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.")[:_LONGEST_NAME] or ("point" if text else "")
