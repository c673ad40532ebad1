"""pcapng files: several sections, either byte order, many interfaces. A buffer in, values out.

Source: draft-ietf-opsawg-pcapng, sections 3 (structure), 4.1 (SHB), 4.2 (IDB), 4.3 (EPB), 4.4 (SPB), 4.6 (ISB).
A compiled scanner walks the blocks; it indexes packets itself and hands the rare other blocks to Python.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.capture.index import CORRUPT, CUT, WHOLE, Capture, Interface
from pktrace.capture.options import Options
from pktrace.compiled import inlined, kernel
from pktrace.wire import NO_TIME, OUT_OF_RANGE, PACKET, half, word

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
OBSOLETE_PACKET = 2
SIMPLE_PACKET = 3
INTERFACE_STATISTICS = 5
ENHANCED_PACKET = 6
_HEAD = b"\x0a\x0d\x0d\x0a"
_FIRST_PACKETS = 4096

# The scanner's state between calls: it returns whenever Python has to look at a block or to make room.
_POSITION, _COUNT, _BIG, _UNKNOWN, _END, _INTERFACES = range(6)
_STOP_END, _STOP_BLOCK, _STOP_FULL, _STOP_CUT, _STOP_CORRUPT = range(5)
# Columns of the interface table that the scanner needs for times.
_SCALE_UP, _SCALE_DOWN, _BINARY, _OFFSET_S, _SNAP = range(5)
_LARGEST_COUNT = 1 << 62
_LARGEST_NS = 9_000_000_000_000_000_000


def refusal(head: bytes) -> str | None:
    """Why a file that begins with these bytes is no pcapng file; None if it is one."""
    if head[:4] != _HEAD:
        return f"pcapng: begins with {head[:4].hex() or 'nothing'}, not with a section header block (0a0d0d0a)"
    if head[8:12] not in (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"):
        return "pcapng: the section header block has no byte-order magic"
    return None


def read(data: np.ndarray[Any, Any]) -> Capture:
    """Index a pcapng file.

    Args:
        data: uint8, the whole file; `refusal` has found nothing wrong with its head.

    Returns:
        The capture; interface numbers run through all sections.
    """
    state = np.zeros(6, np.int64)
    packets = np.zeros(min(_FIRST_PACKETS, len(data) // 12 + 1), PACKET)
    times = np.zeros((8, 5), np.int64)
    capture = Capture("pcapng", packets, [])
    first_of_section = 0
    while True:
        stopped = _scan(data, packets, state, times, first_of_section)
        if stopped == _STOP_FULL:
            packets = np.concatenate([packets, np.zeros(len(packets), PACKET)])
            continue
        if stopped != _STOP_BLOCK:
            break
        position, end = int(state[_POSITION]), int(state[_END])
        big = bool(state[_BIG])
        kind = int.from_bytes(data[position : position + 4].tobytes(), "big" if big else "little")
        body = data[position + 8 : end - 4].tobytes()
        if kind == SECTION_HEADER:
            first_of_section = len(capture.interfaces)
            state[_INTERFACES] = 0
            capture.comments.extend(Options(body[16:], big).comments())
        elif kind == INTERFACE_DESCRIPTION:
            interface, row = _interface(body, big)
            capture.interfaces.append(interface)
            if state[_INTERFACES] == len(times):
                times = np.concatenate([times, np.zeros_like(times)])
            times[state[_INTERFACES]] = row
            state[_INTERFACES] += 1
        elif kind == INTERFACE_STATISTICS:
            _statistics(body, big, capture.interfaces, first_of_section, times)
        state[_POSITION] = end
    capture.packets = packets[: state[_COUNT]].copy()
    capture.ended = {_STOP_CUT: CUT, _STOP_CORRUPT: CORRUPT}.get(int(stopped), WHOLE)
    capture.ended_at = int(state[_POSITION])
    capture.unknown_blocks = int(state[_UNKNOWN])
    return capture


def _interface(body: bytes, big: bool) -> tuple[Interface, tuple[int, ...]]:
    """An interface description block (4.2), and the row that the scanner needs to make times."""
    order = "big" if big else "little"
    body = body.ljust(8, b"\0")
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


def _statistics(
    body: bytes, big: bool, interfaces: list[Interface], first_of_section: int, times: np.ndarray[Any, Any]
) -> None:
    """An interface statistics block (4.6); a later block of the same interface replaces an earlier one."""
    order = "big" if big else "little"
    number = int.from_bytes(body[0:4], order)  # type: ignore[arg-type]
    if len(body) < 12 or number >= len(interfaces) - first_of_section:
        return
    interface = interfaces[first_of_section + number]
    options = Options(body[12:], big)
    for code, name in ((2, "start_ns"), (3, "end_ns")):
        ticks = options.time(code)
        if ticks is not None:
            ns = _exact_nanoseconds(ticks, times[number].tolist())
            if abs(ns) < _LARGEST_NS:
                setattr(interface, name, ns)
    received = options.unsigned(4)
    drops = [count for count in (options.unsigned(5), options.unsigned(7)) if count is not None]
    if received is not None:
        interface.received = min(received, _LARGEST_COUNT)
    if drops:
        # isb_ifdrop (interface) and isb_osdrop (operating system) count different packets (4.6).
        interface.dropped = min(sum(drops), _LARGEST_COUNT)


def _exact_nanoseconds(ticks: int, row: list[int]) -> int:
    """What `_nanoseconds` computes, in unbounded integers."""
    up, down, bits, offset_s, _ = row
    value = ticks * 10**9 >> bits if bits >= 0 else ticks // down * up
    return value + offset_s * 10**9


@inlined
def _nanoseconds(ticks, times, row):
    """Ticks of an interface to ns since the epoch; OUT_OF_RANGE where 64 bits do not hold them."""
    offset_ns = times[row, 3] * 1_000_000_000
    if times[row, 3] > 9_000_000_000 or times[row, 3] < -9_000_000_000:
        return OUT_OF_RANGE
    bits = times[row, 2]
    if bits >= 0:
        if bits > 63:  # steps so small that 64 bits of them are less than a second
            ticks = ticks >> np.uint64(min(bits - 63, 63))
            bits = np.int64(63)
        shift = np.uint64(bits)
        seconds = ticks >> shift
        if seconds > np.uint64(9_000_000_000):
            return OUT_OF_RANGE
        rest = ticks & ((np.uint64(1) << shift) - np.uint64(1))
        if bits > 33:  # keep rest * 10**9 within 64 bits; what is cut off is below a nanosecond
            rest = rest >> np.uint64(bits - 33)
            shift = np.uint64(33)
        fraction = (rest * np.uint64(1_000_000_000)) >> shift
        value = np.int64(seconds) * 1_000_000_000 + np.int64(fraction)
    else:
        scaled = ticks // np.uint64(times[row, 1])
        if scaled > np.uint64(9_000_000_000_000_000_000) // np.uint64(times[row, 0]):
            return OUT_OF_RANGE
        value = np.int64(scaled) * times[row, 0]
    if (offset_ns > 0 and value > 9_223_372_036_854_775_807 - offset_ns) or value + offset_ns < -(1 << 62):
        return OUT_OF_RANGE
    return value + offset_ns


@inlined
def _packet_options(data, start, end, big, packet):
    """Options of a packet block (4.3): epb_flags bits 0-1, epb_dropcount. At most (end - start) / 4 steps."""
    at = start
    while at + 4 <= end:
        code = half(data, at, big)
        length = half(data, at + 2, big)
        if code == 0 or at + 4 + length > end:
            return
        if code == 2 and length == 4:
            packet["direction"] = word(data, at + 4, big) & 3
        elif code == 4 and length == 8:
            high, low = word(data, at + 4, big), word(data, at + 8, big)
            if not big:
                high, low = low, high
            packet["dropped"] = low if high == 0 else 0xFFFFFFFF
        at += 4 + ((length + 3) & ~3)


@kernel
def _scan(data, packets, state, times, first_interface):
    """Walk blocks from state[_POSITION]; stop at the end, at a block for Python, or when `packets` is full.

    Every read is checked against the size of the file; each step goes on by at least 12 bytes.
    """
    size = len(data)
    position = state[0]
    count = state[1]
    big = state[2] != 0
    stopped = 0
    while position < size:
        if position + 12 > size:
            stopped = 3
            break
        kind = word(data, position, big)
        if kind == 0x0A0D0D0A:
            # A section header gives the byte order of all that follows, its own length included (4.1).
            big = data[position + 8] == 0x1A and data[position + 9] == 0x2B
            magic = word(data, position + 8, big)
            if magic != 0x1A2B3C4D:
                stopped = 4
                break
            state[2] = 1 if big else 0
        total = word(data, position + 4, big)
        if total < 12 or (total & 3) != 0:
            stopped = 4
            break
        if total > size - position:
            stopped = 3
            break
        end = position + total
        if kind == 6 or kind == 2 or kind == 3:
            if count == len(packets):
                stopped = 2
                break
            head = 12 if kind == 3 else 28
            if total < head + 4:
                stopped = 4
                break
            interface = np.int64(0)
            packet = packets[count]
            if kind == 3:
                length = word(data, position + 8, big)
                captured = min(length, end - 4 - position - head)
                if state[5] > 0 and times[0, 4] > 0:
                    captured = min(captured, times[0, 4])
                packet["ts"] = NO_TIME
            else:
                if kind == 6:
                    interface = word(data, position + 8, big)
                else:
                    interface = half(data, position + 8, big)
                captured = word(data, position + 20, big)
                length = word(data, position + 24, big)
                if captured > end - 4 - position - head:
                    stopped = 4
                    break
                if interface < state[5]:
                    high = np.uint64(word(data, position + 12, big))
                    low = np.uint64(word(data, position + 16, big))
                    packet["ts"] = _nanoseconds((high << np.uint64(32)) | low, times, interface)
                else:
                    packet["ts"] = NO_TIME
                options = position + head + ((captured + 3) & ~np.int64(3))
                _packet_options(data, options, end - 4, big, packet)
            packet["offset"] = position + head
            packet["captured"] = captured
            packet["length"] = length
            packet["interface"] = first_interface + interface if interface < state[5] else -1
            count += 1
        elif kind == 0x0A0D0D0A or kind == 1 or kind == 5:
            if kind == 0x0A0D0D0A and total < 28:
                stopped = 4
                break
            state[4] = end
            stopped = 1
            break
        else:
            state[3] += 1
        position = end
    state[0] = position
    state[1] = count
    return stopped
