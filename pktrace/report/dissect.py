"""Single packets in full, as Wireshark's dissectors see them (tshark through pyshark); never on the main path."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pktrace.capture.source import open_regular
from pktrace.errors import CallerError
from pktrace.inputs import Location
from pktrace.surroundings import elsewhere, homeless
from pktrace.visible import visible

# Fields of tshark that repeat another field, or that depend on the time of capture.
_REPEATS = ("[", "(resolved)", "OUI:", "LG bit", "IG bit", "Source or Destination", "Address:", "(LE)", "(relative)")
_MOST_PACKETS = 1000
_MOST_FRAMES_A_CALL = 200  # tshark takes its filter as one argument


def need_tshark() -> None:
    """Raises CallerError if tshark is not installed."""
    if shutil.which("tshark") is None:
        raise CallerError("--detail needs tshark to dissect packets; install the package tshark, or leave --detail out")


def dissect(capture: Location, frames: Sequence[int]) -> dict[int, list[str]]:
    """Headers of some packets of a capture file, a line per layer.

    Args:
        frames: 1-based, as Wireshark counts; at most 1,000 of them are shown.

    Returns:
        Lines by frame.

    Raises:
        CallerError: tshark is not installed.
        CaptureFileError: the capture cannot be read any more.
    """
    need_tshark()
    found: dict[int, list[str]] = {}
    with open_regular(capture, capture.name) as file:  # tshark gets the open file: no link can take its place
        _dissect(Path(f"/proc/{os.getpid()}/fd/{file.fileno()}"), frames, found)
    return found


def _dissect(capture: Path, frames: Sequence[int], found: dict[int, list[str]]) -> None:
    with elsewhere():  # pyshark reads a config.ini in the current folder, which names the program to start
        import pyshark

    wanted = sorted(set(frames))[:_MOST_PACKETS]
    with homeless():
        for begin in range(0, len(wanted), _MOST_FRAMES_A_CALL):
            part = wanted[begin : begin + _MOST_FRAMES_A_CALL]
            numbers = ", ".join(map(str, part))
            packets = pyshark.FileCapture(
                str(capture),
                display_filter=f"frame.number in {{{numbers}}}",
                keep_packets=False,
                use_json=False,
                tshark_path=shutil.which("tshark"),
            )
            try:
                for packet in packets:
                    found[int(packet.number)] = [_layer_line(layer) for layer in packet.layers]
            finally:
                packets.close()


def _layer_line(layer: object) -> str:
    """One layer: its name and its fields with their values, without fields that only repeat others."""
    name = str(getattr(layer, "layer_name", "")).upper()
    fields = []
    for field in getattr(layer, "field_names", []):
        value = getattr(layer, field, None)
        shown = getattr(value, "showname", None)
        if not shown or any(word in str(shown) for word in _REPEATS):
            continue
        fields.append(" ".join(str(shown).split()))
    return visible(f"{name}: {'; '.join(fields)}")
