"""A second witness of losses: the packets that the kernel reports as dropped, with place and reason.

bpftrace runs beside the captures and reads the tracepoint skb:kfree_skb. ``kernel_drops.jsonl`` gets a line per dropped
IP packet. ``kernel_witness.json`` has the span of the watch. It lies between two datagrams to a closed port of the
loopback device, whose drops the witness itself has to report. Without bpftrace, or without the right to use it, that
file gives the reason, and the recording goes on.

The kernel counts the time of events from boot. The offset to the clock of the captures is measured at the start and at
the end, and interpolated.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ..own_files import fresh
from ..processes import Children, LabError, run, signal_group
from ..visible import visible

DROPS_FILE = "kernel_drops.jsonl"
STATE_FILE = "kernel_witness.json"
_TRACEFS = Path("/sys/kernel/tracing")
# Deadlines guard against hanging: a bpftrace that waits for a processor is slow, and not broken.
_READY_TIMEOUT_S = 60.0
_LAST_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
# Events wait in a buffer per processor while bpftrace does not run. All buffers together have this size; each has at
# least the least number of pages.
_BUFFER_BYTES, _LEAST_PAGES, _PAGE_BYTES = 64 << 20, 1024, 4096
_LOST = re.compile(r"Lost (\d+) events")
_REASON = re.compile(r'\{\s*(0x[0-9a-f]+|\d+),\s*"(\w+)"\s*\}')
WORDS = 10  # of eight bytes each, read from a dropped packet: IPv6, TCP with its usual options, or a marker behind UDP
MOST_BYTES = 8 * WORDS
_PAYLOAD_BYTES = 24
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_FRAGMENT = 44
_EXTENSIONS = (0, 43, 60)
_ECHO = {_ICMP: (0, 8), _ICMPV6: (128, 129)}
_PROGRAM = """
tracepoint:skb:kfree_skb /args->protocol == 0x0800 || args->protocol == 0x86dd/ {{
  $s = (struct sk_buff *)args->skbaddr;
{only}  $p = (uint64)$s->head + (uint64)$s->network_header;
  $n = nsecs;
  $c = cpu;
  printf("drop %llu %u %u %u %u %u %u %u %s\\n", $n, $c, args->reason, args->protocol,
         $s->dev->nd_net.net->ns.inum, $s->dev->ifindex, $s->len, $s->tail - $s->network_header, $s->dev->name);
  printf("data %llu %u {formats}\\n", $n, $c, {words});
}}
"""


class KernelWitness:
    """Records drops from ``begin`` to ``finish``, for the run whose ``context/`` is ``folder``.

    ``namespaces`` limits the record to those network namespaces, by name; None takes all.
    """

    def __init__(self, folder: Path, namespaces: Collection[str] | None = None) -> None:
        self._folder = folder
        self._only = namespaces
        self._said = folder / "kernel_drops.part"
        self._log = folder / "kernel_witness.log"
        self._children = Children()
        self._process: subprocess.Popen[bytes] | None = None
        self._first: _Signal | None = None
        self.trouble = ""

    def begin(self) -> None:
        """Start bpftrace. It takes two or three seconds, and the captures start meanwhile."""
        try:
            self._start()
        except (LabError, OSError) as error:
            self._give_up(str(error))

    def wait_ready(self) -> None:
        """Wait until bpftrace has reported the drop of a test datagram."""
        if self._process is None:
            return
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while self._first is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                self._said.unlink(missing_ok=True)
                self._give_up(_last_line(self._log) or f"bpftrace saw nothing within {_READY_TIMEOUT_S:g} s")
                return
            self._first = self._signal(0.3)

    def finish(self) -> None:
        """Stop bpftrace and write its events. A second call does nothing."""
        if self._process is None:
            return
        last = None
        deadline = time.monotonic() + _LAST_TIMEOUT_S
        while self._first is not None and last is None and self._process.poll() is None:
            last = self._signal(0.5)
            if time.monotonic() > deadline:
                break
        self._end()
        try:
            if self._first is None or last is None:
                self._give_up(_last_line(self._log) or "bpftrace ended before the recording")
            else:
                self._write(self._first, last)
            self._said.unlink(missing_ok=True)
        except OSError as error:
            self._give_up(str(error))

    def _start(self) -> None:
        if shutil.which("bpftrace") is None:
            raise LabError("bpftrace is not installed (apt-get install bpftrace)")
        if not tracepoint_there():
            raise LabError("this kernel has no tracepoint skb:kfree_skb")
        words = ", ".join(f"*(uint64 *)($p + {8 * number})" for number in range(WORDS))
        program = _PROGRAM.format(only=self._condition(), formats=" ".join(["%llx"] * WORDS), words=words)
        environment = {"BPFTRACE_PERF_RB_PAGES": str(_buffer_pages())}
        with fresh(self._said) as out, fresh(self._log) as log:
            self._process = self._children.start(
                ["bpftrace", "-B", "line", "-e", program], stdout=out, stderr=log, environment=environment
            )

    def _condition(self) -> str:
        """A condition that discards drops elsewhere in the kernel, where they would fill the buffer."""
        if self._only is None:
            return ""
        names = namespace_names()
        ours = {os.stat("/proc/self/ns/net").st_ino, *(inum for inum, name in names.items() if name in self._only)}
        elsewhere = " && ".join(f"$s->dev->nd_net.net->ns.inum != {inum}" for inum in sorted(ours))
        return f"  if ({elsewhere}) {{ return; }}\n"

    def _signal(self, patience_s: float) -> _Signal | None:
        """Send a datagram to a closed port, and wait for the report of its drop."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
                closed.bind(("127.0.0.1", 0))
                port = closed.getsockname()[1]
            said_before = self._said.stat().st_size
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                clocks = _Clocks()
                sender.sendto(b"pktrace", ("127.0.0.1", port))
        except OSError:  # the loopback device is down: no drop will be seen, and the file says so
            time.sleep(patience_s)
            return None
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            for event in _parse(_after(self._said, said_before))[0]:
                if event["packet"].get("dport") == port and event["device"] == "lo":
                    return _Signal(port, event["nsecs"], clocks)
            time.sleep(0.02)
        return None

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            signal_group(self._process, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT_S)
        self._children.end_all()
        self._process = None

    def _give_up(self, why: str) -> None:
        self.trouble = why
        print(f"record: warning: no kernel drops are recorded: {visible(why)}", file=sys.stderr)
        self._write_state({"recorded": False, "reason": why})

    def _write_state(self, state: Mapping[str, Any]) -> None:
        (self._folder / STATE_FILE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")

    def _write(self, first: _Signal, last: _Signal) -> None:
        names = namespace_names()
        wanted = None if self._only is None else {inum for inum, name in names.items() if name in self._only}
        reasons = _reasons()
        clock = _Mapping(first, last)
        events, unreadable = _parse(self._said.read_bytes())
        events = [
            e
            for e in events
            if (wanted is None or e["inum"] in wanted)
            and not (e["device"] == "lo" and e["packet"].get("dport") in (first.port, last.port))
        ]
        events.sort(key=lambda event: event["nsecs"])
        with fresh(self._folder / DROPS_FILE) as file:
            for event in events:
                line_of = {
                    "ts_ns": clock.epoch_ns(event["nsecs"]),
                    "reason": reasons.get(event["reason"], str(event["reason"])),
                    "reason_code": event["reason"],
                    "device": event["device"],
                    "ifindex": event["ifindex"],
                    "netns": names.get(event["inum"]),
                    "netns_inum": event["inum"],
                    **event["packet"],
                }
                file.write(f"{json.dumps(line_of)}\n".encode())
        lost = sum(int(n) for n in _LOST.findall(self._log.read_text(errors="replace") + _text(self._said)))
        self._write_state(
            {
                "recorded": True,
                "start_ns": clock.epoch_ns(first.nsecs),
                "end_ns": clock.epoch_ns(last.nsecs),
                "events": len(events),
                "events_lost": lost,
                "events_unreadable": unreadable,
                "namespaces": None if self._only is None else sorted(self._only),
                "clock": clock.name,
                "clock_error_ns": clock.error_ns(),
                "tracepoint": "skb:kfree_skb",
            }
        )
        if lost:
            print(f"record: warning: the kernel witness lost {lost} events", file=sys.stderr)


class _Clocks:
    """A reading of the clocks; realtime is read between two readings of each of the others."""

    def __init__(self) -> None:
        self.offsets: dict[str, int] = {}
        self.now: dict[str, int] = {}
        self.error_ns = 0
        for name, clock in (("boottime", time.CLOCK_BOOTTIME), ("monotonic", time.CLOCK_MONOTONIC)):
            tries = []
            for _ in range(5):
                early = time.clock_gettime_ns(clock)
                real = time.time_ns()
                late = time.clock_gettime_ns(clock)
                tries.append((late - early, real - (early + late) // 2, late))
            width, self.offsets[name], self.now[name] = min(tries)
            self.error_ns = max(self.error_ns, width)


class _Signal:
    """A drop caused on purpose: the kernel's time of the drop, and the clocks just before it."""

    def __init__(self, port: int, nsecs: int, clocks: _Clocks) -> None:
        self.port = port
        self.nsecs = nsecs
        self.clocks = clocks


class _Mapping:
    """Maps the time of events to nanoseconds since the epoch."""

    def __init__(self, first: _Signal, last: _Signal) -> None:
        self._first, self._last = first, last
        # Depending on the kernel, bpftrace counts from boot with or without the time asleep: take the clock that fits.
        self.name = min(first.clocks.now, key=lambda name: abs(first.clocks.now[name] - first.nsecs))

    def epoch_ns(self, nsecs: int) -> int:
        first, last = self._first, self._last
        begin, end = first.clocks.offsets[self.name], last.clocks.offsets[self.name]
        span = max(1, last.nsecs - first.nsecs)
        return nsecs + begin + (end - begin) * (nsecs - first.nsecs) // span

    def error_ns(self) -> int:
        """The reading error, plus the drift of the two clocks against each other between the signals."""
        begin, end = self._first.clocks.offsets[self.name], self._last.clocks.offsets[self.name]
        return max(self._first.clocks.error_ns, self._last.clocks.error_ns) + abs(end - begin)


def tracepoint_there() -> bool:
    """True if the kernel has the tracepoint. tracefs gets mounted if it is not; LabError if the mount fails."""
    if not (_TRACEFS / "events").is_dir():
        run(["mount", "-t", "tracefs", "tracefs", str(_TRACEFS)])
    return (_TRACEFS / "events/skb/kfree_skb/format").is_file()


def namespace_names() -> dict[int, str]:
    """Names of network namespaces by inode number; the present one has the empty name unless it is named."""
    found = {os.stat("/proc/self/ns/net").st_ino: ""}
    folder = Path("/run/netns")
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            found[entry.stat().st_ino] = entry.name
        except OSError:
            continue
    return found


def _reasons() -> dict[int, str]:
    text = (_TRACEFS / "events/skb/kfree_skb/format").read_text()
    return {int(number, 0): name for number, name in _REASON.findall(text)}


def _parse(said: bytes) -> tuple[list[dict[str, Any]], int]:
    """Events, and the number of lines that belong to no complete event.

    An event is two lines, since one printf holds too few words. Lines of two processors may interleave: time and
    processor identify the two lines of an event.
    """
    heads: dict[bytes, list[bytes]] = {}
    events = []
    unreadable = 0
    for line in said.splitlines():
        kind, _, rest = line.partition(b" ")
        fields = rest.split(b" ", 8)
        if kind == b"drop" and len(fields) == 9:
            heads[b" ".join(fields[:2])] = fields
        elif kind == b"data" and (head := heads.pop(b" ".join(fields[:2]), None)) is not None:
            event = _event(head, rest.split()[2:])
            events += [event] if event is not None else []
            unreadable += event is None
        else:
            unreadable += line.strip() != b"" and not line.startswith(b"Attaching")
    return events, unreadable + len(heads)


def _event(head: list[bytes], words: list[bytes]) -> dict[str, Any] | None:
    if len(words) != WORDS:
        return None
    try:
        nsecs, _, reason, protocol, inum, index, length, available = (int(field) for field in head[:8])
        data = b"".join(int(word, 16).to_bytes(8, sys.byteorder) for word in words)
    except (ValueError, OverflowError):
        return None
    device = head[8].decode("ascii", "replace") if inum else ""
    return {
        "nsecs": nsecs,
        "reason": reason,
        "inum": inum,
        "ifindex": index if inum else None,
        "device": device or None,
        "packet": identity(data[: min(available, MOST_BYTES)], protocol, length),
    }


def identity(data: bytes, ethertype: int, length: int) -> dict[str, Any]:
    """The fields that identify a packet; a field that the packet lacks, or that was not read, is left out.

    ``length`` is the number of bytes that the kernel held at the drop, from its current header on.
    """
    packet: dict[str, Any] = {"held_bytes": length, "ip_version": 4 if ethertype == 0x0800 else 6}
    with suppress(struct.error, IndexError):  # no more bytes were read; the fields so far are in the packet
        (_version4 if ethertype == 0x0800 else _version6)(data, packet)
    return packet


def _version4(data: bytes, packet: dict[str, Any]) -> None:
    if not data or data[0] >> 4 != 4:
        return
    length, ip_id, fragment = struct.unpack_from(">HHH", data, 2)
    packet |= {"length": length, "ip_id": ip_id, "fragment_offset": (fragment & 0x1FFF) * 8}
    packet |= {"protocol": data[9], "source": _address(data, 12, 4), "destination": _address(data, 16, 4)}
    if fragment & 0x1FFF == 0:
        _transport(data, (data[0] & 15) * 4, length, packet)


def _version6(data: bytes, packet: dict[str, Any]) -> None:
    if not data or data[0] >> 4 != 6:
        return
    length = 40 + struct.unpack_from(">H", data, 4)[0]
    packet |= {"length": length, "source": _address(data, 8, 16), "destination": _address(data, 24, 16)}
    protocol, at = data[6], 40
    while protocol in (*_EXTENSIONS, _FRAGMENT):
        following = data[at]
        if protocol == _FRAGMENT:
            fragment, ip_id = struct.unpack_from(">HI", data, at + 2)
            packet |= {"ip_id": ip_id, "fragment_offset": fragment & 0xFFF8}
            at += 8
        else:
            at += 8 + 8 * data[at + 1]
        protocol = following
    packet["protocol"] = protocol
    if not packet.get("fragment_offset"):
        _transport(data, at, length, packet)


def _address(data: bytes, at: int, size: int) -> str:
    return str(ip_address(bytes(struct.unpack_from(f"{size}B", data, at))))


def _transport(data: bytes, at: int, end: int, packet: dict[str, Any]) -> None:
    protocol = packet["protocol"]
    if protocol == _TCP:
        packet["sport"], packet["dport"], packet["tcp_seq"], packet["tcp_ack"] = struct.unpack_from(">HHII", data, at)
        packet["tcp_flags"] = struct.unpack_from(">H", data, at + 12)[0] & 0xFFF
        at += (data[at + 12] >> 4) * 4
    elif protocol == _UDP:
        packet["sport"], packet["dport"] = struct.unpack_from(">HH", data, at)
        at += 8
    elif protocol in (_ICMP, _ICMPV6):
        packet["icmp_type"], packet["icmp_code"] = data[at], data[at + 1]
        if data[at] in _ECHO[protocol]:
            packet["icmp_id"], packet["icmp_seq"] = struct.unpack_from(">HH", data, at + 4)
        at += 8
    payload = data[at : min(at + _PAYLOAD_BYTES, end)]
    if payload:
        packet["payload"] = payload.hex()


def _buffer_pages() -> int:
    """Pages in the buffer of one processor, a power of two."""
    each = _BUFFER_BYTES // _PAGE_BYTES // (os.cpu_count() or 1)
    return max(_LEAST_PAGES, 1 << max(0, each.bit_length() - 1))


def _after(file: Path, position: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(position)
        return opened.read()


def _text(file: Path) -> str:
    return "\n".join(line for line in file.read_text(errors="replace").splitlines() if "Lost" in line)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].strip() if lines else ""
