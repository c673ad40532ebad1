"""Handle many frames per system call: recvmmsg and sendmmsg on packet sockets with virtio headers.

The socket module of Python takes one frame per call, which alone costs more than the whole way of a frame through the
kernel. A virtio_net_hdr (``VNET_HEADER`` bytes) stands before each frame. It describes the work left by offloads: a
checksum to finish, a superpacket to split. Without it a frame with a partial checksum would be forwarded as if the
checksum were correct, and TCP would never connect.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct

VNET_HEADER = 10
BATCH = 64
_FRAME_SIZE = VNET_HEADER + 14 + 65_536 + 128  # the longest superpacket, and room for a VLAN tag or two
_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_STATISTICS = 6
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
_PACKET_MR_PROMISC = 1
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER_BYTES = 64 << 20
_MSG_TRUNC, _MSG_DONTWAIT = 0x20, 0x40


class _IoVector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.POINTER(_IoVector)),
        ("vector_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Numbered(ctypes.Structure):
    _fields_ = (("message", _Message), ("length", ctypes.c_uint))


_libc = ctypes.CDLL(None, use_errno=True)


def open_receiver(device: str) -> socket.socket:
    """A socket that receives every frame arriving at ``device``, and no frame leaving by it."""
    receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    receiver.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    receiver.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    # The socket receives only from here on: no frame arrives without its virtio header.
    receiver.bind((device, _ETH_P_ALL))
    membership = struct.pack("iHH8s", socket.if_nametoindex(device), _PACKET_MR_PROMISC, 0, b"")
    receiver.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
    return receiver


def open_sender(device: str) -> socket.socket:
    """A socket that sends out of ``device`` and receives nothing."""
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sender.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_BYTES)
    sender.bind((device, 0))
    return sender


def kernel_drops(receiver: socket.socket) -> int:
    """Frames dropped for lack of room in the socket since the last call (PACKET_STATISTICS restarts each time)."""
    _, drops = struct.unpack("II", receiver.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
    return int(drops)


class Batch:
    """Buffers for up to ``BATCH`` frames, which are sent from the buffer that received them."""

    def __init__(self) -> None:
        self._memory = ctypes.create_string_buffer(BATCH * _FRAME_SIZE)
        self._view = memoryview(self._memory).cast("B")
        start = ctypes.addressof(self._memory)
        self._vectors = (_IoVector * BATCH)()
        self._messages = (_Numbered * BATCH)()
        for number in range(BATCH):
            self._vectors[number].base = start + number * _FRAME_SIZE
            self._messages[number].message.vector = ctypes.pointer(self._vectors[number])
            self._messages[number].message.vector_length = 1
        self.count = 0
        self.truncated = 0

    def receive(self, receiver: socket.socket) -> int:
        """Receive the waiting frames, without blocking. Returns their number; OSError if the device is gone."""
        for number in range(BATCH):
            self._vectors[number].length = _FRAME_SIZE
        count = _libc.recvmmsg(receiver.fileno(), self._messages, BATCH, _MSG_DONTWAIT, None)
        if count < 0:
            code = ctypes.get_errno()
            self.count = 0
            if code in (errno.EAGAIN, errno.EINTR):
                return 0
            raise OSError(code, os.strerror(code))
        self.count = count
        for number in range(count):
            message = self._messages[number]
            self._vectors[number].length = message.length
            self.truncated += bool(message.message.flags & _MSG_TRUNC)
        return int(count)

    def frame(self, number: int) -> tuple[bytes, bytearray]:
        """(virtio header, frame) as copies."""
        start = number * _FRAME_SIZE
        end = start + self._messages[number].length
        return bytes(self._view[start : start + VNET_HEADER]), bytearray(self._view[start + VNET_HEADER : end])

    def send(self, sender: socket.socket) -> int:
        """Send all frames unchanged. Returns the number that the kernel took; refused frames are tried once."""
        at = taken = 0
        while at < self.count:
            rest = ctypes.byref(self._messages, at * ctypes.sizeof(_Numbered))
            sent = max(0, _libc.sendmmsg(sender.fileno(), rest, self.count - at, 0))
            taken += sent
            # The kernel took fewer: it refused the next frame, for instance by an nft rule at the exit. A second
            # try would give that frame another chance, and the rule would count it twice.
            at += sent + 1
        return taken
