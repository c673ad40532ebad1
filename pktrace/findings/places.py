"""Where packets of bare capture files were seen: files, rotated sets of files, interfaces, directions.

A *place* is what may become a point of run.toml. Files that continue each other are one place; a file with packets of
several interfaces is one place per interface.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.rows import ROW
from pktrace.observations.observe import Observations
from pktrace.run.model import ANY_DIRECTION

Array = np.ndarray[Any, Any]
NOWHERE = -1
_OVERLAP_NS = 10_000_000  # packets of one capture are this far out of order at most, where a set is rotated
_PAUSE_NS = 1_000_000_000  # files that only have a number in their name continue each other if no more lies between
_LONGEST_NAME = 60
_COMPRESSED = re.compile(r"\.(gz|zst|zstd|lz4)$", re.IGNORECASE)
_SUFFIX = re.compile(r"\.(pcapng|pcap|ntar|cap|dmp|trc|log)\d*$", re.IGNORECASE)
# What tools put into the names of files that continue each other, the kind of it behind the base name.
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

    `captures` are indices into the files, in order of time; `interface` is the selector for run.toml, None where the
    files are taken whole; `stem` and `label` are what names are made of: the file's and the interface's.
    """

    captures: tuple[int, ...]
    stem: str
    label: str | None = None
    interface: str | None = None
    direction: str = ANY_DIRECTION
    name: str = ""


def places_of(observations: Observations) -> tuple[list[Place], Array]:
    """Places and, per row, the place that it was seen at; NOWHERE for an interface that the file does not describe."""
    rows = observations.rows
    where = np.full(len(rows), NOWHERE, np.int32)
    bounds = np.searchsorted(rows["capture"], np.arange(len(observations.captures) + 1))
    places: list[Place] = []
    for files, stem in _sets(observations, bounds):
        seen = [_selectors(observations, slice(bounds[file], bounds[file + 1])) for file in files]
        selectors = sorted({entry for entries, _ in seen for entry in entries}, key=lambda entry: (entry[2], entry[0]))
        if len(selectors) <= 1:
            label = selectors[0][1] if selectors else None
            for file in files:
                where[bounds[file] : bounds[file + 1]] = len(places)
            places.append(Place(files, stem, label))
            continue
        for entry in selectors:
            of_place = []
            for file, (entries, chosen) in zip(files, seen, strict=True):
                if entry in entries:
                    of_place.append(file)
                    where[bounds[file] : bounds[file + 1]][chosen == entries.index(entry)] = len(places)
            places.append(Place(tuple(of_place), stem, entry[1] or f"if{entry[0].lstrip('#')}", entry[0]))
    where[rows["has"] & field.UNKNOWN_INTERFACE != 0] = NOWHERE
    return places, where


def _selectors(observations: Observations, part: slice) -> tuple[list[tuple[str, str | None, int]], Array]:
    """The interfaces of one file that have packets, as (selector, name, number), and per row which it is.

    An interface index in the packets (SLL2, modified pcap) tells more than the one interface `any` that has them all.
    """
    rows = observations.rows[part]
    if "ifindex" in (ROW.names or ()):
        indices = np.unique(rows["ifindex"])
        if len(indices[indices > 0]) > 1 and len(np.unique(rows["interface"])) == 1:
            chosen = np.searchsorted(indices, rows["ifindex"]).astype(np.int64)
            return [(str(number), None, number) for number in indices.tolist()], chosen
    numbers, first, inverse = np.unique(rows["interface"], return_index=True, return_inverse=True)
    entries: list[tuple[str, str | None, int]] = []
    of_number = np.full(len(numbers), NOWHERE, np.int64)
    by_name: dict[str, int] = {}
    for at, (number, row) in enumerate(zip(numbers.tolist(), first.tolist(), strict=True)):
        point = int(rows["point"][row])
        name = observations.points[point] if point >= 0 else None
        if number < 0:
            continue
        if name is not None and name in by_name:  # a later section of the file describes the interface again
            of_number[at] = by_name[name]
            continue
        of_number[at] = len(entries)
        if name is not None:
            by_name[name] = len(entries)
        entries.append((f"#{number}" if name is None else name, name, number))
    return entries, of_number[inverse]


