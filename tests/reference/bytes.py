"""Captured bytes that know where they end."""

from __future__ import annotations

import ipaddress


class Bytes:
    """Captured bytes: a number that is not all there is None."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def number(self, at: int, size: int) -> int | None:
        """Big-endian unsigned number of ``size`` bytes at ``at``."""
        if at < 0 or at + size > len(self.data):
            return None
        return int.from_bytes(self.data[at : at + size], "big")

    def little(self, at: int, size: int) -> int | None:
        """The same, little-endian."""
        if at < 0 or at + size > len(self.data):
            return None
        return int.from_bytes(self.data[at : at + size], "little")

    def certain(self, at: int, size: int) -> int:
        """The same where the bytes are known to be there."""
        value = self.number(at, size)
        if value is None:
            raise IndexError((at, size, len(self.data)))
        return value

    def address(self, at: int, size: int) -> str | None:
        """An address as text, None if cut."""
        if at + size > len(self.data):
            return None
        return str(ipaddress.ip_address(self.data[at : at + size]))

    def until(self, end: int) -> Bytes:
        """The same bytes, but none at ``end`` or behind it."""
        return Bytes(self.data[:end])

    @staticmethod
    def words_of(address: str) -> list[int]:
        """The 16-bit words of an address, for checksums."""
        packed = ipaddress.ip_address(address).packed
        return [packed[at] << 8 | packed[at + 1] for at in range(0, len(packed), 2)]
