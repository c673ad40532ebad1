"""The decoder and tshark see the same in the same packets; `make corpus` is the same over whole collections."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
from pathlib import Path

import pytest

from tests.corpus.compare import compare_file
from tests.corpus.sweeps import networks, tunnels, write_sweep

CORPUS = Path(os.environ.get("PKTRACE_CORPUS", "absent")) / "decoder"
FIXTURE = Path(__file__).parent.parent / "fixtures" / "service-chain" / "captures"
SMALL = 1000
EVERY = 40

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


def test_numbers_in_ip_and_tunnel_headers_are_followed_alike(tmp_path: Path) -> None:
    sweeps = [sweep for sweep in itertools.chain(networks(), tunnels()) if len(sweep[2]) < SMALL]
    assert len(sweeps) > 20
    outcomes = [compare_file(write_sweep(tmp_path, *sweep), sweep[0]) for sweep in sweeps]
    assert [str(difference) for outcome in outcomes for difference in outcome.differences] == []


@pytest.mark.parametrize("path", sorted(FIXTURE.glob("*.pcapng")), ids=lambda path: path.stem)
def test_the_recorded_run_is_seen_alike(path: Path) -> None:
    outcome = compare_file(path, path.name)
    assert outcome.packets
    assert outcome.differences == []


def test_a_difference_is_found(tmp_path: Path) -> None:
    """tshark 4.0 does not look into UDP of length 0 in an IPv4 superpacket; pktrace does."""
    inner = struct.pack(">BBHHHBBH", 0x45, 0, 28, 7, 0, 64, 17, 0) + bytes(8) + struct.pack(">HHHH", 1, 2, 8, 0)
    vxlan = struct.pack(">HHHHII", 5, 4789, 0, 0, 8 << 24, 42 << 8) + bytes(12) + b"\x08\0" + inner
    outer = struct.pack(">BBHHHBBH", 0x45, 0, 0, 7, 0, 64, 17, 0) + bytes(8) + vxlan
    outcome = compare_file(write_sweep(tmp_path, "superpacket", 101, [outer]), "superpacket")
    assert "tunnel" in [difference.name for difference in outcome.differences]


@pytest.mark.skipif(not CORPUS.is_dir(), reason="PKTRACE_CORPUS names no folder with public captures")
def test_a_sample_of_public_captures_is_seen_alike() -> None:
    files = sorted(path for path in CORPUS.rglob("*") if path.is_file())[::EVERY]
    outcomes = [compare_file(path, path.name) for path in files]
    assert {outcome.path: outcome.differences for outcome in outcomes if outcome.differences} == {}
