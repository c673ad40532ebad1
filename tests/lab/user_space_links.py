"""What a kernel may lack, in user space: a wire that impairs or tags frames, and both ends of an IP tunnel.

    user_space_links.py --log FILE wire NETNS [--delay-us N] [--jitter-us N] [--loss P] [--dup P] [--seed N] [--vlan N]
    user_space_links.py --log FILE tunnel ipip|gre|sealed NETNS1 NETNS2 ADDRESS1 ADDRESS2

The wire joins the devices ``left`` and ``right`` of its namespace; with ``--vlan`` frames go over ``m0`` and ``m1``
there, and are tagged between these two. A tunnel has a device ``tun0`` at each end; outer headers are the kernel's.
FILE appears when it works; SIGTERM writes the counts into it, and ends. SIGUSR1 is answered by FILE.quiet, with the
number of frames carried so far, as soon as there is nothing to carry.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import heapq
import json
import os
import random
import select
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Any

from tests.lab.marked_traffic import inside

_SOL_PACKET, _IGNORE_OUTGOING, _SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 263, 23, 33, 32
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_SEALED_PORT = 4999
_WAIT_S = 0.05  # for frames, and between looks at what was asked
_over = _asked = False


def _end(*_: object) -> None:
    global _over
    _over = True


def _ask(*_: object) -> None:
    global _asked
    _asked = True


def _answer(log: Path, carried: int) -> None:
    global _asked
    _asked = False
    _write(log.with_suffix(".quiet"), str(carried))


def _write(file: Path, text: str) -> None:
    """Whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _tap(namespace: str, device: str) -> socket.socket:
    """Every frame that arrives at a device, and none that leaves by it."""

    def opened() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        made.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
        made.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 16 << 20)
        made.bind((device, 3))
        made.setblocking(False)
        return made

    return inside(namespace, opened)


def wire(options: argparse.Namespace) -> dict[str, Any]:
    """Carry frames until SIGTERM."""
    ends = {name: _tap(options.netns, name) for name in ("left", "right", *(("m0", "m1") if options.vlan else ()))}
    onward = {"left": "right", "right": "left"}
    if options.vlan:
        onward = {"left": "m0", "m0": "left", "right": "m1", "m1": "right"}
    chance = random.Random(options.seed)
    # Losses and duplicates happen once per frame: where it comes from a gateway.
    counts = {
        side: {"received": 0, "lost": 0, "duplicated": 0, "refused": 0, "ip_lost": 0, "ip_duplicated": 0}
        for side in ("left", "right")
    }
    held: list[tuple[float, int, str, bytes]] = []
    number = 0
    options.log.write_text("{}", encoding="utf-8")
    while not _over or held:
        wait_s = min(_WAIT_S, max(0.0, held[0][0] - time.monotonic())) if held else _WAIT_S
        names = {end: name for name, end in ends.items()}
        asked = _asked  # before the look: what comes after it was not there when it was asked
        ready = select.select(list(names), [], [], wait_s)[0]
        if asked and not ready and not held:
            _answer(options.log, number)
        for end in ready:
            name = names[end]
            while True:
                try:
                    frame = end.recv(70_000)
                except BlockingIOError:
                    break
                times = 1
                if name in counts:
                    is_ip = frame[12:14] in (b"\x08\x00", b"\x86\xdd")
                    told = counts[name]
                    told["received"] += 1
                    if chance.random() < options.loss:
                        told["lost"] += 1
                        told["ip_lost"] += is_ip
                        continue
                    if chance.random() < options.dup:
                        told["duplicated"] += 1
                        told["ip_duplicated"] += is_ip
                        times = 2
                    if options.vlan:
                        frame = frame[:12] + struct.pack("!HH", 0x8100, options.vlan) + frame[12:]
                for _ in range(times):
                    due = time.monotonic() + (options.delay_us + chance.random() * options.jitter_us) / 1e6
                    number += 1
                    heapq.heappush(held, (due, number, onward[name], frame))
        while held and held[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(held)
            try:
                ends[target].send(frame)
            except OSError:
                for told in counts.values():
                    told["refused"] += 1
    return counts


def _tun(namespace: str) -> int:
    def opened() -> int:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", b"tun0", _IFF_TUN | _IFF_NO_PI))
        return device

    return inside(namespace, opened)


def _outer(namespace: str, kind: str, address: str) -> socket.socket:
    def opened() -> socket.socket:
        if kind == "sealed":
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind((address, _SEALED_PORT))
        else:
            made = socket.socket(socket.AF_INET, socket.SOCK_RAW, {"ipip": 4, "gre": 47}[kind])
            made.bind((address, 0))
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
        made.setblocking(False)
        return made

    return inside(namespace, opened)


def _sealed(number: int, data: bytes) -> bytes:
    """Encrypted for a test: nobody who sees it can tell what is inside. The same call opens it."""
    key = hashlib.shake_128(b"tunnel" + number.to_bytes(8, "big")).digest(len(data))
    return bytes(a ^ b for a, b in zip(data, key, strict=True))


def tunnel(options: argparse.Namespace) -> dict[str, Any]:
    """Carry packets between both ends until SIGTERM."""
    kind, spaces, addresses = options.kind, options.netns, options.address
    tuns = [_tun(space) for space in spaces]
    outers = [_outer(space, kind, address) for space, address in zip(spaces, addresses, strict=True)]
    counts = [{"sealed": 0, "opened": 0} for _ in spaces]
    number = 0
    options.log.write_text("{}", encoding="utf-8")
    while not _over:
        asked = _asked
        ready = select.select([*tuns, *outers], [], [], _WAIT_S)[0]
        if asked and not ready:
            _answer(options.log, sum(sum(of_side.values()) for of_side in counts))
        for side, (tun, outer) in enumerate(zip(tuns, outers, strict=True)):
            while tun in ready:
                try:
                    packet = os.read(tun, 70_000)
                except BlockingIOError:
                    break
                if kind == "gre":
                    packet = b"\0\0\x08\0" + packet
                if kind == "sealed":
                    number += 1
                    packet = number.to_bytes(8, "big") + _sealed(number, packet)
                outer.sendto(packet, (addresses[1 - side], _SEALED_PORT if kind == "sealed" else 0))
                counts[side]["sealed"] += 1
            while outer in ready:
                try:
                    packet = outer.recv(70_000)
                except OSError:
                    break
                if kind == "sealed":
                    packet = _sealed(int.from_bytes(packet[:8], "big"), packet[8:])
                else:
                    packet = packet[20 + (4 if kind == "gre" else 0) :]  # raw sockets show the outer header
                os.write(tun, packet)
                counts[side]["opened"] += 1
    return {"ends": counts}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    kinds = parser.add_subparsers(dest="what", required=True)
    one = kinds.add_parser("wire")
    one.add_argument("netns")
    for name in ("--delay-us", "--jitter-us", "--seed", "--vlan"):
        one.add_argument(name, type=int, default=0)
    for name in ("--loss", "--dup"):
        one.add_argument(name, type=float, default=0.0)
    other = kinds.add_parser("tunnel")
    other.add_argument("kind", choices=("ipip", "gre", "sealed"))
    other.add_argument("netns", nargs=2)
    other.add_argument("address", nargs=2)
    options = parser.parse_args()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, _end)
    signal.signal(signal.SIGUSR1, _ask)
    # It stands in for a part of the kernel, which need not wait for a processor either: what waits here for longer than
    # the loss threshold would be lost.
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    counts = (wire if options.what == "wire" else tunnel)(options)
    _write(options.log, json.dumps(counts))


if __name__ == "__main__":
    main()
