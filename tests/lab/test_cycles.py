"""Recording and stopping, again and again: not one packet is missing, however soon the end comes after the last one."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from capture_scripts import record as recorder
from capture_scripts.testbed.service_chain import DEVICES
from capture_scripts.testbed.topology import Lab
from tests.lab.conftest import packets, record, wait_until_deserted

pytestmark = [
    pytest.mark.lab,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root to make network namespaces"),
    pytest.mark.skipif(any(shutil.which(tool) is None for tool in recorder.TOOLS), reason="needs the tools of the lab"),
]
CYCLES = 20
SENT = 2000
# Punted, so that all five points of the path see each datagram; as fast as a socket takes them. It ends as soon as the
# last one has arrived: what is still on its way when a recording ends is no part of it.
_SENDER = f"""\
import socket
from capture_scripts.quiet import wait_until_handled
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range({SENT}):
    s.sendto(b"%08d" % n, ("10.77.0.1", 53))
wait_until_handled()
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"tc{os.getpid()}")
    lab.up()
    try:
        yield lab
    finally:
        lab.down()


def counted(lab: Lab) -> dict[str, int]:
    """Packets that the devices of the points have counted, both directions."""
    links = json.loads(lab.run_in("host", ["ip", "-j", "-s", "link"]))
    packets_of = {link["ifname"]: sum(link["stats64"][way]["packets"] for way in ("rx", "tx")) for link in links}
    return {point: packets_of[device] for point, device in DEVICES.items()}


def test_twenty_cycles_miss_nothing(lab: Lab, tmp_path: Path) -> None:
    """Stopped at once after the last packet, and held against the counters of the interfaces."""
    missing = {}
    for cycle in range(CYCLES):
        out = tmp_path / f"run{cycle}"
        before = counted(lab)
        record(
            out, "--lab", lab.name, "--threshold", 0.001,
            "--", "ip", "netns", "exec", lab.namespace("client"), sys.executable, "-c", _SENDER,
        )  # fmt: skip
        passed = {point: count - before[point] for point, count in counted(lab).items()}
        seen = packets(out)
        assert min(passed[point] for point in ("uplink", "switchport", "punt", "return", "vnic")) >= SENT
        if seen != passed:
            missing[cycle] = {point: passed[point] - seen[point] for point in DEVICES}
        shutil.rmtree(out)
    assert missing == {}
    wait_until_deserted(lab.namespace("host"))
