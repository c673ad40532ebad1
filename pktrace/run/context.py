"""What a run's context/ says that the analysis uses: the data plane's own counters, before and after."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_LARGEST_FILE = 16 << 20
_MOST_FILES = 1000
_TEXT_COUNTER = re.compile(r"\bcounter\s{1,9}\"?([^\s\"{]{1,200})\"?\s{0,9}\{\s{0,99}packets\s{1,9}(\d{1,18})\b")


def marked_incomplete(folder: Path) -> bool:
    """Whether the recorder says that something went wrong (context/incomplete.txt)."""
    try:
        return (folder / "context" / "incomplete.txt").exists()
    except OSError:
        return False


def counter_packets(folder: Path) -> dict[str, int]:
    """Packets that each named counter counted during the run.

    Reads every file in context/ that holds counters, whatever its name: `nft -j list counters`, `nft -j list ruleset`,
    `nft list counters`; and plain JSON objects of name to packets where the file's name says counter. What files with
    "before" in their name say is subtracted; a counter that is smaller after than before was reset in between, and
    counts as it stands after. Where several files tell of one counter, one whose name says counter is believed, since
    it is read closer to the end of the run than a rule set.
    """
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    context = folder / "context"
    try:
        files = [file for file in sorted(context.iterdir())[:_MOST_FILES] if file.is_file()]
    except OSError:
        return {}
    for file in sorted(files, key=lambda file: "counter" in file.name.lower()):
        (before if "before" in file.name.lower() else after).update(_counters(file))
    return {
        name: packets - before.get(name, 0) if packets >= before.get(name, 0) else packets
        for name, packets in after.items()
    }


def _counters(file: Path) -> dict[str, int]:
    try:
        if file.stat().st_size > _LARGEST_FILE:
            return {}
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {name: int(packets) for name, packets in _TEXT_COUNTER.findall(text)}
    found: dict[str, int] = {}
    if isinstance(document, dict) and isinstance(document.get("nftables"), list):
        for entry in document["nftables"]:
            counter = entry.get("counter") if isinstance(entry, dict) else None
            if isinstance(counter, dict):
                _keep(found, counter.get("name"), counter.get("packets"))
    elif isinstance(document, dict) and "counter" in file.name.lower():
        for name, value in document.items():
            _keep(found, name, value.get("packets") if isinstance(value, dict) else value)
    return found


def _keep(found: dict[str, int], name: Any, packets: Any) -> None:
    if isinstance(name, str) and isinstance(packets, int) and not isinstance(packets, bool) and 0 <= packets < 1 << 62:
        found[name] = packets
