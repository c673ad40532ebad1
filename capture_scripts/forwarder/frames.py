"""One Ethernet frame that may be changed on its way: find its headers, keep its checksums correct.

A full checksum is updated by the difference that a change makes (RFC 1624). A partial checksum (the sender leaves it to
the network card) holds the sum of the pseudo header alone, so only changes of addresses matter. A checksum that was
wrong before stays wrong, on purpose.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Any, NamedTuple

from .batches import VNET_HEADER

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
MARK = b"PKTR"
MARKER_BYTES = 14
_IPV4, _IPV6 = 0x0800, 0x86DD
_HEADERS_OF_IPV6 = (0, 43, 60)  # hop by hop, routing, destination options
_FRAGMENT_HEADER = 44
_CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}
_NEEDS_CHECKSUM = 1
GSO_TCPV4, GSO_TCPV6, GSO_UDP = 1, 4, 5
_ECN_BIT = 0x80  # flag in the virtio header beside the kind of superpacket


class VnetHeader(NamedTuple):
    """virtio_net_hdr, in the byte order of the machine."""

    flags: int = 0
    gso_type: int = 0
    header_length: int = 0
    gso_size: int = 0
    checksum_start: int = 0
    checksum_offset: int = 0

    @staticmethod
    def read(data: bytes) -> VnetHeader:
        return VnetHeader(*struct.unpack("=BBHHHH", data))

    def bytes(self) -> bytes:
        return struct.pack("=BBHHHH", *self)


assert len(VnetHeader().bytes()) == VNET_HEADER


def ones_sum(data: bytes | bytearray) -> int:
    """Ones' complement sum of 16-bit words, 0..0xffff; a last odd byte is padded with zero.

    2**16 modulo 0xffff is 1, so the sum of the words and the whole number have the same remainder.
    """
    number = int.from_bytes(data, "big") << (8 if len(data) % 2 else 0)
    return number % 0xFFFF or (0xFFFF if number else 0)


def _add(*sums: int) -> int:
    total = sum(sums)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class Frame:
    """A frame with the offsets of its parts. ``version`` is 0 for a frame that is not IP, or is too short."""

    __slots__ = ("data", "end", "fragment", "layer3", "layer4", "payload", "protocol", "version", "vnet")

    def __init__(self, vnet: VnetHeader, data: bytearray) -> None:
        self.vnet = vnet
        self.data = data
        self.layer3 = 14
        self.layer4 = 0
        self.version = 0
        self.protocol = 0
        self.fragment = False  # a later fragment, which has no transport header
        self.payload: int | None = None
        self.end = len(data)
        self._find_headers()

    def _find_headers(self) -> None:
        data = self.data
        if len(data) < 34:
            return
        kind = data[12] << 8 | data[13]
        if kind == _IPV4 and data[14] >> 4 == 4:
            self.layer4 = 14 + (data[14] & 15) * 4
            self.protocol = data[23]
            self.fragment = bool((data[20] << 8 | data[21]) & 0x1FFF)
            self.end = min(len(data), 14 + (data[16] << 8 | data[17]))
        elif kind == _IPV6 and len(data) >= 54 and data[14] >> 4 == 6:
            self.end = min(len(data), 54 + (data[18] << 8 | data[19]))
            self._skip_headers_of_ipv6()
        else:
            return
        if self.layer4 > self.end:
            return
        self.version = 4 if kind == _IPV4 else 6
        self._find_payload()

    def _skip_headers_of_ipv6(self) -> None:
        at, following = 54, self.data[20]
        while following in (*_HEADERS_OF_IPV6, _FRAGMENT_HEADER) and at + 8 <= self.end:
            if following == _FRAGMENT_HEADER:
                self.fragment = bool((self.data[at + 2] << 8 | self.data[at + 3]) & 0xFFF8)
                length = 8
            else:
                length = (self.data[at + 1] + 1) * 8
            following, at = self.data[at], at + length
            if self.fragment:
                break
        self.protocol, self.layer4 = following, at

    def _find_payload(self) -> None:
        room = self.end - self.layer4
        if self.fragment:
            return
        if self.protocol == TCP and room >= 20:
            start = (self.data[self.layer4 + 12] >> 4) * 4
            self.payload = self.layer4 + start if 20 <= start <= room else None
        elif self.protocol in (UDP, ICMP, ICMPV6) and room >= 8:
            self.payload = self.layer4 + 8

    @property
    def ported(self) -> bool:
        return self.payload is not None and self.protocol in (TCP, UDP)

    @property
    def partial(self) -> bool:
        return bool(self.vnet.flags & _NEEDS_CHECKSUM)

    @property
    def gso_type(self) -> int:
        return self.vnet.gso_type & ~_ECN_BIT

    def word(self, at: int) -> int:
        return self.data[at] << 8 | self.data[at + 1]

    @property
    def sport(self) -> int | None:
        return self.word(self.layer4) if self.ported else None

    @property
    def dport(self) -> int | None:
        return self.word(self.layer4 + 2) if self.ported else None

    @property
    def icmp_type(self) -> int | None:
        has_type = self.payload is not None and self.protocol in (ICMP, ICMPV6)
        return self.data[self.layer4] if has_type else None

    def address_at(self, which: str) -> tuple[int, int]:
        """(offset, length) of ``source`` or ``destination``."""
        if self.version == 4:
            return (26 if which == "source" else 30), 4
        return (22 if which == "source" else 38), 16

    def address(self, which: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        at, length = self.address_at(which)
        return ipaddress.ip_address(bytes(self.data[at : at + length]))

    def marked(self) -> bytes:
        """The marker at the start of the payload; empty for an unmarked packet."""
        if self.payload is None or self.data[self.payload + 1 : self.payload + 5] != MARK:
            return b""
        return bytes(self.data[self.payload : min(self.payload + MARKER_BYTES, self.end)])

    def replace(self, at: int, new: bytes, *, pseudo: bool = False) -> None:
        """Write ``new`` at offset ``at`` and correct the checksums.

        ``pseudo``: the transport checksum covers these bytes although they lie in the network header (addresses).
        """
        first, last = at & ~1, at + len(new) + ((at + len(new)) & 1)
        before = ones_sum(self.data[first : min(last, self.end)])
        self.data[at : at + len(new)] = new
        change = _add(ones_sum(self.data[first : min(last, self.end)]), 0xFFFF - before)
        if at < self.layer4:
            if self.version == 4:
                self._put_right(24, change, partial=False)
            if not pseudo:
                return
        elif self.partial:
            return  # the checksum is still to be finished, over the new bytes
        if self.fragment or self.protocol not in _CHECKSUM_AT or (pseudo and self.protocol == ICMP):
            return
        field = self.layer4 + _CHECKSUM_AT[self.protocol]
        if field + 2 > self.end or (self.protocol == UDP and self.word(field) == 0 and not self.partial):
            return  # zero means that UDP has no checksum
        self._put_right(field, change, partial=self.partial)
        if self.protocol == UDP and self.word(field) == 0:
            self.data[field : field + 2] = b"\xff\xff"

    def _put_right(self, field: int, change: int, *, partial: bool) -> None:
        stored = self.word(field)
        value = _add(stored, change) if partial else 0xFFFF - _add(0xFFFF - stored, change)
        self.data[field : field + 2] = value.to_bytes(2, "big")

    def pseudo_sum(self) -> int:
        """The sum of the pseudo header, in the form of a partial checksum."""
        start, length = self.address_at("source")
        addresses = self.data[start : start + 2 * length]
        return _add(ones_sum(addresses), self.protocol, self.end - self.layer4)

    def finish(self) -> None:
        """Compute network and transport checksums in full, from the present bytes."""
        if self.version == 4:
            self.data[24:26] = b"\0\0"
            self.data[24:26] = (0xFFFF - ones_sum(self.data[14 : self.layer4])).to_bytes(2, "big")
        field = self.layer4 + _CHECKSUM_AT[self.protocol]
        self.data[field : field + 2] = b"\0\0"
        value = 0xFFFF - _add(self.pseudo_sum(), ones_sum(self.data[self.layer4 : self.end]))
        if self.protocol == UDP and value == 0:
            value = 0xFFFF
        self.data[field : field + 2] = value.to_bytes(2, "big")

    def set_length(self) -> None:
        """Set the length fields of network header and UDP, from ``end``."""
        if self.version == 4:
            self.data[16:18] = (self.end - 14).to_bytes(2, "big")
        else:
            self.data[18:20] = (self.end - 54).to_bytes(2, "big")
        if self.protocol == UDP:
            self.data[self.layer4 + 4 : self.layer4 + 6] = (self.end - self.layer4).to_bytes(2, "big")

    def identity(self) -> dict[str, Any]:
        """The fields that identify this packet, by their names in the tables; absent fields are left out."""
        if not self.version:
            return {"length": len(self.data), "ether_type": self.word(12) if len(self.data) >= 14 else None}
        found: dict[str, Any] = {
            "length": len(self.data),
            "ip_version": self.version,
            "protocol": self.protocol,
            "source": str(self.address("source")),
            "destination": str(self.address("destination")),
        }
        if self.version == 4:
            found["ip_id"] = self.word(18)
            found["fragment_offset"] = (self.word(20) & 0x1FFF) * 8
        if self.ported:
            found["sport"], found["dport"] = self.sport, self.dport
        if self.payload is not None:
            if self.protocol == TCP:
                found["tcp_seq"] = int.from_bytes(self.data[self.layer4 + 4 : self.layer4 + 8], "big")
                found["tcp_flags"] = self.word(self.layer4 + 12) & 0xFFF
            elif self.protocol in (ICMP, ICMPV6):
                found["icmp_type"] = self.icmp_type
                found["icmp_id"], found["icmp_seq"] = self.word(self.layer4 + 4), self.word(self.layer4 + 6)
            found["payload_length"] = self.end - self.payload
            marker = self.marked()
            if marker:
                found["marker"] = marker.decode("latin-1")
        return found

    def copy(self) -> Frame:
        return Frame(self.vnet, bytearray(self.data))
