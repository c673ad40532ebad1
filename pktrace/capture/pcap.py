"""pcap files: microseconds or nanoseconds, either byte order, the modified variant. Bytes in, values out.

Sources: draft-ietf-opsawg-pcap (PCAP Capture File Format), sections 4 and 5; the modified variant has record headers
of 24 bytes, with the interface's index, the protocol and the packet's type behind the usual 16.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from pktrace.capture.index import BROKEN, FULL, MORE, Interface
from pktrace.compiled import kernel
from pktrace.wire import byte, memory, word

# magic number -> (byte order, nanoseconds per unit of the fraction, bytes of a record header)
_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000, 16),
    b"\xa1\xb2\xc3\xd4": (">", 1000, 16),
    b"\x4d\x3c\xb2\xa1": ("<", 1, 16),
    b"\xa1\xb2\x3c\x4d": (">", 1, 16),
    b"\x34\xcd\xb2\xa1": ("<", 1000, 24),
    b"\xa1\xb2\xcd\x34": (">", 1000, 24),
}
_FILE_HEADER = 24
# The order of the two lengths in a record header: as today; swapped; swapped if captured exceeds length.
_TODAY, _SWAPPED, _PERHAPS_SWAPPED = 0, 1, 2


def refusal(head: bytes) -> str | None:
    """Why a file that begins with these bytes is no pcap file; None if it is one."""
    if head[:4] not in _MAGICS:
        return f"pcap: {'does not begin' if head else 'empty, no beginning'} with a magic number such as d4c3b2a1"
    if len(head) < _FILE_HEADER:
        return f"pcap: the file header has 24 bytes, the file only {len(head)}"
    return None


class PcapWalker:
    """The index of one pcap file; `head` are its first 24 bytes, in which `refusal` found no fault."""

    unknown_blocks = 0

    def __init__(self, head: bytes) -> None:
        order, self._fraction_ns, self._header = _MAGICS[head[:4]]
        self._big = order == ">"
        major, minor = struct.unpack(order + "HH", head[4:8])
        snap_length, network = struct.unpack(order + "II", head[16:24])
        # Lengths changed places in version 2.3; tcpdump of DG/UX wrote version 543.0 and swapped them too.
        self._lengths = _SWAPPED if major == 543 or (major == 2 and minor < 3) else _TODAY
        if major == 2 and minor == 3:
            self._lengths = _PERHAPS_SWAPPED
        self.interfaces = [Interface(network & 0xFFFF, snap_length, resolution_ns=self._fraction_ns)]
        self.position = _FILE_HEADER
        self._frames = 0

    def walk(self, data: np.ndarray[Any, Any], size: int, packets: np.ndarray[Any, Any]) -> tuple[int, int]:
        """Index whole records; see `index.Walker`."""
        count, self.position, stopped = _scan(
            data, size, self.position, packets, self._frames, self._big, self._fraction_ns, self._header, self._lengths
        )
        self._frames += int(count)
        return int(count), int(stopped)

    def finish(self) -> None:
        """A pcap file has no statistics of its interface behind the header."""

    def missing(self) -> bool:
        """Nothing is ever skipped in a pcap file."""
        return False


@kernel
def _scan(data, size, position, packets, frames, big, fraction_ns, header, lengths):
    """Walk records from `position`; returns (packets, position of the first incomplete record, MORE or FULL or BROKEN).

    Every read is checked against `size`; each step advances by at least 16 bytes.
    """
    source = memory(data)
    count = 0
    while position + header <= size:
        captured = word(source, position + 8, big)
        length = word(source, position + 12, big)
        if lengths == 1 or (lengths == 2 and captured > length):
            captured, length = length, captured
        if captured > 262_144:
            return count, position, BROKEN
        if captured > size - position - header:
            break
        if count == len(packets):
            return count, position, FULL
        packet = packets[count]
        packet["frame"] = frames + count + 1
        packet["offset"] = position + header
        packet["ts"] = word(source, position, big) * 1_000_000_000 + word(source, position + 4, big) * fraction_ns
        packet["packet_id"] = 0
        packet["captured"] = captured
        packet["length"] = length
        packet["interface"] = 0
        packet["dropped"] = 0
        packet["options"] = 0
        packet["options_end"] = 0
        packet["marks"] = 0
        packet["ifindex"] = 0
        packet["direction"] = 0
        if header == 24:
            packet["ifindex"] = word(source, position + 16, big)
            packet["direction"] = 2 if byte(source, position + 22) == 4 else 1
        count += 1
        position += header + captured
    return count, position, MORE
