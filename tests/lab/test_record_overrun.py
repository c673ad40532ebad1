"""A capture that cannot keep up: the file says how much it dropped, and none of that is called lost."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from capture_scripts import record as recorder
from capture_scripts.topology import Lab
from tests.conftest import CommandLine
from tests.lab.conftest import captures, packets, record, run_toml

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root to make network namespaces"),
    pytest.mark.skipif(any(shutil.which(tool) is None for tool in recorder.TOOLS), reason="needs the tools of the lab"),
]
SENT = 4000
# Whole packets of 1400 bytes into a ring of 256 KiB, faster than any tool reads. One of the captures is made to
# sleep meanwhile, so that it is overrun on any machine.
_COMMAND = """\
import os, pathlib, signal, subprocess, sys
asleep, namespace, sent = sys.argv[1], sys.argv[2], int(sys.argv[3])
victims = [
    int(entry.name) for entry in pathlib.Path("/proc").iterdir()
    if entry.name.isdecimal() and (entry / "cmdline").read_bytes().startswith(b"tcpdump")
    and asleep.encode() in (entry / "cmdline").read_bytes()
]
sender = f'''
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range({sent}):
    s.sendto(b"%08d" % n + bytes(1392), ("10.77.0.1", 53))
'''
for victim in victims:
    os.kill(victim, signal.SIGSTOP)
try:
    subprocess.run(["ip", "netns", "exec", namespace, sys.executable, "-c", sender], check=True, timeout=20)
finally:
    for victim in victims:
        os.kill(victim, signal.SIGCONT)
sys.exit(len(victims) != 1)
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab(f"to{os.getpid()}")
    lab.up()
    try:
        yield lab
    finally:
        lab.down()


@pytest.mark.parametrize("asleep", ["punt", "vnic"])
def test_what_the_capture_dropped_is_not_lost(lab: Lab, tmp_path: Path, pktrace: CommandLine, asleep: str) -> None:
    """``punt`` lies in the middle of the path, ``vnic`` at its end."""
    out = tmp_path / "run"
    victim = f"{out}/captures/{asleep}.pcap"
    record(
        out, "--lab", lab.name, "--buffer", 8, "--snaplen", 0, "--threshold", 0.5,
        "--", sys.executable, "-c", _COMMAND, victim, lab.namespace("client"), SENT,
    )  # fmt: skip
    assert "window" in run_toml(out)  # complete: what was dropped is known
    seen = packets(out)
    for name, file in captures(out).items():
        (interface,) = file.capture.interfaces
        assert interface.dropped is not None
        assert interface.received == seen[name] + interface.dropped
    dropped = captures(out)[asleep].capture.interfaces[0].dropped
    assert dropped is not None
    assert dropped > SENT // 2
    assert f"{dropped} packets dropped by kernel" in (out / "captures" / f"{asleep}.log").read_text()

    result = pktrace("analyze", out, "--no-plots")
    assert result.returncode == 0, result.stderr
    trajectories = pl.read_parquet(out / "results" / "trajectories.parquet")
    datagrams = trajectories.filter(pl.col("path") == "ingress", pl.col("protocol") == 17)
    # Every datagram went all the way (the interfaces counted it); none may be called lost.
    reached = json.loads(lab.run_in("host", ["ip", "-j", "-s", "link", "show", "vnic1"]))[0]["stats64"]["tx"]["packets"]
    assert reached >= SENT
    assert datagrams.filter(pl.col("fate") == "lost").is_empty()
    stages = pl.read_parquet(out / "results" / "stages.parquet")
    assert stages.filter(pl.col("verdict") == "lost").is_empty()
    # What this capture missed is unobserved if a later one saw it, else undetermined: never more than that.
    missed = datagrams.filter(pl.col(f"{asleep}_ns").is_null())
    assert SENT // 2 < len(missed) <= dropped  # the rest of the drops are answers
    verdicts = stages.join(missed, on="trajectory", how="semi").filter(pl.col("to_point") == asleep)
    later = missed.filter(pl.col("vnic_ns").is_not_null())
    assert set(later["fate"]) == ({"delivered"} if asleep == "punt" else set())
    assert set(missed.filter(pl.col("vnic_ns").is_null())["fate"]) <= {"undetermined"}
    assert set(missed.filter(pl.col("fate") == "undetermined")["reason"]) <= {"capture_drops"}
    assert set(verdicts["verdict"]) <= {"unobserved", "undetermined"}
    assert verdicts.filter(pl.col("verdict") == "unobserved").height >= len(later)
    if asleep == "punt":
        assert len(later) > SENT // 4
    ledger = pl.read_parquet(out / "results" / "ledger.parquet")
    told = ledger.filter(pl.col("counter") == "capture_drops", pl.col("point") == asleep)
    assert told["count"].to_list() == [dropped]
