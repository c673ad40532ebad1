"""Read the files of tcpdump (pcap) and dumpcap (pcapng, one interface, the byte order of this machine)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from ..processes import LabError

RawPacket = tuple[int, int, bytes]  # time in ns since the epoch, original length, bytes

_MAGICS = {  # first four bytes of a pcap: byte order, and nanoseconds per unit of the second time field
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_LARGEST_PACKET = 262_144  # the limit of both tools; a longer packet means that the file is damaged
_LARGEST_BLOCK = _LARGEST_PACKET + (1 << 16)


class RawFile:
    """Iterates over the packets in file order. Afterwards ``packets`` is their number, and ``cut`` is true if the file
    ended in the middle of a packet. LabError when the file is no capture."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._file = open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")  # noqa: SIM115 - closed by close()
        self.cut = False
        self.packets = 0
        self.linktype = 0
        self.snaplen = 0
        try:
            magic = self._file.read(4)
            self._pcapng = magic == _PCAPNG
            if self._pcapng:
                self._nanoseconds = 1000
                self._read_description()
            elif magic in _MAGICS:
                self._order, self._nanoseconds = _MAGICS[magic]
                head = self._file.read(20)
                if len(head) < 20:
                    raise LabError(f"{self._name}: no pcap file (its header is cut)")
                self.snaplen, linktype = struct.unpack(self._order + "II", head[12:])
                self.linktype = linktype & 0xFFFF  # the high half may carry an FCS length
            else:
                raise LabError(f"{self._name}: no pcap file (its first bytes are {magic.hex() or 'missing'})")
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[RawPacket]:
        for packet in self._pcapng_packets() if self._pcapng else self._pcap_packets():
            self.packets += 1
            yield packet

    def _pcap_packets(self) -> Iterator[RawPacket]:
        layout = struct.Struct(self._order + "IIII")
        nanoseconds = self._nanoseconds
        read = self._file.read
        while True:
            head = read(16)
            if len(head) < 16:
                self.cut = bool(head)
                return
            seconds, fraction, captured, original = layout.unpack(head)
            data = read(captured) if captured <= _LARGEST_PACKET else b""
            if len(data) < captured:
                self.cut = True
                return
            yield seconds * 1_000_000_000 + fraction * nanoseconds, original, data

    def _read_description(self) -> None:
        """Read the section header and the interface description, which stand before any packet."""
        self._file.seek(0)
        for kind, body in self._blocks():
            if kind != 1:
                continue
            self.linktype, _, self.snaplen = struct.unpack_from("<HHI", body)
            at = 8
            while at + 4 <= len(body):
                code, length = struct.unpack_from("<HH", body, at)
                if code == 9 and length == 1:  # if_tsresol; only decimal ones are written by the tool
                    self._nanoseconds = 10 ** max(0, 9 - body[at + 4])
                at += 4 + length + -length % 4
            return
        raise LabError(f"{self._name}: a pcapng without an interface")

    def _pcapng_packets(self) -> Iterator[RawPacket]:
        for kind, body in self._blocks():
            if kind == 6:
                _, high, low, captured, original = struct.unpack_from("<IIIII", body)
                yield (high << 32 | low) * self._nanoseconds, original, body[20 : 20 + captured]

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        while True:
            head = self._file.read(8)
            if len(head) < 8:
                self.cut = bool(head)
                return
            kind, total = struct.unpack("<II", head)
            body = self._file.read(total - 8) if 12 <= total <= _LARGEST_BLOCK else b""
            if len(body) < total - 8:
                self.cut = True
                return
            yield kind, body[:-4]


def packets_in(path: Path) -> int:
    """The number of complete packets in a file; 0 for a file without a complete capture header."""
    try:
        file = RawFile(path)
    except (LabError, OSError):
        return 0
    try:
        return sum(1 for _ in file)
    finally:
        file.close()
