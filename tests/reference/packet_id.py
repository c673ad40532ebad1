"""The rung packet_id: what captured a packet at several points gave it one number there (pcapng epb_packetid)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.reference.run import Run
from tests.reference.sightings import Key, Sighting, Trajectory


def number_of(run: Run, sighting: Sighting) -> Key | None:
    """Equal numbers within one capture file, or within the files of one declared session, are one packet."""
    number = sighting.row.get("packet_id")
    if number is None:
        return None
    session = run.point(sighting.point).session
    return ("session", session, number) if session else ("file", sighting.row["capture"], number)


def first_keys(run: Run, sightings: Sequence[Sighting]) -> dict[Sighting, Key]:
    """The bytes of each sighting; numbered packets go by those of their first sighting, whatever changed in them.

    Packets that begin with equal bytes are told apart by their numbers, if every sighting of these bytes has one.
    """
    packets: dict[Key, list[Sighting]] = {}
    without: set[Key] = set()
    for sighting in sightings:
        number = number_of(run, sighting)
        if number is None:
            without.add(sighting.bytes_key)
        else:
            packets.setdefault(number, []).append(sighting)
    keys = {s: s.bytes_key for s in sightings}
    began = {number: min(alike, key=lambda s: s.number).bytes_key for number, alike in packets.items()}
    equal = Counter(began.values())
    for number, alike in packets.items():
        first = began[number]
        for sighting in alike:
            keys[sighting] = number if equal[first] > 1 and first not in without else first
    return keys


def is_numbered(run: Run, packet: Trajectory) -> bool:
    """It was seen at several positions, and everywhere with one number."""
    numbers = {number_of(run, s) for s in packet.seen.values()}
    return len(packet.seen) > 1 and len(numbers) == 1 and None not in numbers
