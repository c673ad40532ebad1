"""Hostile bytes: every capture cut anywhere, with any byte damaged, and files that ask for much.

The result is a table or CaptureFileError, soon and in little memory. Here a sample; `make fuzz` does all of it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, CommandLine
from tests.fuzz.blocks import compressed
from tests.fuzz.damage import complaints_about_cuts, complaints_about_flips, flips, sample
from tests.fuzz.hostile_files import FILES
from tests.fuzz.outcome import Reader
from tests.fuzz.surroundings import complaint_about_surroundings, every_change, every_cut
from tests.kit.small_captures import CAPTURES, GROUPS

SAMPLED = 80
MEBIBYTE = 1 << 20
CHEAP_BYTES = 64 * MEBIBYTE
BYTES_PER_PACKET = 512
# A gibibyte of zeros takes gzip some 3 s.
LONGEST_SECONDS = 30
CODECS = ("gzip", "zstd", "lz4")


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """A reader, and a watchman: a kernel that never returns ends the test run, with a traceback that says where."""
    faulthandler.dump_traceback_later(300, exit=True, file=sys.__stderr__)
    yield Reader()
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("name", list(CAPTURES))
def test_a_cut_file_is_the_beginning_of_the_whole_one(reader: Reader, name: str) -> None:
    content = CAPTURES[name]
    lengths = sample(f"cut {name}", len(content) + 1, SAMPLED)
    assert complaints_about_cuts(reader, content, lengths) == []


@pytest.mark.parametrize("name", list(CAPTURES))
def test_a_damaged_byte_changes_nothing_before_it(reader: Reader, name: str) -> None:
    content = CAPTURES[name]
    assert complaints_about_flips(reader, content, flips(f"flip {name}", len(content), SAMPLED)) == []


@pytest.mark.parametrize("name", list(GROUPS))
def test_a_row_depends_on_the_bytes_of_its_packet_only(reader: Reader, name: str) -> None:
    """Every packet captured to any number of bytes, and with any bit changed."""
    for packet in GROUPS[name]():
        for variants in (every_cut(packet.data), every_change(packet.data)):
            assert complaint_about_surroundings(reader, packet.linktype, variants, len(packet.data)) is None


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_damaged_compressed_streams(reader: Reader, codec: str, form: str) -> None:
    """Every cut and every damaged byte of a compressed capture: what comes out is the beginning of the whole one."""
    content = compressed(_a_capture(form), codec)
    assert complaints_about_cuts(reader, content, range(len(content) + 1)) == []
    assert complaints_about_flips(reader, content, flips(codec, len(content), 1000)) == []


@pytest.mark.parametrize(
    ("codec", "damage", "code", "counter"),
    [
        (None, lambda content: content[:-7], 3, "capture_cut"),
        (None, lambda content: content[:-4] + b"\xff" * 4, 3, "capture_corrupt"),
        ("gzip", lambda content: content[:-20], 3, "capture_cut"),
        ("gzip", lambda content: content[:-8] + bytes(8), 3, "capture_corrupt"),  # the checksum is another
        ("zstd", lambda content: content[:7], 2, "is no capture file"),
        ("lz4", lambda content: b"", 2, "is no capture file"),
    ],
)
def test_the_command_says_what_is_damaged(
    pktrace: CommandLine, tmp_path: Path, codec: str | None, damage: Callable[[bytes], bytes], code: int, counter: str
) -> None:
    whole = _a_capture("pcapng")
    file = tmp_path / "damaged"
    file.write_bytes(damage(compressed(whole, codec) if codec else whole))
    done = pktrace("observe", file, "-o", tmp_path / "out.parquet", "--details")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert counter in done.stdout + done.stderr


def _a_capture(form: str) -> bytes:
    magic = {"pcap": b"\xd4\xc3\xb2\xa1", "pcapng": b"\x0a\x0d\x0d\x0a"}[form]
    return max((content for content in CAPTURES.values() if content.startswith(magic)), key=len)


@cache
def _measured() -> dict[tuple[str, bool], dict[str, Any]]:
    """What each hostile file costs; those after one that kills the process are missing."""
    reader = Reader()
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.memory", str(reader.path.parent)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=3600, check=False,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {(line["name"], line["batches"]): line for line in found}


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("name", list(FILES))
def test_small_files_cost_little(name: str, batches: bool) -> None:
    hostile = FILES[name]
    if not batches and not hostile.whole_table:
        pytest.skip("so many packets are for the streaming reader")
    cost = _measured().get((name, batches))
    assert cost is not None, "reading this file, or one before it, killed the process"
    assert "foreign" not in cost, cost["foreign"]
    if hostile.exact:
        assert cost["packets"] == hostile.packets, cost
    # Batches are handed over and forgotten: packets cost nothing there.
    bound = CHEAP_BYTES + hostile.window + (0 if batches else BYTES_PER_PACKET * hostile.packets)
    assert cost["resident"] <= bound, f"{cost['resident'] / MEBIBYTE:.0f} MiB of memory"
    assert cost["allocated"] <= bound, f"{cost['allocated'] / MEBIBYTE:.0f} MiB asked for"
    assert cost["seconds"] <= LONGEST_SECONDS


def _fingerprints(folder: Path, **environment: str) -> dict[str, str]:
    # numba's cache does not tell kernels with checks from those without: each build has a cache of its own.
    folder.mkdir()
    cache_folder = {"NUMBA_CACHE_DIR": str(folder)} if "NUMBA_BOUNDSCHECK" in environment else {}
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fingerprints", str(folder), "8"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=600, check=True,
        env={**os.environ, **environment, **cache_folder},
    )  # fmt: skip
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("build", ["NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK"])
def test_every_build_of_the_kernels_finds_the_same(tmp_path: Path, build: str) -> None:
    """Uncompiled, and with a check of every index: what compiled kernels read, they read inside their arrays."""
    compiled = _fingerprints(tmp_path / "compiled")
    assert [name for name, found in compiled.items() if found.startswith("fault")] == []
    other = _fingerprints(tmp_path / "other", **{build: "1"})
    assert {name: found for name, found in other.items() if found != compiled[name]} == {}
