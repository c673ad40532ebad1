"""Attacks on the recorder: signals at any moment, words that become options, a disk that fills, other users, links."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from capture_scripts.processes import LabError, run
from capture_scripts.recorder.journal import STATE_FILE
from capture_scripts.recorder.raw_files import RawFile
from tests.conftest import ROOT
from tests.hostile.attack import Attack
from tests.kit.index import read_capture
from tests.lab.cable import Wire, cable
from tests.lab.conftest import RECORD, processes_about

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
_LIMIT_S = 60.0


def _start(out: Path, *arguments: object, cwd: Path = ROOT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(RECORD), str(out), *map(str, arguments)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def _ended(process: subprocess.Popen[str]) -> str:
    """Wait for the end; what it said on stderr."""
    try:
        return process.communicate(timeout=_LIMIT_S)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[1] + "(no end)"


class _Kept:
    """Hard links to every capture below a folder, made as soon as one appears: what was ever written stays here."""

    def __init__(self, out: Path, beside: Path) -> None:
        self._out, self._beside = out, beside
        beside.mkdir()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        known: set[int] = set()
        while not self._over.wait(0.001):
            for file in (self._out / "captures").glob("*.pcap"):
                try:
                    inode = file.stat().st_ino
                    if inode not in known:
                        os.link(file, self._beside / f"{inode}-{file.name}")
                        known.add(inode)
                except OSError:
                    continue

    def packets(self) -> Counter[tuple[int, bytes]]:
        """Every whole packet that a tool wrote, by time and bytes."""
        self._over.set()
        self._thread.join()
        found: Counter[tuple[int, bytes]] = Counter()
        for file in self._beside.iterdir():
            found |= _packets(file)
        return found


def _packets(file: Path) -> Counter[tuple[int, bytes]]:
    try:
        raw = RawFile(file)
    except (LabError, OSError):
        return Counter()
    try:
        return Counter((packet[0], packet[2]) for packet in raw)
    finally:
        raw.close()


def _below(out: Path) -> Counter[tuple[int, bytes]]:
    """Every packet in files below a folder whose names hold `pcap`."""
    found: Counter[tuple[int, bytes]] = Counter()
    for file in out.rglob("*pcap*"):
        if file.is_file():
            found |= _packets(file)
    return found


@contextmanager
def _traffic(wire: Wire) -> Iterator[None]:
    """Packets in both directions, about two thousand a second, until the end of the block (at most 60 s)."""
    ping = wire.ping(60_000, "-i", "0.001")
    process = subprocess.Popen(ping, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _says_what_it_is(out: Path) -> str | None:
    if not out.exists():
        return None
    incomplete, run_toml = out / "context/incomplete.txt", out / "run.toml"
    if not run_toml.is_file() and not (out / "context" / STATE_FILE).is_file():
        return None if not any(out.rglob("*pcap*")) else "the folder holds captures, and nothing says what it is"
    unfinished = "INCOMPLETE" in (run_toml.read_text() if run_toml.is_file() else "INCOMPLETE")
    if unfinished and run_toml.is_file() and not incomplete.is_file():
        return "run.toml says INCOMPLETE, and incomplete.txt is missing"
    return None


def _gone(text: str, patience_s: float = 30.0) -> str | None:
    """None once no process is about a text any more; else one that is."""
    deadline = time.monotonic() + patience_s
    while left := processes_about(text):
        if time.monotonic() > deadline:
            return left[0]
        time.sleep(0.05)
    return None


def signalled(folder: Path, number: int) -> str | None:
    """One signal, or Ctrl-C and one more, at random moments from the start of a recording to its end."""
    chance = random.Random(number)
    sign = _SIGNALS[number % 4]
    out = folder / "run"
    with cable() as wire, _traffic(wire):
        kept = _Kept(out, folder / "kept")
        options = [*wire.points(), "--threshold", "0.3", "--no-context"]
        options += ["--direction"] if number % 3 == 2 else []
        if number // 4 % 2:  # a command, and one signal at any moment
            recorder = _start(out, *options, "--", "sleep", "2")
            time.sleep(chance.uniform(0.0, 4.5))
        else:  # Ctrl-C is the end of the recording; the signal falls while it is stopped and sealed
            recorder = _start(out, *options)
            deadline = time.monotonic() + 30
            while not (out / "context/tool-versions.json").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(chance.uniform(0.5, 1.0))
            recorder.send_signal(signal.SIGINT)
            time.sleep(chance.uniform(0.0, 2.0))
        recorder.send_signal(sign)
        said = _ended(recorder)
        left = _gone(str(out))
        if left is not None:
            return f"{sign.name}: a process is left: {left}"
    if ("Traceback" in said and out.exists()) or "(no end)" in said:
        return f"{sign.name}: {said.strip()[-300:]}"
    written = _since_it_recorded(kept.packets(), out)
    missing = sum((written - _below(out)).values())
    if missing:
        return (
            f"{sign.name}: {missing} of {sum(written.values())} packets are nowhere below OUT; it said: {said.strip()}"
        )
    wrong = _says_what_it_is(out)
    return f"{sign.name}: {wrong}" if wrong else _resumed(out, written, sign.name)


def _since_it_recorded(written: Counter[tuple[int, bytes]], out: Path) -> Counter[tuple[int, bytes]]:
    """Less the packets from before the captures could tell directions apart: --direction leaves them out."""
    starts = [
        interface.start_ns
        for file in out.glob("captures/*.pcapng")
        for interface in read_capture(file, file.name).capture.interfaces
        if interface.start_ns is not None and (out / f"captures/{file.stem}.in.log").exists()
    ]
    return Counter({packet: count for packet, count in written.items() if packet[0] > max(starts, default=0)})


def _resumed(out: Path, written: Counter[tuple[int, bytes]], name: str) -> str | None:
    """What is not sealed can be sealed, and then the analyzer reads all of it."""
    if not out.exists():
        return None
    if (out / "context" / STATE_FILE).exists():
        said = _ended(again := _start(out, "--resume"))
        if again.returncode not in (0, 1) or "Traceback" in said:
            return f"{name}: --resume ended with {again.returncode}: {said.strip()[-300:]}"
        missing = sum((_since_it_recorded(written, out) - _below(out)).values())
        if missing:
            return f"{name}: after --resume {missing} packets are missing"
    if not (out / "run.toml").exists() and not any(out.rglob("*pcap*")):
        return None  # killed before the first capture
    if not (out / "run.toml").exists():
        return f"{name}: the folder has no run.toml: {sorted(file.name for file in out.rglob('*'))}"
    code, said = _analyzed(out)
    return None if code in (0, 3) else f"{name}: analyze ended with {code}: {said}"


def _analyzed(out: Path, *options: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pktrace", "analyze", str(out), "--no-plots", *options],
        capture_output=True, text=True, errors="replace", timeout=300, check=False, cwd=ROOT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, done.stderr.strip()[-300:]


_OPTIONS = ("-w{}", "-w{} ", "--write={}", "-z/bin/true", "-r{}", "-G1", "--version", "-C1", "-F{}", "-V{}", "- w{}")
_WAYS: tuple[tuple[str, ...], ...] = (
    (), ("--direction",), ("--any",), ("--tool", "dumpcap"), ("--sentinels", "10.78.0.2"),
)  # fmt: skip


def option_in_a_filter(folder: Path, number: int) -> str | None:
    """A capture filter that reads as an option of tcpdump or dumpcap, which would write or read a file as root."""
    victim = folder / "victim"
    victim.write_text("keep me\n")
    before = victim.stat()
    expression = _OPTIONS[number % len(_OPTIONS)].format(victim)
    way = _WAYS[number // len(_OPTIONS) % len(_WAYS)]
    if "dumpcap" in way and shutil.which("dumpcap") is None:
        return None
    out = folder / "run"
    with cable() as wire:
        said = _ended(recorder := _start(out, *wire.points(), f"--filter={expression}", "--duration", "0.3", *way))
    after = victim.stat()
    if victim.read_text() != "keep me\n" or (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns):
        return f"{expression!r} {way}: the file was written"
    if recorder.returncode != 2 or "Traceback" in said:
        return f"{expression!r} {way}: exit code {recorder.returncode}: {said.strip()[-200:]}"
    return None if not out.exists() else f"{expression!r} {way}: a folder is left"


_NAMES: tuple[tuple[str, ...], ...] = (
    ("--run-name", "two\nlines"),
    ("--run-name", "x" * 300),
    ("--run-name", "\x1b[31mred"),
    ("--description", "a\x00b".replace("\x00", "\x9b") + "31m"),
    ("--run-name", os.fsdecode(b"\xff\xfe")),
    ("--points", "first=lo"),
    ("--points", "-w=lo"),
    ("--points", "a=-w/x"),
    ("--netns", "-all"),
    ("--netns", "../../etc"),
    ("--points", "b=eth0@../../etc"),
    ("--sentinels", "10.78.0.2@../x"),
    ("--filter", "tcp and \x1b port 80"),
)


def words_that_no_run_can_hold(folder: Path, number: int) -> str | None:
    """Names, devices and filters that are options, lead elsewhere, or make a run that the analyzer refuses."""
    given = _NAMES[number % len(_NAMES)]
    out = folder / "run"
    with cable() as wire:
        said = _ended(recorder := _start(out, *wire.points(), "--duration", "0.3", *given))
    if recorder.returncode != 2 or "Traceback" in said or out.exists():
        return f"{given!r}: exit code {recorder.returncode}, folder {out.exists()}: {said.strip()[-200:]}"
    return None


_FOLDERS = (b"-w", b"two\nlines", b"\xff\xfe.pcap", b"%Y%m%d", b"x" * 200, b"a;b $(c)", "\u202egnp".encode(), b"it's")


def odd_folders(folder: Path, number: int) -> str | None:
    """A run folder whose name is an option, no UTF-8, or full of control characters: recorded, analysed, complete."""
    out = folder / os.fsdecode(_FOLDERS[number % len(_FOLDERS)])
    with cable() as wire:
        recorder = _start(Path("./") / out, *wire.points(), "--threshold", "0.1", "--", *wire.ping(5))
        said = _ended(recorder)
    if recorder.returncode != 0:
        return f"{out.name!r}: exit code {recorder.returncode}: {said.strip()[-200:]}"
    code, said = _analyzed(out)
    return None if code == 0 else f"{out.name!r}: analyze ended with {code}: {said}"


def full_disk(folder: Path, number: int) -> str | None:
    """Packets at full speed onto a disk with little room: stopped in time, sealed as a whole, and said."""
    disk = folder / "disk"
    disk.mkdir()
    run(["mount", "-t", "tmpfs", "-o", f"size={(48, 64, 96)[number % 3]}m", "tmpfs", str(disk)])
    out = disk / "run"
    way = [("--snaplen", "0"), ("--snaplen", "64", "--direction"), ("--snaplen", "0", "--keep-raw")][number % 3]
    try:
        with cable() as wire:
            flood = wire.in_left(sys.executable, "-c", _FLOOD, wire.right_address, "60")
            said = _ended(
                recorder := _start(out, *wire.points(), *way, "--threshold", "30", "--buffer", "4096", "--", *flood)
            )
            left = _gone(str(out))
        whole = not list(out.glob("captures/*.pcap")) or "--keep-raw" in way
        sealed = len(list(out.glob("captures/*.pcapng"))) == 2
        if recorder.returncode != 1 or "nearly full" not in said or not sealed or not whole or left:
            names = sorted(file.name for file in out.rglob("*"))
            return f"{way}: exit code {recorder.returncode}: {said.strip()[-300:]}; {names}"
        return None
    finally:
        run(["umount", str(disk)], check=False)


# UDP datagrams, small and large, as fast as one socket takes them, for so many seconds.
_FLOOD = """
import socket, sys, time
target, end = (sys.argv[1], 9), time.monotonic() + float(sys.argv[2])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    small, large, sent = bytes(18), bytes(1400), 0
    while time.monotonic() < end:
        try:
            sender.sendto(large if sent % 3 else small, target)
        except OSError:
            pass
        sent += 1
