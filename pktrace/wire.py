"""The packet index, which capture passes to decode, and functions of both that read numbers from a buffer."""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.compiled import CHECKED, inlined

# The packet index of one batch has one row per packet, in file order.
#   frame: the packet's number in the file, from 1, as Wireshark counts
#   offset, captured: the captured bytes are data[offset : offset + captured] of the batch
#   length: bytes on the wire;  ts: ns since the epoch, NO_TIME without a time, OUT_OF_RANGE if it exceeds 64 bits
#   interface: number of the file's interface, through all sections
#   direction: 0 unknown, 1 in, 2 out (epb_flags bits 0-1; packet type of the modified pcap)
#   dropped: packets that the capture lost on this interface since the one before (epb_dropcount)
#   packet_id: epb_packetid, if `marks` has PACKET_ID; ifindex: the host's number of the interface, 0 if unknown
#   options: offset in the batch of the block's options, `options_end` their end; equal without options
PACKET = np.dtype(
    [
        ("frame", np.int64),
        ("offset", np.int64),
        ("ts", np.int64),
        ("packet_id", np.uint64),
        ("captured", np.uint32),
        ("length", np.uint32),
        ("interface", np.int32),
        ("dropped", np.uint32),
        ("ifindex", np.uint32),
        ("options", np.uint32),
        ("options_end", np.uint32),
        ("direction", np.uint8),
        ("marks", np.uint8),
    ],
    align=True,
)
PACKET_ID = 1
CHECKSUM_NOT_READY = 2
BIG_ENDIAN = 4  # the byte order of the options
NO_TIME = np.int64(-(1 << 63))
OUT_OF_RANGE = np.int64(-(1 << 63) + 1)
# A buffer of packets is followed by this many bytes more, so that a hash may read whole words at its end.
SLACK = 8

# Reading a word byte by byte costs a check for negative indices each time. With checked bounds, or uncompiled, words
# are read byte by byte; otherwise a word is one load, and only the callers check bounds.
if CHECKED:

    @inlined
    def memory(data):
        """The bytes of a batch as the functions below read them: the array itself, which checks bounds."""
        return data

    @inlined
    def _little(data, at, size):
        value = np.uint64(0)
        for number in range(size):
            value |= np.uint64(data[at + number]) << np.uint64(8 * number)
        return value

    @inlined
    def _big(data, at, size):
        value = np.uint64(0)
        for number in range(size):
            value = (value << np.uint64(8)) | np.uint64(data[at + number])
        return value

    @inlined
    def word(data, at, big):
        """Unsigned 32 bit word at an offset that the caller has checked."""
        return np.int64(_big(data, at, 4)) if big else np.int64(_little(data, at, 4))

    @inlined
    def half(data, at, big):
        """Unsigned 16 bit word at an offset that the caller has checked."""
        return np.int64(_big(data, at, 2)) if big else np.int64(_little(data, at, 2))

    @inlined
    def byte(data, at):
        """One byte at an offset that the caller has checked."""
        return np.int64(data[at])

    @inlined
    def double(data, at):
        """Unsigned 64 bit word in network order, at an offset that the caller has checked."""
        return _big(data, at, 8)

    @inlined
    def little_double(data, at):
        """Unsigned 64 bit word, lowest byte first, at an offset that the caller has checked."""
        return _little(data, at, 8)

else:
    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic

    @intrinsic
    def _address(typing_context, data):
        """The address of an array's first element."""

        def generate(context, builder, signature, arguments):
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            return builder.ptrtoint(array.data, ir.IntType(64))

        return types.int64(data), generate

    @inlined
    def memory(data):
        """The bytes of a batch as the functions below read them: their address.

        Passing an array from function to function counts its references at each call, with atomic operations, which
        took half of the decoder's time. The caller of the kernel keeps the array alive.
        """
        return _address(data)

    def _loader(bits: int, swapped: bool, signed: bool) -> Any:
        """A function that loads an unsigned number of `bits` bits, unaligned; the result has 64 bits."""

        def load(typing_context, data, at):
            result = types.int64 if signed else types.uint64

            def generate(context, builder, signature, arguments):
                place = builder.inttoptr(builder.add(*arguments), ir.IntType(bits).as_pointer())
                value = builder.load(place, align=1)
                if swapped and bits > 8:
                    value = builder.bswap(value)
                return value if bits == 64 else builder.zext(value, ir.IntType(64))

            return result(types.int64, types.int64), generate

        return intrinsic(load)

    _word_little, _word_big = _loader(32, False, True), _loader(32, True, True)
    _half_little, _half_big = _loader(16, False, True), _loader(16, True, True)
    _one = _loader(8, False, True)
    _double_big, _double_little = _loader(64, True, False), _loader(64, False, False)

    @inlined
    def word(data, at, big):
        """Unsigned 32 bit word at an offset that the caller has checked."""
        return _word_big(data, at) if big else _word_little(data, at)

    @inlined
    def half(data, at, big):
        """Unsigned 16 bit word at an offset that the caller has checked."""
        return _half_big(data, at) if big else _half_little(data, at)

    @inlined
    def byte(data, at):
        """One byte at an offset that the caller has checked."""
        return _one(data, at)

    @inlined
    def double(data, at):
        """Unsigned 64 bit word in network order, at an offset that the caller has checked."""
        return _double_big(data, at)

    @inlined
    def little_double(data, at):
        """Unsigned 64 bit word, lowest byte first, at an offset that the caller has checked."""
        return _double_little(data, at)
