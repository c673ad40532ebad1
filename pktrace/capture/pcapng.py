"""pcapng files: several sections, either byte order, many interfaces. Bytes in, values out.

Source: draft-ietf-opsawg-pcapng, sections 3 (structure), 4.1 (SHB), 4.2 (IDB), 4.3 (EPB), 4.4 (SPB), 4.6 (ISB).
A compiled scanner walks the blocks; it indexes packets itself and hands the rare other blocks to Python.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.capture.index import (
    BROKEN,
    CROWDED,
    FULL,
    LARGEST_BLOCK,
    LARGEST_PACKET,
    MORE,
    MOST_INTERFACES,
    Interface,
)
from pktrace.capture.options import Options
from pktrace.compiled import inlined, kernel
from pktrace.wire import BIG_ENDIAN, CHECKSUM_NOT_READY, NO_TIME, OUT_OF_RANGE, PACKET_ID, half, memory, word

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
OBSOLETE_PACKET = 2
SIMPLE_PACKET = 3
INTERFACE_STATISTICS = 5
ENHANCED_PACKET = 6
_HEAD = b"\x0a\x0d\x0d\x0a"

# The scanner's state between calls. SKIP: bytes of a large block without packets that are still to come.
_POSITION, _BIG, _UNKNOWN, _END, _INTERFACES, _SKIP, _FIRST, _FRAMES = range(8)
_STOP_MORE, _STOP_FULL, _STOP_BROKEN, _STOP_BLOCK = MORE, FULL, BROKEN, 4
# Columns of the interface table that the scanner needs for times. A row per interface, through all sections.
_SCALE_UP, _SCALE_DOWN, _BINARY, _OFFSET_S, _SNAP = range(5)
# Columns of the table of statistics: the last value of each statistic of an interface, and bits for the values given.
_START, _END_TIME, _RECEIVED, _DROPPED, _SAID = range(5)
# The most options of one statistics block that are read.
_MOST_OPTIONS = 1000
# The most bytes of names, descriptions and filters of all interfaces together; later ones are left out.
_MOST_TEXT = 4 << 20
_LARGEST_COUNT = np.uint64(1 << 62)
_UNAVAILABLE = np.uint64((1 << 64) - 1)
_LARGEST_NS = 9_000_000_000_000_000_000


def refusal(head: bytes) -> str | None:
    """Why a file that begins with these bytes is no pcapng file; None if it is one."""
    if head[:4] != _HEAD:
        return "pcapng: does not begin with a section header block (0a0d0d0a)"
    if head[8:12] not in (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"):
        return "pcapng: the section header block has no byte-order magic"
    return None


class PcapngWalker:
    """The index of one pcapng file; interface numbers run through all its sections."""

    def __init__(self, head: bytes) -> None:
        self._state = np.zeros(8, np.int64)
        self._times = np.zeros((8, 5), np.int64)
        self._statistics = np.zeros((8, 5), np.uint64)
        self.interfaces: list[Interface] = []
        self._text_left = _MOST_TEXT

    @property
    def position(self) -> int:
        """The offset in the present piece at which the walk continues."""
        return int(self._state[_POSITION])

    @position.setter
    def position(self, value: int) -> None:
        self._state[_POSITION] = value

    @property
    def unknown_blocks(self) -> int:
        """The number of blocks so far of kinds that pktrace does not read."""
        return int(self._state[_UNKNOWN])

    def walk(self, data: np.ndarray[Any, Any], size: int, packets: np.ndarray[Any, Any]) -> tuple[int, int]:
        """Index whole blocks; see `index.Walker`."""
        count = 0
        while True:
            count, stopped = _scan(data, size, packets, count, self._state, self._times, self._statistics)
            if stopped != _STOP_BLOCK:
                return int(count), int(stopped)
            if len(self.interfaces) == MOST_INTERFACES:
                return int(count), CROWDED
            position, end = self.position, int(self._state[_END])
            self._describe(data[position + 8 : end - 4].tobytes(), bool(self._state[_BIG]))
            self.position = end

    def finish(self) -> None:
        """Enter the last values of the statistics blocks into the interfaces."""
        for number in np.flatnonzero(self._statistics[:, _SAID]).tolist():
            _tell(self.interfaces[number], self._statistics[number].tolist(), self._times[number].tolist())

    def missing(self) -> bool:
        """True if the end of a skipped block is still to come."""
        return bool(self._state[_SKIP])

    def _describe(self, body: bytes, big: bool) -> None:
        interface, row = _interface(body, big)
        for name in ("name", "description", "capture_filter"):
            self._text_left -= len(getattr(interface, name) or "")
            if self._text_left < 0:
                setattr(interface, name, None)
        number = len(self.interfaces)
        self.interfaces.append(interface)
        if number == len(self._times):
            self._times = np.concatenate([self._times, np.zeros_like(self._times)])
            self._statistics = np.concatenate([self._statistics, np.zeros_like(self._statistics)])
        self._times[number] = row
        self._state[_INTERFACES] += 1


def _interface(body: bytes, big: bool) -> tuple[Interface, tuple[int, ...]]:
    """An interface description block (4.2), and the row from which the scanner computes times."""
    order = "big" if big else "little"
    link_type = int.from_bytes(body[0:2], order)  # type: ignore[arg-type]
    snap_length = int.from_bytes(body[4:8], order)  # type: ignore[arg-type]
    options = Options(body[8:], big)
    resolution = options.first_byte(9, 6)
    offset_s = options.signed(14, 0)
    up, down, bits, step = 1, 1, 0, 1
    if resolution & 0x80:
        bits = resolution & 0x7F
        step = max(1, -(-(10**9) >> bits))
    else:
        digits = min(resolution, 27)
        up = 10 ** max(0, 9 - digits)
        down = 10 ** min(18, max(0, digits - 9))
        step = up
    interface = Interface(
        link_type=link_type,
        snap_length=snap_length,
        name=options.text(2),
        description=options.text(3),
        capture_filter=options.capture_filter(),
        resolution_ns=step,
    )
    return interface, (up, down, bits if resolution & 0x80 else -1, offset_s, snap_length)


def _tell(interface: Interface, said: list[int], times: list[int]) -> None:
    """Enter interface statistics (4.6); a later block of the same interface has replaced an earlier one."""
    for bit, column, name in ((1, _START, "start_ns"), (2, _END_TIME, "end_ns")):
        if said[_SAID] & bit:
            ns = _exact_nanoseconds(said[column], times)
            if abs(ns) < _LARGEST_NS:
                setattr(interface, name, ns)
    if said[_SAID] & 4:
        interface.received = said[_RECEIVED]
    if said[_SAID] & 8:
        interface.dropped = said[_DROPPED]


def _exact_nanoseconds(ticks: int, row: list[int]) -> int:
    """The result of `_nanoseconds`, computed in unbounded integers."""
    up, down, bits, offset_s, _ = row
    value = ticks * 10**9 >> bits if bits >= 0 else ticks // down * up
    return value + offset_s * 10**9


@inlined
def _nanoseconds(ticks, times, row):
    """Ticks of an interface to ns since the epoch; OUT_OF_RANGE where 64 bits do not hold them."""
    offset_s = times[row, _OFFSET_S]
    if offset_s > 9_000_000_000 or offset_s < -9_000_000_000:
        return OUT_OF_RANGE
    offset_ns = offset_s * 1_000_000_000
    bits = times[row, _BINARY]
    if bits >= 0:
        if bits > 63:  # steps so small that 64 bits of them are less than a second
            ticks = ticks >> np.uint64(min(bits - 63, 63))
            bits = np.int64(63)
        shift = np.uint64(bits)
        seconds = ticks >> shift
        if seconds > np.uint64(9_000_000_000):
            return OUT_OF_RANGE
        rest = ticks & ((np.uint64(1) << shift) - np.uint64(1))
        if bits > 33:  # keep rest * 10**9 within 64 bits; the bits cut off are below a nanosecond
            rest = rest >> np.uint64(bits - 33)
            shift = np.uint64(33)
        fraction = (rest * np.uint64(1_000_000_000)) >> shift
        value = np.int64(seconds) * 1_000_000_000 + np.int64(fraction)
    else:
        up, down = np.uint64(times[row, _SCALE_UP]), np.uint64(times[row, _SCALE_DOWN])
        scaled = ticks
        if down > np.uint64(1):  # dividing by one takes as long as any division
            scaled = ticks // down
        if up > np.uint64(1):
            if scaled > np.uint64(9_223_372_036_854_775_807) // up:
                return OUT_OF_RANGE
            scaled = scaled * up
        if scaled > np.uint64(9_223_372_036_854_775_807):
            return OUT_OF_RANGE
        value = np.int64(scaled)
    if (offset_ns > 0 and value > 9_223_372_036_854_775_807 - offset_ns) or value + offset_ns < -(1 << 62):
        return OUT_OF_RANGE
    return value + offset_ns


@inlined
def _packet_options(data, start, end, big, packet):
    """Options of a packet block (4.3) that every packet may have. At most (end - start) / 4 steps."""
    at = start
    while at + 4 <= end:
        code = half(data, at, big)
        length = half(data, at + 2, big)
        if code == 0 or at + 4 + length > end:
            return
        if code == 2 and length == 4:
            flags = word(data, at + 4, big)
            packet["direction"] = flags & 3
            if flags & 0x200:
                packet["marks"] |= CHECKSUM_NOT_READY
        elif (code == 4 or code == 5) and length == 8:
            high, low = word(data, at + 4, big), word(data, at + 8, big)
            if not big:
                high, low = low, high
            if code == 5:
                packet["packet_id"] = (np.uint64(high) << np.uint64(32)) | np.uint64(low)
                packet["marks"] |= PACKET_ID
            else:
                packet["dropped"] = low if high == 0 else 0xFFFFFFFF
        at += 4 + ((length + 3) & ~3)


@inlined
def _known_version(source, position, big):
    """Versions 1.0, and 1.2, which some writers gave to the same format (4.1)."""
    minor = half(source, position + 14, big)
    return half(source, position + 12, big) == 1 and (minor == 0 or minor == 2)


@inlined
def _doubled(source, at, big):
    """An unsigned 64 bit number at an offset that the caller has checked."""
    first, second = np.uint64(word(source, at, big)), np.uint64(word(source, at + 4, big))
    return (first << np.uint64(32)) | second if big else (second << np.uint64(32)) | first


@inlined
def _keep_statistics(source, start, end, big, said):
    """Options of an interface statistics block (4.6) into one row of the table of statistics.

    The first of several options with one code counts. At most _MOST_OPTIONS steps.
    """
    at = start
    met = 0
    dropped = np.uint64(0)
    any_dropped = False
    for _ in range(_MOST_OPTIONS):
        if at + 4 > end:
            break
        code = half(source, at, big)
        length = half(source, at + 2, big)
        if code == 0 or at + 4 + length > end:
            break
        if code < 8 and not met & (1 << code):
            met |= 1 << code
            if length == 8 and (code == 2 or code == 3):
                # A time: the high word comes first in either byte order.
                high, low = np.uint64(word(source, at + 4, big)), np.uint64(word(source, at + 8, big))
                said[code - 2] = (high << np.uint64(32)) | low
                said[_SAID] |= np.uint64(code - 1)
            elif length == 8 and (code == 4 or code == 5 or code == 7):
                # All ones means "not available" in some writers.
                number = _doubled(source, at + 4, big)
                if number != _UNAVAILABLE and code == 4:
                    said[_RECEIVED] = min(number, _LARGEST_COUNT)
                    said[_SAID] |= np.uint64(4)
                elif number != _UNAVAILABLE:
                    # isb_ifdrop (interface) and isb_osdrop (operating system) count different packets.
                    dropped += min(number, _LARGEST_COUNT)
                    any_dropped = True
        at += 4 + ((length + 3) & ~3)
    if any_dropped:
        said[_DROPPED] = min(dropped, _LARGEST_COUNT)
        said[_SAID] |= np.uint64(8)


@inlined
def _is_frame(kind):
    """True for a block without a packet that Wireshark numbers: custom blocks, journal entries, system events."""
    event = kind == 9 or kind == 0x204 or kind == 0x216 or kind == 0x221
    return event or kind == 0xBAD or kind == 0x40000BAD


@kernel
def _scan(data, size, packets, count, state, times, statistics):
    """Walk blocks from the state's position; returns (packets, why it stopped).

    Every read is checked against `size`; each step advances by at least 12 bytes. A block is read once it is complete,
    so the result does not depend on how the file was cut into pieces. The scanner handles sections and statistics
    itself, since a file may consist of them; only interface descriptions are left to the caller.
    """
    source = memory(data)
    position = state[_POSITION]
    big = state[_BIG] != 0
    described = state[_INTERFACES]
    stopped = _STOP_MORE
    if state[_SKIP] > 0:
        step = min(state[_SKIP], size - position)
        state[_SKIP] -= step
        position += step
    while position + 12 <= size:
        kind = word(source, position, big)
        if kind == 0x0A0D0D0A:
            # A section header gives the byte order of all that follows, its own length included (4.1).
            big = word(source, position + 8, True) == 0x1A2B3C4D
            if word(source, position + 8, big) != 0x1A2B3C4D:
                stopped = _STOP_BROKEN
                break
        total = word(source, position + 4, big)
        if total < 12 or (total & 3) != 0:
            stopped = _STOP_BROKEN
            break
        packet_block = kind == 6 or kind == 2 or kind == 3
        ours = packet_block or kind == 0x0A0D0D0A or kind == 1 or kind == 5
        if total > LARGEST_BLOCK:
            if ours:
                stopped = _STOP_BROKEN
                break
            step = min(total, size - position)
            state[_SKIP] = total - step
            state[_UNKNOWN] += 1
            state[_FRAMES] += 1 if _is_frame(kind) else 0
            position += step
            continue
        if total > size - position:
            break
        end = position + total
        if word(source, end - 4, big) != total:
            stopped = _STOP_BROKEN
            break
        if packet_block:
            if count == len(packets):
                stopped = _STOP_FULL
                break
            head = 12 if kind == 3 else 28
            if total < head + 4:
                stopped = _STOP_BROKEN
                break
            interface = np.int64(0)
            packet = packets[count]
            if kind == 3:
                length = word(source, position + 8, big)
                captured = length
                if described > 0 and times[state[_FIRST], _SNAP] > 0:
                    captured = min(captured, times[state[_FIRST], _SNAP])
            else:
                if kind == 6:
                    interface = word(source, position + 8, big)
                else:
                    interface = half(source, position + 8, big)
                captured = word(source, position + 20, big)
                length = word(source, position + 24, big)
            if interface >= described or captured > end - 4 - position - head or captured > LARGEST_PACKET:
                stopped = _STOP_BROKEN
                break
            if kind == 3:
                packet["ts"] = NO_TIME
            else:
                high = np.uint64(word(source, position + 12, big))
                low = np.uint64(word(source, position + 16, big))
                packet["ts"] = _nanoseconds((high << np.uint64(32)) | low, times, state[_FIRST] + interface)
            state[_FRAMES] += 1
            packet["frame"] = state[_FRAMES]
            packet["offset"] = position + head
            packet["packet_id"] = 0
            packet["captured"] = captured
            packet["length"] = length
            packet["interface"] = state[_FIRST] + interface
            packet["dropped"] = 0
            packet["ifindex"] = 0
            packet["direction"] = 0
            packet["marks"] = BIG_ENDIAN if big else 0
            options = position + head + ((captured + 3) & ~np.int64(3))
            packet["options"] = options
            packet["options_end"] = options
            if kind == 2:
                drops = half(source, position + 10, big)
                packet["dropped"] = 0 if drops == 0xFFFF else drops
            if kind != 3 and options + 4 <= end - 4:
                packet["options_end"] = end - 4
                _packet_options(source, options, end - 4, big, packet)
            count += 1
        elif ours:
            if total < (28 if kind == 0x0A0D0D0A else 20 if kind == 1 else 24):
                stopped = _STOP_BROKEN
                break
            if kind == 1:
                state[_END] = end
                stopped = _STOP_BLOCK
                break
            if kind == 5:
                number = word(source, position + 8, big)
                if number < described:
                    _keep_statistics(source, position + 20, end - 4, big, statistics[state[_FIRST] + number])
            elif _known_version(source, position, big):
                state[_FIRST] += described
                state[_INTERFACES] = described = 0
            else:
                stopped = _STOP_BROKEN
                break
        else:
            state[_UNKNOWN] += 1
            state[_FRAMES] += 1 if _is_frame(kind) else 0
        position = end
    state[_POSITION] = position
    state[_BIG] = 1 if big else 0
    return count, stopped