def _sets(observations: Observations, bounds: Array) -> list[tuple[tuple[int, ...], str]]:
    """Files that belong together, in order of time, with the stem of their names."""
    groups: dict[tuple[str, str, int], list[int]] = {}
    for number, capture in enumerate(observations.captures):
        folder, name = os.path.split(capture)
        base, kind = _base(name)
        groups.setdefault((folder, base, kind), []).append(number)
    # x.pcap is the first file of a set that goes on with x.pcap1.
    for folder, base, kind in list(groups):
        plain = (folder, base, -1)
        if kind == 1 and plain in groups:
            groups[folder, base, kind] += groups.pop(plain)
    found = []
    for (_, base, kind), files in sorted(groups.items(), key=lambda item: item[0]):
        spans = {file: _span(observations.rows[bounds[file] : bounds[file + 1]]) for file in files}
        ordered = sorted(files, key=lambda file: (spans[file] is None, spans[file], observations.captures[file]))
        longest = _PAUSE_NS if kind == len(_ROTATED) - 1 else None
        if kind >= 0 and len(files) > 1 and _follow_each_other([spans[file] for file in ordered], longest):
            found.append((tuple(ordered), _stem(base)))
        else:
            found.extend(((file,), _stem(os.path.basename(observations.captures[file]))) for file in sorted(files))
    return found


def _base(name: str) -> tuple[str, int]:
    """What names of a rotated set have in common, and the kind of their counter; -1 for a name without one."""
    name = _COMPRESSED.sub("", name)
    for kind, pattern in enumerate(_ROTATED):
        found = pattern.match(name)
        if found:
            return found["base"] + (found["end"] or ""), kind
    return name, -1


def _stem(name: str) -> str:
    return _SUFFIX.sub("", _COMPRESSED.sub("", name))


def _span(rows: Array) -> tuple[int, int] | None:
    times = rows["ts_ns"][rows["has"] & field.HAS_TIME != 0]
    return (int(times.min()), int(times.max())) if len(times) else None


def _follow_each_other(spans: list[tuple[int, int] | None], longest_pause: int | None) -> bool:
    """Whether the files hold one span after the other; those without packets contradict nothing."""
    known = [span for span in spans if span is not None]
    pauses = [later[0] - earlier[1] for earlier, later in pairwise(known)]
    return all(pause >= -_OVERLAP_NS and (longest_pause is None or pause <= longest_pause) for pause in pauses)


def split_directions(
    places: list[Place], where: Array, rows: Array, keys: Array, usable: Array
) -> tuple[list[Place], Array]:
    """Places that saw packets twice, once going in and once going out, as two places each.

    Needed only where nothing else saw the packet in between; else a path simply visits the place twice.
    """
    split = []
    members = np.flatnonzero(usable)
    members = members[np.lexsort((rows["ts_ns"][members], keys[members]))]
    key, place, direction = keys[members], where[members], rows["direction"][members]
    # Neighbours in order of (key, time): the same packet at the same place, in and at once out again.
    pair = (key[1:] == key[:-1]) & (place[1:] == place[:-1]) & (direction[:-1] == 1) & (direction[1:] == 2)
    twice = np.bincount(place[1:][pair], minlength=len(places))
    total = np.bincount(place, minlength=len(places))
    for number, entry in enumerate(places):
        if entry.direction == ANY_DIRECTION and 10 * twice[number] > total[number]:
            split.append(number)
    result = list(places)
    where = where.copy()
    for number in split:
        where[(where == number) & (rows["direction"] == 2)] = len(result)
        result.append(replace(places[number], direction="out"))
        result[number] = replace(places[number], direction="in")
    return result, where


def named(places: list[Place]) -> list[Place]:
    """The places with names: that of the interface, else of the file; plain characters, each name once."""
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
        # `first_ns` is a column of the trajectories, and `<point>_2_ns` that of a second visit.
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
