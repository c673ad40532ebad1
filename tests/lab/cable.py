"""Two network namespaces with a cable between them, for whoever records on it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from capture_scripts.processes import run
from capture_scripts.quiet import wait_until

_NUMBER = itertools.count()


@dataclass(frozen=True)
class Wire:
    """``left`` and ``right`` are namespaces; the devices in them are called ``eth0``."""

    left: str
    right: str
    left_address = "10.78.0.1"
    right_address = "10.78.0.2"

    def ping(self, count: int = 10, *options: str) -> list[str]:
        """A command that sends ``count`` requests from left to right and gets as many answers."""
        given = options or ("-i", "0.005")
        return ["ip", "netns", "exec", self.left, "ping", "-n", "-q", "-c", str(count), *given, self.right_address]

    def in_left(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.left, *command]

    def sent(self) -> int:
        """Packets that have left the left end, by the kernel's counter."""
        (link,) = json.loads(run(["ip", "-n", self.left, "-j", "-s", "link", "show", "eth0"]))
        return int(link["stats64"]["tx"]["packets"])

    @contextmanager
    def pinging(self, *options: str) -> Iterator[None]:
        """Pings that go on until the block ends; the first has left when it begins."""
        before = self.sent()
        with subprocess.Popen(self.ping(1_000_000, *options), stdout=subprocess.DEVNULL) as pings:
            try:
                wait_until(lambda: self.sent() > before, "the first ping leaves")
                yield
            finally:
                pings.terminate()

    def points(self) -> list[str]:
        return ["--points", f"near=eth0@{self.left}", f"far=eth0@{self.right}"]


@contextmanager
def cable() -> Iterator[Wire]:
    """A cable; nothing but what its user sends runs over it. Needs root."""
    name = f"tw{os.getpid()}x{next(_NUMBER)}"
    made = Wire(f"{name}l", f"{name}r")
    try:
        for namespace in (made.left, made.right):
            run(["ip", "netns", "add", namespace])
            run(
                ["ip", "netns", "exec", namespace, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"],
                check=False,
            )
        run(
            [
                "ip",
                "link",
                "add",
                "eth0",
                "netns",
                made.left,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                made.right,
            ]
        )
        ends = (
            (made.left, made.left_address, "02:78:00:00:00:01"),
            (made.right, made.right_address, "02:78:00:00:00:02"),
        )
        for namespace, address, mac in ends:
            run(["ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0"])
            run(["ip", "-n", namespace, "link", "set", "lo", "up"])
            run(["ip", "-n", namespace, "link", "set", "eth0", "address", mac, "up"])
        for (namespace, *_), (_, address, mac) in zip(ends, reversed(ends), strict=True):
            entry = ["neigh", "replace", address, "lladdr", mac, "dev", "eth0", "nud", "permanent"]
            run(["ip", "-n", namespace, *entry])  # no ARP
        yield made
    finally:
        for namespace in (made.left, made.right):
            run(["ip", "netns", "del", namespace], check=False)
