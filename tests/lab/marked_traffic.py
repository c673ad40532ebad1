"""Conversations whose every byte says which packet it is: ``marked_traffic.py SPEC.json ANSWER.json``.

Payloads are records of 16 bytes: direction, flow, number of the datagram (0 in a stream), and the record's own offset.
So any 31 bytes of a datagram, of a fragment or of a stream tell where they come from, whatever happened to headers.
Sockets are opened in the namespaces that the specification names. Everything ends by itself, when nothing is on its way
any more: no queue, no connection and no link in user space holds a packet.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from capture_scripts.processes import in_namespace, run
from capture_scripts.quiet import wait_until, wait_until_closed, wait_until_handled

RECORD = 16
MARK = re.compile(rb"([<>])([0-9a-f]{2})(\d{6})([0-9a-f]{6})\|")
_CLONE_NEWNET = 0x40000000
_UDP_SEGMENT = 103
_QUIET_S = 0.25  # answers that come later than this after the last one are not waited for
_TCP_TIMEOUT_S = 120.0
_libc = ctypes.CDLL(None, use_errno=True)
Made = TypeVar("Made")


def marked(direction: str, flow: int, number: int, begin: int, end: int) -> bytes:
    """Bytes [begin, end) of a datagram or stream."""
    first = begin // RECORD
    records = (f"{direction}{flow:02x}{number:06d}{at * RECORD:06x}|" for at in range(first, -(-end // RECORD)))
    return "".join(records).encode()[begin - first * RECORD : end - first * RECORD]


def inside(namespace: str, do: Callable[[], Made]) -> Made:
    """Call ``do`` in a namespace; a socket stays in the namespace in which it was opened."""
    made: list[Made] = []
    failed: list[Exception] = []

    def enter() -> None:
        try:
            with open(f"/run/netns/{namespace}") as opened:
                if _libc.setns(opened.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns {namespace}")
            made.append(do())
        except Exception as error:  # noqa: BLE001 - handed on to the caller's thread
            failed.append(error)

    thread = threading.Thread(target=enter)  # namespaces belong to threads, so ours stays where it is
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def opened(namespace: str, kind: int, address: tuple[str, int], **options: int) -> socket.socket:
    """A bound socket in a namespace."""

    def make() -> socket.socket:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        made = socket.socket(family, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind == socket.SOCK_DGRAM:
            made.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        if options.get("may_fragment") and family == socket.AF_INET:
            made.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: IP_PMTUDISC_DONT
        if options.get("segment"):
            made.setsockopt(17, _UDP_SEGMENT, options["segment"])
        made.bind(address)
        return made

    return inside(namespace, make)


def settle(spec: dict[str, Any]) -> None:
    """Return when no packet of the conversations is on its way any more."""
    wait_until_closed([spec["client"], spec["server"]])
    carried, before = [carried_by(link) for link in spec.get("links", [])], None
    while carried != before:
        wait_until_handled()
        for namespace, device in spec.get("shaped", []):
            wait_until(lambda where=(namespace, device): not queued(*where), f"the queue of {device} empties")
        wait_until_handled()
        carried, before = [carried_by(link) for link in spec.get("links", [])], carried


def queued(namespace: str, device: str) -> int:
    """Bytes in the queues of a device."""
    told = json.loads(run(in_namespace(namespace, ["tc", "-s", "-j", "qdisc", "show", "dev", device])))
    return sum(int(entry.get("backlog", 0)) for entry in told)


def carried_by(link: dict[str, Any]) -> int:
    """Frames that a link in user space has carried; it answers when it holds none."""
    answer = Path(link["answer"])
    answer.unlink(missing_ok=True)
    os.kill(link["process"], signal.SIGUSR1)
    wait_until(answer.exists, "the link in user space has nothing to carry")
    return int(answer.read_text(encoding="utf-8"))


class Conversations:
    """All flows of a specification, a thread for each end."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.told: dict[str, Any] = {"udp": {}, "tcp": {}}
        self._servers: list[threading.Thread] = []
        self._clients: list[threading.Thread] = []
        self._over = threading.Event()
        self._datagrams: list[socket.socket] = []  # open to the end: a port that is closed answers, with an error

    def run(self) -> dict[str, Any]:
        """Speak to the end and tell what was sent and what arrived."""
        for address in {tuple(flow["to"]) for flow in self.spec.get("udp", [])}:
            at = opened(self.spec["server"], socket.SOCK_DGRAM, address, may_fragment=1)
            self._datagrams.append(at)
            self._servers.append(threading.Thread(target=self._answer_datagrams, args=(at,)))
        for address in {tuple(flow["to"]) for flow in self.spec.get("tcp", [])}:
            at = opened(self.spec["server"], socket.SOCK_STREAM, tuple(self.spec.get("bind", address)))
            at.listen(32)
            at.settimeout(0.2)
            self._servers.append(threading.Thread(target=self._accept, args=(at,)))
        for flow in self.spec.get("udp", []):
            self._clients.append(threading.Thread(target=self._send_datagrams, args=(flow,)))
        for flow in self.spec.get("tcp", []):
            self._clients.append(threading.Thread(target=self._speak, args=(flow,)))
        for thread in (*self._servers, *self._clients):
            thread.start()
        for thread in self._clients:
            thread.join()
        settle(self.spec)
        self._over.set()
        for thread in self._servers:
            thread.join()
        settle(self.spec)
        for opened_one in self._datagrams:
            opened_one.close()
        return self.told

    def _send_datagrams(self, flow: dict[str, Any]) -> None:
        options = {"may_fragment": flow.get("may_fragment", 0), "segment": flow.get("segment", 0)}
        mine = opened(self.spec["client"], socket.SOCK_DGRAM, tuple(flow["from"]), **options)
        self._datagrams.append(mine)
        told = {"sent": 0, "answers": 0, "answered": 0, "arrived": 0}
        self.told["udp"][flow["flow"]] = told
        sizes, target = flow["sizes"], tuple(flow.get("through", flow["to"]))
        listener = threading.Thread(target=self._count_answers, args=(mine, told))
        listener.start()
        due = time.monotonic()
        for number in range(flow["count"]):
            mine.sendto(marked(">", flow["flow"], number, 0, sizes[number % len(sizes)]), target)
            told["sent"] += 1
            due += flow.get("gap_us", 500) / 1e6
            time.sleep(max(0.0, due - time.monotonic()))  # pace
        listener.join()

    def _count_answers(self, mine: socket.socket, told: dict[str, int]) -> None:
        mine.settimeout(_QUIET_S)
        last = time.monotonic()
        while time.monotonic() - last < _QUIET_S:
            try:
                mine.recv(70_000)
            except TimeoutError:
                continue
            except OSError:  # an ICMP error: a datagram was refused somewhere
                continue
            told["answers"] += 1
            last = time.monotonic()

    def _answer_datagrams(self, at: socket.socket) -> None:
        at.settimeout(0.05)
        flows = {flow["flow"]: flow for flow in self.spec["udp"]}
        while True:
            try:
                data, sender = at.recvfrom(70_000)
            except TimeoutError:
                if self._over.is_set():
                    return
                continue
            except OSError:
                continue
            found = MARK.match(data)
            if found is None:
                continue
            number, count = int(found[2], 16), int(found[3])
            told = self.told["udp"][number]
            told["arrived"] += 1
            sizes = flows[number].get("answers", flows[number]["sizes"])
            if sizes:
                at.sendto(marked("<", number, count, 0, sizes[count % len(sizes)]), sender)
                told["answered"] += 1

    def _accept(self, at: socket.socket) -> None:
        waiting: list[threading.Thread] = []
        while not self._over.is_set():
            try:
                connection, _ = at.accept()
            except TimeoutError:
                continue
            waiting.append(threading.Thread(target=self._serve, args=(connection,)))
            waiting[-1].start()
        for thread in waiting:
            thread.join()
        at.close()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(_TCP_TIMEOUT_S)
        head = b""
        while len(head) < RECORD:
            more = connection.recv(RECORD - len(head))
            if not more:
                return
            head += more
        found = MARK.match(head)
        assert found is not None
        number = int(found[2], 16)
        flow = next(flow for flow in self.spec["tcp"] if flow["flow"] == number)
        writer = threading.Thread(target=self._write, args=(connection, "<", number, flow.get("back", 0), flow))
        writer.start()
        arrived = RECORD + self._read(connection)
        writer.join()
        self.told["tcp"].setdefault(number, {})["there"] = arrived
        connection.close()

    def _speak(self, flow: dict[str, Any]) -> None:
        mine = opened(self.spec["client"], socket.SOCK_STREAM, tuple(flow["from"]))
        mine.settimeout(_TCP_TIMEOUT_S)
        mine.connect(tuple(flow.get("through", flow["to"])))
        writer = threading.Thread(target=self._write, args=(mine, ">", flow["flow"], flow["there"], flow))
        writer.start()
        arrived = self._read(mine)
        writer.join()
        self.told["tcp"].setdefault(flow["flow"], {})["back"] = arrived
        mine.close()

    @staticmethod
    def _write(connection: socket.socket, direction: str, number: int, size: int, flow: dict[str, Any]) -> None:
        chunk, pause_s = flow.get("chunk", 4096), flow.get("gap_us", 0) / 1e6
        for begin in range(0, size, chunk):
            connection.sendall(marked(direction, number, 0, begin, min(size, begin + chunk)))
            if pause_s:
                time.sleep(pause_s)  # pace
        connection.shutdown(socket.SHUT_WR)

    @staticmethod
    def _read(connection: socket.socket) -> int:
        arrived = 0
        while data := connection.recv(1 << 16):
            arrived += len(data)
        return arrived


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    told = Conversations(spec).run()
    Path(sys.argv[2]).write_text(json.dumps(told), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # a thread that hangs in a broken connection is not waited for


if __name__ == "__main__":
    main()
