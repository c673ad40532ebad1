"""Sockets inside the namespaces of a lab, opened from here, and what tests do with them."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from capture_scripts.forwarder.frames import Frame, VnetHeader, ones_sum
from capture_scripts.quiet import DEADLINE_S, wait_until_closed
from capture_scripts.testbed import topology

MISSING = [tool for tool in (*topology.TOOLS, "ping") if shutil.which(tool) is None]
needs_lab = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root: it makes network namespaces"),
    pytest.mark.skipif(bool(MISSING), reason=f"the lab needs {', '.join(MISSING)}"),
]

PUNTED, FORWARDED = 53, 4000  # UDP ports: a punt rule, and the default
CLIENT, PVM1 = topology.CLIENT, topology.PVM1
Opened = TypeVar("Opened")
_CLONE_NEWNET = 0x40000000
_IP_RECVTTL = 12
_libc = ctypes.CDLL(None, use_errno=True)


def inside(lab: topology.Lab, role: str, do: Callable[[], Opened]) -> Opened:
    """Call ``do`` in a namespace of the lab. A socket stays in the namespace in which it was opened."""

    def enter() -> Opened:
        with open(f"/run/netns/{lab.namespace(role)}") as namespace:
            if _libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        return do()

    with ThreadPoolExecutor(1) as thread:  # namespaces belong to threads, so ours stays where it is
        return thread.submit(enter).result()


class Tap:
    """Every frame at one device, in both directions, as a capture would see it."""

    def __init__(self, lab: topology.Lab, device: str, role: str = "host") -> None:
        self._lab = lab

        def opened() -> socket.socket:
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            tap.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
            tap.bind((device, 3))
            tap.setblocking(False)
            return tap

        self._socket = inside(lab, role, opened)

    def frames(self) -> list[Frame]:
        """All IP frames since the last call, when no packet is on its way any more."""
        self._lab.wait_until_quiet()
        found = []
        while True:
            try:
                frame = Frame(VnetHeader(), bytearray(self._socket.recv(70_000)))
            except BlockingIOError:
                _, dropped = struct.unpack("II", self._socket.getsockopt(263, 6, 8))  # PACKET_STATISTICS
                assert dropped == 0, f"the tap had no room for {dropped} frames"
                return found
            if frame.version:
                found.append(frame)

    def close(self) -> None:
        self._socket.close()


def checksums_right(frame: Frame) -> bool:
    """Network header and transport, computed from all bytes."""
    if frame.version == 4 and ones_sum(frame.data[14 : frame.layer4]) != 0xFFFF:
        return False
    pseudo = frame.pseudo_sum() if frame.protocol != 1 else 0
    total = pseudo + ones_sum(frame.data[frame.layer4 : frame.end])
    return total % 0xFFFF == 0


@dataclass(frozen=True)
class Arrived:
    payload: bytes
    source: tuple[str, int]
    ttl: int
    dscp: int


def udp_socket(lab: topology.Lab, role: str, address: str, port: int) -> socket.socket:
    """A bound UDP socket that tells TTL and DSCP of what arrives."""
    six = ":" in address

    def opened() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        if six:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        made.bind((address, port))
        made.settimeout(DEADLINE_S)
        return made

    return inside(lab, role, opened)


def receive_all(receiver: socket.socket) -> list[Arrived]:
    """All that is there. The kernel keeps back whatever has a wrong checksum."""
    receiver.setblocking(False)
    found = []
    while True:
        try:
            payload, control, _, source = receiver.recvmsg(70_000, 256)
        except BlockingIOError:
            receiver.settimeout(DEADLINE_S)
            return found
        said = {kind: struct.unpack("i", data.ljust(4, b"\0"))[0] for _, kind, data in control}
        ttl = said.get(socket.IP_TTL, said.get(socket.IPV6_HOPLIMIT, -1))
        tos = said.get(socket.IP_TOS, said.get(socket.IPV6_TCLASS, 0))
        found.append(Arrived(payload, source[:2], ttl, tos >> 2))


def numbered(count: int, length: int = 40) -> list[bytes]:
    """Payloads that can be told apart."""
    return [f"{number:06d}".encode().ljust(length, b".") for number in range(count)]


@dataclass
class Flow:
    """UDP between client and pvm1; ``ingress`` is client to pvm1. The port is the one that rules know."""

    lab: topology.Lab
    version: int = 4
    port: int = PUNTED
    client_port: int = 20_001

    def __post_init__(self) -> None:
        near, far = (CLIENT.ipv4, PVM1.ipv4) if self.version == 4 else (CLIENT.ipv6, PVM1.ipv6)
        self.client_address, self.machine_address = near, far
        self.client = udp_socket(self.lab, "client", near, self.client_port)
        self.machine = udp_socket(self.lab, "pvm1", far, self.port)

    def send(self, payloads: list[bytes], path: str = "ingress") -> None:
        for payload in payloads:
            if path == "ingress":
                self.client.sendto(payload, (self.machine_address, self.port))
            else:
                self.machine.sendto(payload, (self.client_address, self.client_port))

    def received(self, path: str = "ingress") -> list[Arrived]:
        """All that has arrived, when no packet is on its way any more."""
        self.lab.wait_until_quiet()
        return receive_all(self.machine if path == "ingress" else self.client)

    def passed(self, payloads: list[bytes], path: str = "ingress") -> list[bytes]:
        """Send them and return what arrived."""
        self.send(payloads, path)
        return [one.payload for one in self.received(path)]

    def close(self) -> None:
        self.client.close()
        self.machine.close()


def answers(lab: topology.Lab, role: str, address: str, count: int = 3) -> int:
    """How many echo requests are answered, by the kernel's counter: ping itself waits for some time only."""

    def arrived() -> int:
        counted = dict(line.split() for line in lab.run_in(role, ["cat", "/proc/net/snmp6"]).splitlines())
        header, values = (
            line.split()[1:] for line in lab.run_in(role, ["cat", "/proc/net/snmp"]).splitlines() if "Icmp:" in line
        )
        return int(counted["Icmp6InEchoReplies"]) + int(dict(zip(header, values, strict=True))["InEchoReps"])

    before = arrived()
    said = lab.run_in(role, ["ping", "-n", "-q", "-c", str(count), "-i", "0.02", "-W", "1", address], check=False)
    assert f"{count} packets transmitted" in said
    lab.wait_until_quiet()
    return min(count, arrived() - before)  # an answer may have been doubled


def transfer(lab: topology.Lab, size: int, port: int = 5201) -> None:
    """A kernel TCP connection over the punt rule for this port, client to pvm1, checked byte by byte."""

    def listener() -> socket.socket:
        made = socket.create_server((PVM1.ipv4, port))
        made.settimeout(DEADLINE_S)
        return made

    content = random.Random(size).randbytes(size)
    received: list[bytes] = []

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(DEADLINE_S)
            while part := connection.recv(1 << 20):
                received.append(part)

    with inside(lab, "pvm1", listener) as server, inside(lab, "client", socket.socket) as client:
        thread = threading.Thread(target=serve)
        thread.start()
        client.settimeout(DEADLINE_S)
        client.connect((PVM1.ipv4, port))
        client.sendall(content)
        client.close()
        thread.join(DEADLINE_S)
    assert b"".join(received) == content
    # A connection whose last acknowledgement got lost, as when the service is swapped next, would go on sending its
    # FIN for minutes: packets that no later test has sent, and some count them all.
    wait_until_closed([lab.namespace("client"), lab.namespace("pvm1")])


def without_processor_s(*processes: object) -> float:
    """How long the first threads of processes have been ready to run and had no processor, by the kernel's count."""
    return sum(int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) for process in processes) / 1e9
