"""Split superpackets into segments and merge segments into superpackets, like a network card."""

from __future__ import annotations

from .frames import GSO_TCPV4, GSO_TCPV6, GSO_UDP, TCP, UDP, Frame, VnetHeader

_FIN, _PSH, _ACK, _CWR = 0x01, 0x08, 0x10, 0x80
_LONGEST = 65_535


def split(frame: Frame, mtu: int) -> list[Frame]:
    """Segments of at most ``mtu`` bytes (IP header included) with full checksums, or the frame itself.

    TCP of any length is split, UDP only if its sender asked for it (a superpacket of datagrams): other packets would
    need fragments. The IPv4 identification counts on from the first segment, as in the kernel.
    """
    if frame.payload is None or frame.protocol not in (TCP, UDP):
        return [frame]
    room = mtu - (frame.payload - frame.layer3)
    if frame.protocol == UDP and frame.gso_type != GSO_UDP:
        return [frame]
    size = min(room, frame.vnet.gso_size or room)
    length = frame.end - frame.payload
    if size <= 0 or length <= size:
        return [frame]
    headers = frame.data[: frame.payload]
    segments = []
    for number, start in enumerate(range(frame.payload, frame.end, size)):
        data = headers + frame.data[start : min(start + size, frame.end)]
        if frame.version == 4:
            data[18:20] = ((frame.word(18) + number) & 0xFFFF).to_bytes(2, "big")
        if frame.protocol == TCP:
            _number_segment(data, frame, start - frame.payload, first=number == 0, last=start + size >= frame.end)
        segment = Frame(VnetHeader(), data)
        segment.end = len(data)
        segment.set_length()
        segment.finish()
        segments.append(segment)
    return segments


def _number_segment(data: bytearray, frame: Frame, offset: int, *, first: bool, last: bool) -> None:
    at = frame.layer4
    sequence = int.from_bytes(frame.data[at + 4 : at + 8], "big") + offset
    data[at + 4 : at + 8] = (sequence & 0xFFFFFFFF).to_bytes(4, "big")
    if not last:
        data[at + 13] &= ~(_FIN | _PSH) & 0xFF
    if not first:
        data[at + 13] &= ~_CWR & 0xFF


class Merge:
    """Consecutive segments of one flow, joined into one growing superpacket."""

    def __init__(self, first: Frame, due_ns: int) -> None:
        self.frames = [first]
        self.due_ns = due_ns
        self._size = _payload_length(first)
        self._length = first.end - first.layer3
        self._closed = bool(_flags(first) & (_PSH | _FIN))

    @staticmethod
    def possible(frame: Frame) -> bool:
        """True for TCP with payload and plain flags, one segment long."""
        return (
            frame.protocol == TCP
            and frame.payload is not None
            and not frame.vnet.gso_type
            and _payload_length(frame) > 0
            and not _flags(frame) & ~(_ACK | _PSH | _FIN)
            and (frame.version == 6 or not frame.word(20) & 0x2000)
        )

    @staticmethod
    def flow(frame: Frame) -> tuple[bytes, int, int]:
        start, length = frame.address_at("source")
        addresses = bytes(frame.data[start : start + 2 * length])
        return addresses, frame.sport or 0, frame.dport or 0

    @property
    def closed(self) -> bool:
        """True if no segment can follow: the last one was short, or pushed."""
        return self._closed

    def takes(self, frame: Frame) -> bool:
        first, last = self.frames[0], self.frames[-1]
        at, new = last.layer4, frame.layer4
        follows = (_sequence(last) + _payload_length(last)) & 0xFFFFFFFF == _sequence(frame)
        return (
            not self._closed
            and follows
            and _payload_length(frame) <= self._size
            and self._length + _payload_length(frame) <= _LONGEST
            and len(self.frames) < 64
            # Acknowledgement, window and options must be equal, and TTL and the type of service, too.
            and first.data[first.layer4 + 8 : first.layer4 + 12] == frame.data[new + 8 : new + 12]
            and last.data[at + 14 : at + 16] == frame.data[new + 14 : new + 16]
            and last.data[at + 20 : last.payload] == frame.data[new + 20 : frame.payload]
            and _constant(last) == _constant(frame)
        )

    def add(self, frame: Frame) -> None:
        self.frames.append(frame)
        self._length += _payload_length(frame)
        self._closed = _payload_length(frame) < self._size or bool(_flags(frame) & (_PSH | _FIN))

    def superpacket(self) -> Frame:
        """All segments as one, with a partial checksum; a single segment unchanged."""
        if len(self.frames) == 1:
            return self.frames[0]
        first = self.frames[0]
        assert first.payload is not None
        data = first.data[: first.end]
        for frame in self.frames[1:]:
            assert frame.payload is not None
            data += frame.data[frame.payload : frame.end]
        at = first.layer4
        data[at + 13] |= _flags(self.frames[-1]) & (_PSH | _FIN)
        whole = Frame(
            VnetHeader(1, GSO_TCPV4 if first.version == 4 else GSO_TCPV6, first.payload, self._size, at, 16), data
        )
        whole.end = len(data)
        whole.set_length()
        whole.finish()  # for the network header; the next splitter finishes the checksum of the transport
        data[at + 16 : at + 18] = whole.pseudo_sum().to_bytes(2, "big")
        return whole


def _flags(frame: Frame) -> int:
    return frame.data[frame.layer4 + 13]


def _sequence(frame: Frame) -> int:
    return int.from_bytes(frame.data[frame.layer4 + 4 : frame.layer4 + 8], "big")


def _payload_length(frame: Frame) -> int:
    return frame.end - (frame.payload or frame.end)


def _constant(frame: Frame) -> bytes:
    """MAC addresses, and the fields of the network header that are equal in all segments."""
    data = frame.data
    if frame.version == 4:
        return bytes(data[:14] + data[14:16] + data[20:24] + data[34 : frame.layer4])
    return bytes(data[:14] + data[14:18] + data[20:22])
