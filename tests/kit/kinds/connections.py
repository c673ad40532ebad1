"""TCP and media streams of which a box changes several things at once."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from tests.kit.kinds.model import Kind, Sent, datagram, ip_id, payload, segment

_SIDES = ("lan", "wan")
_CLIENT, _PUBLIC, _SERVER = "10.0.0.5", "198.51.100.1", "203.0.113.9"
_BOTH_WAYS = [
    {"name": "there", "points": ["lan", "wan"], "match": {"destination": _SERVER}},
    {"name": "back", "points": ["wan", "lan"], "match": {"source": _SERVER}},
]
_ADDED = 7_000_000
Options = Callable[[int, bool], bytes]


def _time_stamps(value: int, echo: int) -> bytes:
    return bytes([1, 1, 8, 10]) + struct.pack("!II", value & 0xFFFF_FFFF, echo & 0xFFFF_FFFF)


def _stamped(number: int, back: bool) -> bytes:
    return _time_stamps(100_000 + 2 * number + 500 * back, 90_000 + 2 * number)


def _stamped_later(number: int, back: bool) -> bytes:
    return _time_stamps(
        100_000 + 2 * number + 500 * back + 33_333 * (not back), 90_000 + 2 * number + 33_333 * back
    )  # fmt: skip


def _none(number: int, back: bool) -> bytes:
    return b""


def _conversation(
    ids: str = "kept", added: int = 0, options: Options = _none, behind: Options | None = None, scaled: int = 0,
    flags: Callable[[int, int], int] = lambda number, flags: flags,
    flags_behind: Callable[[int, int], int] = lambda number, flags: flags, nat: bool = True,
) -> Kind:  # fmt: skip
    """A client sends 60 bytes, the server acknowledges and answers with 40, and the client acknowledges.

    Args:
        ids: kept, new behind the box, or zero; added: to the client's numbers; options: before the box; behind: it, the
        same by default; scaled: the window is shifted right by so many bits; flags: of segment `number`, from those it
        has; flags_behind: what the box makes of them; nat: whether the client's address and port are rewritten.
    """
    there = behind or options

    def sent(number: int) -> Sent:
        turn, step = divmod(number, 4)
        client, server = 1000 + 60 * turn, 9000 + 40 * turn
        back, length, seq, ack, own = (
            (False, 60, client, server, 0x18), (True, 0, server, client + 60, 0x10),
            (True, 40, server, client + 60, 0x18), (False, 0, client + 60, server + 40, 0x10),
        )[step]  # fmt: skip
        data = payload(number, length) if length else b""
        inside, outside = (_CLIENT, 40_000), (_PUBLIC, 51_111) if nat else (_CLIENT, 40_000)
        before = ip_id(number) if ids != "zero" else 0
        after = ip_id(7919 * number + 5) if ids == "new" else before
        window = 64_000 + number % 7
        sides = [
            (inside, options(number, back), window, flags(number, own), 0),
            (outside, there(number, back), window >> scaled, flags_behind(number, flags(number, own)), added),
        ]
        if back:  # what the server sends, the box changes the other way round
            (inside, one, own_window, own_flags, _), (outside, other, new_window, new_flags, _) = sides
            sides = [(inside, other, new_window, new_flags, 0), (outside, one, own_window, own_flags, added)]
        looks = []
        for (address, port), option, wide, told, more in sides:
            fields = {"options": option, "window": wide, "flags": told}
            if back:
                fields |= {"seq": seq, "ack": ack + more}
                looks.append(segment(_SERVER, address, 80, port, data, before, **fields))
            else:
                identification = after if looks else before
                fields |= {"seq": seq + more, "ack": ack}
                looks.append(segment(address, _SERVER, port, 80, data, identification, **fields))
        return Sent(looks, back)

    return Kind(_SIDES, sent, paths=_BOTH_WAYS)


def _congested(number: int, flags: int) -> int:
    return flags | 0xC0 if number % 3 == 0 else flags


def _cleared(bits: int) -> Callable[[int, int], int]:
    return lambda number, flags: flags & ~bits


def _largest_segment(numbered: bool) -> Callable[[int], Sent]:
    """A SYN whose MSS is clamped."""

    def sent(number: int) -> Sent:
        seq, port = random.Random(number).randrange(1 << 31), 10_000 + number % 50_000
        return Sent(
            [
                segment(
                    _CLIENT, _SERVER, port, 80, identification=ip_id(number) if numbered else 0, seq=seq, flags=2,
                    options=bytes([2, 4]) + struct.pack("!H", size),
                )
                for size in (1460, 1360)
            ]
        )  # fmt: skip

    return sent


def _registration(numbered: bool) -> Callable[[int], Sent]:
    """SIP, whose gateway rewrites the client's address in the payload, too."""

    def sent(number: int) -> Sent:
        call = random.Random(number).randrange(1 << 32)
        looks = []
        for address in (_CLIENT, _PUBLIC):
            host = address.encode()
            text = b"REGISTER sip:example.org SIP/2.0\r\nCall-ID: %08x\r\nContact: <sip:u%d@%s>\r\n" % (
                call, number % 50, host,
            )  # fmt: skip
            text += b"Via: SIP/2.0/UDP %s:5060;branch=z9hG4bK%08x\r\n\r\n" % (host, call ^ 77)
            looks.append(datagram(address, _SERVER, 5060, 5060, text, ip_id(number) if numbered else 0))
        return Sent(looks)

    return sent


