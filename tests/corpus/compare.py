"""Compares one file: tshark's packets against the observations table, column by column."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pktrace.errors import CaptureFileError
from pktrace.observations.observe import observe_files
from pktrace.observations.table import observations_table
from tests.corpus.expected import COLUMNS, LINK_TYPES, expected_row
from tests.corpus.tshark import PCAP, dissect, frame_bytes

COMPARED = ("frame", "captured_length", "length", *COLUMNS)
_ENDINGS = ("capture_cut", "capture_corrupt")
_BEGINNINGS = {
    *PCAP,
    "0a0d0d0a",  # pcapng
    *("1f8b0800", "1f8b0808", "28b52ffd", "04224d18"),  # gzip, zstd, lz4
}
_MOST_LENGTH = 2**31 - 1
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Difference:
    """One value that is not the same; frame 0 speaks of the file as a whole."""

    frame: int
    name: str
    ours: Any
    tshark: Any

    def __str__(self) -> str:
        return f"frame {self.frame} {self.name}: ours {self.ours!r}, tshark {self.tshark!r}"


@dataclass
class Outcome:
    """What came of one file."""

    path: str
    packets: int = 0
    differences: list[Difference] = field(default_factory=list)


def compare_file(path: Path, shown: str) -> Outcome:
    """Compare one file; `shown` is its name in reports."""
    outcome = Outcome(shown)
    theirs = dissect(path)
    outcome.packets = len(theirs.frames)
    if not _known_format(path):
        theirs.opened = False  # tshark reads many formats; of those that are not ours we must say so
    say = outcome.differences.append
    try:
        observations = observe_files([str(path)])
    except CaptureFileError as error:
        if theirs.opened and (theirs.frames or theirs.ended is None):
            say(Difference(0, "opened", str(error), theirs.said or "read"))
        return outcome
    if not theirs.opened:
        # tshark does not open what contradicts itself at its beginning; we call that corrupt, and have no packet.
        if len(observations.rows) or not observations.damaged:
            say(Difference(0, "opened", f"{len(observations.rows)} packets", theirs.said))
        return outcome
    rows = observations_table(observations).select(("ts_ns", *COMPARED)).to_pylist()
    if len(rows) != len(theirs.frames):
        say(Difference(0, "packets", len(rows), f"{len(theirs.frames)} {theirs.said}"))
    counted = {name: observations.ledger.total(name) for name in (*_ENDINGS, "unknown_link_type")}
    # A length of megabytes is a contradiction and lets the file end in the middle of a block: either word will do.
    if any(counted[name] for name in _ENDINGS) != (theirs.ended is not None):
        say(Difference(0, "ended", {name: counted[name] for name in _ENDINGS}, theirs.said))
    if observations.damaged != (theirs.ended is not None):
        say(Difference(0, "damaged", observations.damaged, theirs.said))
    foreign = sum(frame.link_type not in LINK_TYPES for frame in theirs.frames)
    if foreign != counted["unknown_link_type"]:
        say(Difference(0, "unknown_link_type", counted["unknown_link_type"], foreign))
    copied: dict[int, tuple[bytes, int]] = {}

    def octets_of(number: int) -> bytes:
        if not copied:
            for frame, octets in zip(theirs.frames, frame_bytes(path), strict=False):
                copied[frame.number] = (octets, frame.captured)
        octets, captured = copied[number]
        return octets[len(octets) - captured :]  # behind the pseudo-header that tshark takes off

    for ours, frame in zip(rows, theirs.frames, strict=False):
        wanted = expected_row(frame, lambda number=frame.number: octets_of(number))  # type: ignore[misc]
        if not same_time(ours["ts_ns"], frame.time):
            say(Difference(frame.number, "ts_ns", ours["ts_ns"], frame.time))
        if frame.link_type not in LINK_TYPES or frame.link_type == "PPP with Directional Info":
            _with_pseudo_header(ours, wanted)
        if ours["length"] > _MOST_LENGTH and wanted["length"] == _MOST_LENGTH:
            wanted["length"] = ours["length"]  # tshark shows no larger one
        outcome.differences += [
            Difference(frame.number, name, ours[name], wanted[name]) for name in COMPARED if ours[name] != wanted[name]
        ]
    return outcome


def _known_format(path: Path) -> bool:
    """Whether a file begins as docs/decoding.md says that captures do (pcap, pcapng, gzip, zstd, lz4)."""
    with path.open("rb") as file:
        return file.read(4).hex() in _BEGINNINGS


def same_time(ours: int | None, text: str | None) -> bool:
    """Whether a time in ns is what tshark shows.

    tshark holds the part below a second as 32-bit signed nanoseconds. A file may hold a part of more than a second, up
    to 4294 s; then it shows seconds and that part unchanged side by side, wrapped around where it is over 2.1 s.
    """
    if text is None or ours is None:
        return ours is None and (text is None or int(float(text)) * 10**9 not in _INT64)
    seconds, _, part = text.lstrip("-").partition(".")
    if text.startswith("-") and ours == -(int(seconds) * 10**9 + int(part)):
        return True
    below = ours - int(seconds) * 10**9
    wrapped = (below + 2**31) % 2**32 - 2**31
    return below in (int(part), wrapped) if below < 10**9 else abs(wrapped) == int(part)


def _with_pseudo_header(ours: dict[str, Any], wanted: dict[str, Any]) -> None:
    """The file's lengths include the pseudo-header of some link types (ATM: 4 bytes, PPP with direction: 1).

    tshark takes it off the frame.
    """
    size = ours["captured_length"] - wanted["captured_length"]
    if 0 < size <= 16:
        wanted["captured_length"] += size
        wanted["length"] += size
