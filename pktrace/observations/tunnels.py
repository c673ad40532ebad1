"""Tunnel headers as text, the way the `tunnel` column shows them (docs/decoding.md)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from pktrace.decode.tunnels import NAMES, TunnelTable


def address_text(version: int, high: int, low: int) -> str:
    """An address in its usual text form."""
    if version == 6:
        return str(ipaddress.IPv6Address(high << 64 | low))
    return str(ipaddress.IPv4Address(low & 0xFFFFFFFF))


def tunnel_texts(table: TunnelTable, codes: Iterable[int] | None = None) -> list[str]:
    """The texts of some codes of the table, or of all from 1 on: tunnel kinds, numbers and endpoints."""
    texts: list[str] = []
    for code in range(1, int(table.count[0]) + 1) if codes is None else codes:
        shown = []
        for entry in table.chain(int(code)):
            words = [NAMES[entry["kind"]]]
            if entry["id"] >= 0:
                words.append(str(entry["id"]))
            if entry["version"]:
                version = int(entry["version"])
                source, destination = (
                    address_text(version, int(entry[f"{end}_high"]), int(entry[f"{end}_low"]))
                    for end in ("source", "destination")
                )
                words.append(f"{source}>{destination}")
            shown.append(" ".join(words))
        texts.append(" / ".join(shown))
    return texts