def _enriched(numbered: bool) -> Callable[[int], Sent]:
    """A proxy of an operator puts a header into every eighth segment; numbers are shifted from there on."""
    header = b"\r\nX-MSISDN: 4912345\r\n"

    def sent(number: int) -> Sent:
        asks, before = number % 8 == 0, (number + 7) // 8
        data = (b"GET /%06d HTTP/1.1\r\n" % number).ljust(118, b"x") + b"\r\n" if asks else payload(number, 120)
        longer = data[:24] + header + data[24:] if asks else data
        identification = ip_id(number) if numbered else 0
        seq, ack = 1000 + 120 * number, 500 + number
        return Sent(
            [
                segment(_CLIENT, _SERVER, 4000, 80, data, identification, seq=seq, ack=ack),
                segment(_CLIENT, _SERVER, 4000, 80, longer, identification, seq=seq + len(header) * before, ack=ack),
            ]
        )

    return sent


def _media(numbered: bool) -> Callable[[int], Sent]:
    """A relay renumbers RTP."""

    def sent(number: int) -> Sent:
        voice = payload(number, 160)
        headers = (
            struct.pack("!BBHII", 0x80, 0, number % 65_536, 160 * number, 0x1111_1111),
            struct.pack("!BBHII", 0x80, 0, (number + 4711) % 65_536, 160 * number + 991, 0x2222_2222),
        )
        ids = (ip_id(number), ip_id(31 * number + 9)) if numbered else (0, 0)
        return Sent(
            [
                datagram(_CLIENT, _SERVER, 16_000, 17_000, headers[0] + voice, ids[0]),
                datagram(_SERVER, "192.0.2.77", 18_000, 19_000, headers[1] + voice, ids[1]),
            ]
        )

    return sent


def _duplicates(stamped: bool, nat: bool) -> Callable[[int], Sent]:
    """Four duplicate ACKs after each ACK, told apart by time stamps or by what SACK has."""

    def sent(number: int) -> Sent:
        turn, step = divmod(number, 5)
        ack = 1000 + 1448 * turn
        options = _time_stamps(5000 + number, 4000 + turn) if stamped else b""
        if step and not stamped:
            options = bytes([1, 1, 5, 10]) + struct.pack("!II", ack + 1448, ack + 1448 * (step + 1))
        fields = {"seq": 77, "ack": ack, "flags": 0x10, "options": options}
        public, port = (_PUBLIC, 5111) if nat else (_CLIENT, 4000)
        return Sent([segment(_CLIENT, _SERVER, 4000, 80, **fields), segment(public, _SERVER, port, 80, **fields)])

    return sent


CONNECTIONS = {
    "tcp-nat": _conversation(),
    "tcp-nat-new-id": _conversation("new"),
    "tcp-nat-without-id": _conversation("zero"),
    "tcp-nat-added": _conversation(added=_ADDED),
    "tcp-nat-added-new-id": _conversation("new", _ADDED),
    "tcp-nat-added-without-id": _conversation("zero", _ADDED),
    "tcp-nat-added-stamped-new-id": _conversation("new", _ADDED, _stamped),
    "tcp-nat-added-stamped-without-id": _conversation("zero", _ADDED, _stamped),
    "tcp-added-without-id": _conversation("zero", _ADDED, nat=False),
    "tcp-time-stamps-changed": _conversation(options=_stamped, behind=_stamped_later, nat=False),
    "tcp-time-stamps-changed-without-id": _conversation("zero", options=_stamped, behind=_stamped_later, nat=False),
    "tcp-nat-time-stamps-changed": _conversation("new", options=_stamped, behind=_stamped_later),
    "tcp-options-removed-without-id": _conversation("zero", options=_stamped, behind=_none, nat=False),
    "tcp-nat-options-removed-without-id": _conversation("zero", options=_stamped, behind=_none),
    "tcp-window-scaled": _conversation(scaled=2, nat=False),
    "tcp-window-scaled-without-id": _conversation("zero", scaled=2, nat=False),
    "tcp-nat-window-scaled": _conversation(scaled=2),
    "tcp-nat-window-scaled-without-id": _conversation("zero", scaled=2),
    "tcp-ece-cwr-cleared": _conversation(flags=_congested, flags_behind=_cleared(0xC0), nat=False),
    "tcp-ece-cwr-cleared-without-id": _conversation("zero", flags=_congested, flags_behind=_cleared(0xC0), nat=False),
    "tcp-nat-ece-cwr-cleared": _conversation(flags=_congested, flags_behind=_cleared(0xC0)),
    "tcp-psh-cleared-without-id": _conversation("zero", flags_behind=_cleared(0x08), nat=False),
    "tcp-urg-cleared-without-id": _conversation(
        "zero", flags=lambda number, flags: flags | 0x20 if number % 5 == 0 else flags, flags_behind=_cleared(0x20),
        nat=False,
    ),
    "mss-clamped": Kind(_SIDES, _largest_segment(True)),
    "mss-clamped-without-id": Kind(_SIDES, _largest_segment(False)),
    "sip": Kind(_SIDES, _registration(True)),
    "sip-without-id": Kind(_SIDES, _registration(False), expected="never lost"),
    "header-enriched": Kind(_SIDES, _enriched(True)),
    "header-enriched-without-id": Kind(_SIDES, _enriched(False), expected="never lost"),
    "rtp-relay": Kind(_SIDES, _media(True), gap_ns=20_000_000),
    "rtp-relay-without-id": Kind(_SIDES, _media(False), gap_ns=20_000_000),
    "duplicate-acks-stamped": Kind(_SIDES, _duplicates(True, False)),
    "duplicate-acks-nat-stamped": Kind(_SIDES, _duplicates(True, True)),
    "duplicate-acks-nat-sack": Kind(_SIDES, _duplicates(False, True)),
}  # fmt: skip
