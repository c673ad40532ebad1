"""Which datagram a fragment is a part of (RFC 791 3.2, RFC 8200 4.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.reference.sightings import Key, Sighting

WITH_PORTS = (1, 6, 17, 58, 132, 136)


@dataclass(eq=False)
class Datagram:
    """A first fragment, and what was put to it."""

    first: Sighting
    key: Key
    parts: list[Sighting] = field(default_factory=list)

    def has_room_for(self, part: Sighting) -> bool:
        """None of its bytes are there yet, and nothing lies behind an end."""
        held = [self.first, *self.parts]
        if any(begin(one) < end(part) and begin(part) < end(one) for one in held):
            return False
        last = [one for one in held if is_last(one)]
        if last and (is_last(part) or end(part) > end(last[0])):
            return False
        return not (is_last(part) and any(end(one) > begin(part) for one in held))


def begin(part: Sighting) -> int:
    return int(part.row["fragment_offset"] or 0)


def end(part: Sighting) -> int:
    return begin(part) + int(part.row["_segment_length"])


def is_last(part: Sighting) -> bool:
    return not part.row["more_fragments"]


def shows_its_flow(sighting: Sighting) -> bool:
    """It has ports, or the identifier of an ICMP query, or is of a protocol in which addresses are all."""
    if sighting.row["protocol"] not in WITH_PORTS:
        return True
    return sighting.row["sport"] is not None or sighting.row["icmp_id"] is not None


def is_fragment(sighting: Sighting) -> bool:
    return bool(begin(sighting) or sighting.row["more_fragments"])


def datagram_keys(
    sent: Sequence[Sighting], loose: Sequence[Sighting], first_flow: Callable[[Sighting], object], threshold_ns: int
) -> tuple[dict[Sighting, Key], set[Key]]:
    """What each is a part of; and of which of these it cannot be told whether some fragment is theirs.

    What shows its flow is of that, as it began, and of its identification. Other fragments are of the same as what
    shows one, has their addresses, protocol and identification, whose first fragment passed their point, and that has
    room for them; what later points saw of them is of the same. Failing that, of the only one near them in time.
    (What the bytes themselves tell is not asked here: random runs have no captures.)
    """
    identities: dict[Key, list[Sighting]] = {}
    as_sent = set(sent)
    for sighting in sorted([*sent, *loose], key=in_time):
        row = sighting.row
        identities.setdefault((row["source"], row["destination"], row["protocol"], sighting.ip_id), []).append(sighting)
    keys: dict[Sighting, Key] = {}
    for sighting in (*sent, *loose):
        if shows_its_flow(sighting):
            keys[sighting] = ("flow", first_flow(sighting), sighting.ip_id)
    rivals = wholes_by_beginning([*sent, *loose], keys, first_flow, threshold_ns)
    open_: list[tuple[Key, list[Sighting], list[Sighting]]] = []
    for identity, members in identities.items():
        named = [s for s in members if shows_its_flow(s)]
        others = [s for s in members if not shows_its_flow(s) and is_fragment(s)]
        keys |= dict.fromkeys((s for s in members if not shows_its_flow(s) and not is_fragment(s)), identity)
        if not named:
            keys |= dict.fromkeys(others, identity)
            continue
        for some in ([s for s in members if s in as_sent], members):  # what was sent is told without the rest
            for point in sorted({s.point for s in some}):
                keys |= by_room([s for s in some if s.point == point and is_fragment(s)], keys, threshold_ns)
        open_.append((identity, named, others))
    as_at_the_first_point([s for _, _, others in open_ for s in others], keys, threshold_ns)
    for identity, named, others in open_:
        for sighting in others:
            if sighting in keys:
                continue
            near = {keys[s] for s in named if abs(s.time - sighting.time) <= threshold_ns}
            if len(near) > 1:
                rivals |= near
                keys[sighting] = ("unclear", sighting.number)
            else:
                keys[sighting] = next(iter(near), identity)
    return keys, rivals


def wholes_by_beginning(
    sightings: Sequence[Sighting],
    keys: dict[Sighting, Key],
    first_flow: Callable[[Sighting], object],
    threshold_ns: int,
) -> set[Key]:
    """Whole IPv6 packets have no identification: they are of the one datagram of their flow near them in time that
    begins with the same bytes. Returns what is told of where there are several.
    """
    six = [s for s in sightings if s.row["ip_version"] == 6 and shows_its_flow(s)]
    rivals: set[Key] = set()
    found: dict[Sighting, Key] = {}
    for whole in six:
        if is_fragment(whole):
            continue
        firsts = [
            s
            for s in six
            if is_fragment(s)
            and begin(s) == 0
            and (first_flow(s), s.content) == (first_flow(whole), whole.content)
            and abs(s.time - whole.time) <= threshold_ns
        ]
        near = {keys[s] for s in firsts}
        if len(near) > 1:
            rivals |= {*near, keys[whole]}
        elif near:
            found[whole] = next(iter(near))
    keys.update(found)
    return rivals


def in_time(sighting: Sighting) -> tuple[int, int]:
    return sighting.time, sighting.number


def by_room(fragments: Sequence[Sighting], keys: dict[Sighting, Key], threshold_ns: int) -> dict[Sighting, Key]:
    """The fragments of one point and identification that only one datagram has room for; what is known stays so."""
    started: list[Datagram] = []
    waiting: list[Sighting] = []
    home: dict[Sighting, Datagram] = {}
    unclear: set[Sighting] = set()

    def may_be_of(part: Sighting, datagram: Datagram) -> bool:
        return keys.get(part, datagram.key) == datagram.key and datagram.has_room_for(part)

    for sighting in fragments:
        if shows_its_flow(sighting):
            datagram = Datagram(sighting, keys[sighting])
            started.append(datagram)
            for part in waiting[::-1]:
                if sighting.time - part.time <= threshold_ns and may_be_of(part, datagram):
                    waiting.remove(part)
                    home[part] = datagram
                    datagram.parts.append(part)
            continue
        near = [d for d in started if sighting.time - d.first.time <= threshold_ns and may_be_of(sighting, d)]
        if len({datagram.key for datagram in near}) > 1:
            unclear.add(sighting)
        elif near:
            home[sighting] = near[-1]
            near[-1].parts.append(sighting)
        else:
            waiting.append(sighting)
    for part, datagram in home.items():
        for other in started:
            near_it = other.key != datagram.key and abs(other.first.time - part.time) <= threshold_ns
            if near_it and part not in keys and other.has_room_for(part):
                unclear.add(part)
    return {part: datagram.key for part, datagram in home.items() if part not in unclear}


def as_at_the_first_point(fragments: Sequence[Sighting], keys: dict[Sighting, Key], threshold_ns: int) -> None:
    """What the first point to see some bytes tells of them, if it is one thing, goes for all points."""
    alike: dict[Key, list[Sighting]] = {}
    for sighting in sorted(fragments, key=in_time):
        alike.setdefault(sighting.bytes_key, []).append(sighting)
    for members in alike.values():
        groups: list[list[Sighting]] = []
        for sighting in members:
            if not groups or sighting.time - groups[-1][-1].time > threshold_ns:
                groups.append([])
            groups[-1].append(sighting)
        for group in groups:
            told = {keys[s] for s in group if s.point == group[0].point and s in keys}
            if len(told) == 1:
                for sighting in group:
                    keys[sighting] = next(iter(told))
