"""pcap files: microseconds or nanoseconds, either byte order. A buffer in, values out.

Source: draft-ietf-opsawg-pcap (PCAP Capture File Format), sections 4 and 5.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from pktrace.capture.index import CUT, WHOLE, Capture, Interface
from pktrace.compiled import kernel
from pktrace.wire import PACKET, word

_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_FILE_HEADER = 24
_RECORD_HEADER = 16
_FIRST_PACKETS = 4096


def refusal(head: bytes) -> str | None:
    """Why a file that begins with these bytes is no pcap file; None if it is one."""
    if head[:4] not in _MAGICS:
        return f"pcap: begins with {head[:4].hex() or 'nothing'}, not with a magic number such as d4c3b2a1"
    if len(head) < _FILE_HEADER:
        return f"pcap: the file header has 24 bytes, the file only {len(head)}"
    return None


def read(data: np.ndarray[Any, Any]) -> Capture:
    """Index a pcap file.

    Args:
        data: uint8, the whole file; `refusal` has found nothing wrong with its head.

    Returns:
        The capture; `ended` says whether the last record is whole.
    """
    order, fraction_ns = _MAGICS[data[:4].tobytes()]
    snap_length, network = struct.unpack(order + "II", data[16:24].tobytes())
    interface = Interface(link_type=network & 0xFFFF, snap_length=snap_length, resolution_ns=fraction_ns)
    packets = np.zeros(min(_FIRST_PACKETS, len(data) // _RECORD_HEADER + 1), PACKET)
    count, position, full = 0, _FILE_HEADER, True
    while full:
        count, position, full = _scan(data, packets, count, position, order == ">", fraction_ns)
        if full:
            packets = np.concatenate([packets, np.zeros(len(packets), PACKET)])
    ended = WHOLE if position == len(data) else CUT
    return Capture("pcap", packets[:count].copy(), [interface], ended, int(position))


@kernel
def _scan(data, packets, count, position, big, fraction_ns):
    """Walk the records from `position`; returns (packets, offset where reading stopped, no room left).

    Every read is checked against the size of the file; each step goes on by at least 16 bytes.
    """
    size = len(data)
    while position + 16 <= size:
        captured = word(data, position + 8, big)
        if captured > size - position - 16:
            break
        if count == len(packets):
            return count, position, True
        packet = packets[count]
        packet["offset"] = position + 16
        packet["ts"] = word(data, position, big) * 1_000_000_000 + word(data, position + 4, big) * fraction_ns
        packet["captured"] = captured
        packet["length"] = word(data, position + 12, big)
        count += 1
        position += 16 + captured
    return count, position, False
