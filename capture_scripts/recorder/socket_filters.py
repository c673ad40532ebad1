"""Filter the packets of a running capture from outside: attach a filter to the packet socket of another process.

A capture tool discards unread packets when it stops, and on a busy network some packets are always unread. The recorder
therefore shuts the inflow first: it attaches a filter that takes nothing to the socket of the tool (fetched by
pidfd_getfd, Linux 5.6). The kernel then hands over its last packets within the block timeout, no packet follows, and
"captured + dropped = received" becomes exact, on a busy network, too.

Filters by direction are attached the same way. The filters of libpcap do not help here. Its -Q discards packets in user
space that were counted as received. Its "inbound" and "outbound" lose the packets of the first block, which libpcap
filters once more in user space, where a packet has no direction.

This file imports no other module of the package, because it is also sent to other hosts (see hosts.py).
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant

_SO_ATTACH_FILTER = 26
_PIDFD_GETFD = 438  # the same number on every architecture
_RETURN, _LOAD_BYTE, _JUMP_IF_EQUAL = 0x06, 0x30, 0x15
_PACKET_TYPE = 0xFFFFF004  # SKF_AD_OFF + SKF_AD_PKTTYPE
_OUTGOING = 4

NOTHING: tuple[Instruction, ...] = ((_RETURN, 0, 0, 0),)


def by_direction(direction: str, rest: Sequence[Instruction]) -> list[Instruction]:
    """A program that takes the packets of ``rest`` in one direction, ``in`` or ``out`` at their device."""
    outgoing, other = (1, 0) if direction == "out" else (0, 1)  # 1 jumps over the refusal
    return [
        (_LOAD_BYTE, 0, 0, _PACKET_TYPE),
        (_JUMP_IF_EQUAL, outgoing, other, _OUTGOING),
        (_RETURN, 0, 0, 0),
        *rest,
    ]


def _packet_sockets(process: int) -> Iterator[socket.socket]:
    """Descriptors for all packet sockets of a process."""
    with open(f"/proc/{process}/net/packet", encoding="ascii") as table:
        known = {line.split()[-1] for line in table.read().splitlines()[1:]}
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.pidfd_open(process)
    try:
        for name in os.listdir(f"/proc/{process}/fd"):
            try:
                found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{process}/fd/{name}"))
            except FileNotFoundError:  # closed meanwhile
                continue
            if found is None or found[1] not in known:
                continue
            descriptor = libc.syscall(_PIDFD_GETFD, handle, int(name), 0)
            if descriptor < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            yield socket.socket(fileno=descriptor)
    finally:
        os.close(handle)


def attach(process: int, program: Sequence[Instruction]) -> int:
    """Attach a filter to every packet socket of a process; returns the time just before it, in ns.

    Raises OSError where that is impossible: no permission, an older kernel, no such socket.
    """
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    before_ns = time.time_ns()
    attached = 0
    for packet_socket in _packet_sockets(process):
        with packet_socket:
            argument = struct.pack("@HP", len(program), ctypes.addressof(buffer))
            packet_socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, argument)
            attached += 1
    if not attached:
        raise OSError(f"process {process} has no packet socket")
    return before_ns


if __name__ == "__main__":  # on another host: python3 -c SOURCE PROCESS PROGRAM
    print(attach(int(sys.argv[1]), json.loads(sys.argv[2])))