"""


def other_users(folder: Path, number: int) -> str | None:
    """Another user reads the captures while they are recorded, and after they were sealed."""
    out = folder / "run"
    with cable() as wire:
        options = [("--keep-raw",), ("--direction", "--keep-raw"), ("--any",), ("--ring", "1:3")][number % 4]
        recorder = _start(out, *wire.points(), *options, "--threshold", "0.3", "--", *wire.ping(300))
        seen: list[str] = []
        while recorder.poll() is None:
            seen += _readable(out)
            time.sleep(0.01)
        said = _ended(recorder)
    seen += _readable(out)
    if recorder.returncode != 0:
        return f"exit code {recorder.returncode}: {said.strip()[-200:]}"
    return f"readable by others: {sorted(set(seen))}" if seen else None


def _readable(out: Path) -> list[str]:
    found = []
    for file in [out, *out.rglob("*pcap*"), out / "context/kernel_drops.jsonl"]:
        try:
            mode = file.stat().st_mode
        except OSError:
            continue
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            found.append(f"{file.name} {stat.filemode(mode)}")
    return found


def links_in_what_is_resumed(folder: Path, number: int) -> str | None:
    """A killed recording whose files were replaced by links; root resumes it, and would write through them."""
    victim = folder / "victim"
    out = folder / "run"
    with cable() as wire:
        recorder = _start(out, *wire.points(), "--no-context", "--", "sleep", "30")
        deadline = time.monotonic() + 30
        while not (out / "context/tool-versions.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        run(wire.ping(20))
        recorder.kill()
        _ended(recorder)
        _gone(str(out))
    victim.write_text("keep me\n")
    names = ("captures/near.pcapng.part", "captures/near.pcapng", "run.toml", "run.toml.part", "context/incomplete.txt",
             "context/incomplete.txt.part", "context/recording.json.part", "captures/near.pcap", "context/notes.txt",
             "context/recording.json")  # fmt: skip
    link = out / names[number % len(names)]
    link.unlink(missing_ok=True)
    link.symlink_to(victim)
    said = _ended(again := _start(out, "--resume"))
    if victim.read_text() != "keep me\n":
        return f"{link.name}: the target of the link was written"
    return None if again.returncode in (0, 1, 2) and "Traceback" not in said else f"{link.name}: {said.strip()[-300:]}"


def _attack(name: str, attempt: object, fast: int, full: int) -> Attack:
    return Attack(name, " ".join((attempt.__doc__ or "").split()), attempt, fast, full, lab=True)  # type: ignore[arg-type]


ATTACKS: Sequence[Attack] = (
    _attack("signal-at-any-moment", signalled, 4, 60),
    _attack("option-in-a-filter", option_in_a_filter, 3, len(_OPTIONS) * len(_WAYS)),
    _attack("words-no-run-can-hold", words_that_no_run_can_hold, 2, len(_NAMES)),
    _attack("odd-folders", odd_folders, 1, len(_FOLDERS)),
    _attack("full-disk", full_disk, 1, 6),
    _attack("other-users", other_users, 1, 4),
    _attack("links-in-what-is-resumed", links_in_what_is_resumed, 1, 10),
)
