"""Attacks by text: names, comments and errors that make a terminal obey, or show what is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pktrace.visible import is_visible
from tests.hostile.attack import Attack
from tests.kit.pcap_files import Interface, Record, block, interface_block, packet_block, section_header
from tests.kit.samples import plain_ethernet, udp4

ROOT = Path(__file__).parent.parent.parent
BEGIN_NS = 1_700_000_000_000_000_000
TEXTS = (
    "\x1b[31mred\x1b[8m",
    "\u202egnp.exe",
    "\x9b31m\x9d0;title\x9c",
    "a\udcffb",
    "\x1b]8;;http://example.org\x07link\x1b]8;;\x07",
    "\u2066x\u2069\u200f\u061c",
    "one\u2028two\u2029\x85three",
    "\u200b\u2060\ufeff\u00ad",
    "\r\x08\x07\x7f",
    "line\nExit code 0",
    "\U000e0041\U000e0042\ufe0f\u3164",
    "[red]x[/red][link=file:///etc/passwd]y[/link] :skull:",
    r"$\frac{1}{0}$ $x_$ \input{a}",
    "_hidden\t",
)
# Starts one command after the other in one process: (arguments, file for stdout, file for stderr).
_COMMANDS = """
import json, os, sys
from pktrace.cli.main import run
for arguments, *names in json.load(sys.stdin):
    for stream, name in ((1, names[0]), (2, names[1])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
    try:
        run(arguments)
    except SystemExit as end:
        print(end.code, file=open(names[0] + ".code", "w"))
"""


def _capture(text: str, delay_ns: int) -> bytes:
    """A pcapng file with the text as name and comment, of four packets."""
    raw = text.encode("utf-8", "surrogateescape").replace(b"\0", b"")
    name, more = _option(2, b"eth0" + raw), _option(3, raw) + _option(1, raw) + _option(11, b"\0" + raw)
    described = interface_block(Interface())
    options = name + more + _option(9, b"\x09") + bytes(4)
    described = block(1, described[8:16] + options)
    frames = (plain_ethernet(udp4(b"%06d" % number, ip_id=number)[0]) for number in range(4))
    packets = [
        packet_block(Record(BEGIN_NS + number * 1_000_000 + delay_ns, frame), Interface())
        for number, frame in enumerate(frames)
    ]
    return section_header() + described + b"".join(packets)


def _option(code: int, value: bytes) -> bytes:
    return code.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value + bytes(-len(value) % 4)


def _toml(text: str) -> str:
    plain = text.encode("utf-8", "replace").decode()
    return json.dumps(plain, ensure_ascii=True) if "\U000e0041" not in plain else '"\\U000e0041"'


def _runs(folder: Path, text: str) -> dict[str, Path]:
    """Run files over the same captures: one that is right, and one for each place where a text is wrong."""
    file_text = text.replace("/", ":").replace("\0", "")
    place = folder / f"run{file_text}"
    place.mkdir()
    for number, name in enumerate("ab"):
        (place / f"{name}{file_text}.pcapng").write_bytes(_capture(text, 1000 * number))
    (place / f"c{file_text}.pcapng").write_bytes(b"no capture")
    (place / "context").mkdir()
    (place / "context" / f"counters{file_text}").write_text(json.dumps({text.encode("utf-8", "replace").decode(): 3}))
    quoted = _toml(text)
    points = "".join(
        f'[[point]]\nname = "{name}"\ncaptures = ["{name}*.pcapng"]\nclock = {quoted}\nsession = {quoted}\n'
        for name in "abc"
    )
    head = f'schema = 1\nname = "run"\ndescription = {quoted}\n'
    path = '[[path]]\nname = "p"\npoints = ["a", "b"]\nstages = ["_s$x_$"]\n'
    rule = f'[[rule]]\nid = "r"\npath = "p"\naction = "forward"\ncounter = {quoted}\n'
    texts = {
        "run": head + points + path + rule,
        "key": head + points + f"{quoted} = 1\n" + path,
        "name": head.replace('name = "run"', f"name = {quoted}") + points + path,
        "point": head + points.replace('name = "a"', f"name = {quoted}") + path,
        "stage": head + points + path.replace('"_s$x_$"', quoted),
        "rule": head + points + path + rule.replace('id = "r"', f"id = {quoted}"),
        "path": head + points + path + rule.replace('path = "p"', f"path = {quoted}"),
        "interface": head + points.replace("clock = ", f"interface = {quoted}\nclock = ", 1) + path,
        "file": head + points.replace('"a*.pcapng"', quoted) + path,
        "value": head + points + path + rule.replace('"forward"', quoted),
        "port": head + points + path + rule + f"dport = {quoted}\n",
        "syntax": head + points + path + f"[{quoted} = \n",
    }
    found = {}
    for name, written in texts.items():
        found[name] = place / f"{name}.toml"
        found[name].write_text(written)
    return found


def _commands(folder: Path, text: str) -> Iterator[list[str]]:
    runs = _runs(folder, text)
    run, out = str(runs["run"]), folder / f"out{text.replace('/', ':')}"
    captures = sorted(str(file) for file in runs["run"].parent.glob("*.pcapng"))
    yield ["analyze", run, "-o", str(out), "--json", "--no-plots"]
    yield ["analyze", run, "-o", str(out), "--fail-on", "loss,rules"]
    for command in ("latency", "rules", "losses", "check"):
        yield [command, run]
        yield [command, run, "--json"]
    yield ["explain", run, "0"]
    yield ["explain", run, "0", "--json"]
    for name in ("key", "name", "point", "stage", "rule", "path", "interface", "file", "value", "port", "syntax"):
        yield ["losses", str(runs[name])]
    yield ["--debug", "losses", str(runs["key"])]
    yield ["--debug", "losses", f"absent{text}"]
    yield ["observe", *captures, "-o", f"{out}.parquet", "--details"]
    yield ["observe", *captures, "-o", f"{out}.parquet", "--json"]
    yield ["observe", captures[-1], "-o", f"{out}.parquet"]
    yield ["observe", captures[0], "-o", f"absent{text}/x.parquet"]
    yield ["init", *captures]
    yield ["init", *captures, "--json"]
    yield ["init", *captures, "-o", f"{out}-made"]
    yield [text]
    yield ["losses", f"--{text}"]
    yield ["explain", run, text]
    yield ["analyze", run, "--fail-on", text]
    yield ["analyze", run, run, "-o", text]
    yield ["trace", "--uplink", text, "--switchport", text, "--vnicbackend", text, "--proto", text]
    yield ["trace", "--uplink", "a", "--switchport", "b", "--vnicbackend", "c", "-m", "1", "--rules", f"absent{text}"]


def _in_every_command(folder: Path, number: int) -> str | None:
    text = TEXTS[number % len(TEXTS)]
    commands = list(_commands(folder, text))
    given = [
        (command, str(folder / f"{at}.stdout"), str(folder / f"{at}.stderr")) for at, command in enumerate(commands)
    ]
    subprocess.run(
        [sys.executable, "-c", _COMMANDS], input=json.dumps(given), text=True, check=True, timeout=600, cwd=ROOT,
        capture_output=True, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    for command, stdout, stderr in given:
        shown = f"{text!r}: pktrace {' '.join(map(ascii, command))[:200]}"
        code = Path(f"{stdout}.code").read_text().strip()
        if code == "70":
            return f"{shown} ended with an internal error: {Path(stderr).read_text()[-300:]!a}"
        for file in (stdout, stderr):
            raw = _hidden(Path(file).read_bytes())
            if raw is not None:
                return f"{shown} wrote {raw} to {Path(file).suffix[1:]}"
        if "--json" in command and code in ("0", "1", "3"):
            json.loads(Path(stdout).read_text())
        if command[0] == "init" and len(command) == 4:
            tomllib.loads(Path(stdout).read_text())
    for file in folder.rglob("*"):
        if file.suffix in (".svg", ".json", ".html") or (file.name == "run.toml" and "-made" in str(file)):
            raw = _hidden(file.read_bytes().replace(b"\r\n", b"\n"))
            if raw is not None:
                return f"{text!r}: {file.name} holds {raw}"
    figure = next(folder.rglob("ecdf.svg"), None)
    if figure is None or "_s$x_$" not in figure.read_text():
        return f"{text!r}: the name of a stage is not in the plot as it is"
    return None


def _hidden(data: bytes) -> str | None:
    """The first character of some output that cannot be seen, line ends excepted."""
    text = data.decode("utf-8", "surrogateescape")
    return next((ascii(letter) for letter in text if letter != "\n" and not is_visible(letter)), None)


def _in_the_recorder(folder: Path, number: int) -> str | None:
    text = TEXTS[number % len(TEXTS)].replace("\0", "")
    for arguments in (
        [str(folder / "out"), "--points", f"a{text}=absent{text}", "--duration", "1"],
        [str(folder / "out"), "--points", f"a=lo@{text}", "--filter", text, "--duration", "1"],
        [f"--{text}"],
    ):
        command = [sys.executable, str(ROOT / "capture_scripts/record"), *arguments]
        done = subprocess.run(command, capture_output=True, check=False, timeout=120, cwd=folder)
        raw = _hidden(done.stdout + done.stderr)
        if raw is not None:
            return f"record {' '.join(map(ascii, arguments))} wrote {raw}"
    return None


_HOSTILE_FOLDER = {
    "numpy.py": "open('taken', 'w')\n",
    "pktrace/__init__.py": "open('taken', 'w')\n",
    "matplotlibrc": "text.usetex: True\nfont.size: 40\n",
    ".numba_config.yaml": "disable_jit: 1\n",
    "config.ini": "[tshark]\ntshark_path = ./tshark\n",
    "tshark": "#!/bin/sh\ntouch taken\n",
}
# As the command starts: the current folder is not among the places where modules are looked for.
_FROM_THERE = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from pktrace.surroundings import elsewhere, python_command
subprocess.run(python_command("pktrace.compiled", "is_cached"), check=True)
from pktrace.compiled import numba
numba.core.config.reload_config()
assert not numba.config.DISABLE_JIT, "numba took its settings from here"
from pktrace.report.plots import _matplotlib
assert not _matplotlib().rcParams["text.usetex"], "matplotlib took its settings from here"
from pktrace.report.dissect import dissect
try:
    dissect(__import__("pathlib").Path("absent.pcap"), [1])
except Exception:
    pass
"""


def _settings_in_the_current_folder(folder: Path, number: int) -> str | None:
    for name, content in _HOSTILE_FOLDER.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    (folder / "tshark").chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-P", "-c", _FROM_THERE, str(ROOT)], capture_output=True, text=True, check=False, timeout=300,
        cwd=folder,
    )  # fmt: skip
    if (folder / "taken").exists():
        return "code of the current folder ran"
    return None if done.returncode == 0 else f"it ended with {done.returncode}: {done.stderr.strip()[-300:]}"


ATTACKS = (
    Attack(
        "text-in-every-command",
        "Names of folders, files, interfaces, rules, clocks and counters, comments and wrong values hold escapes, "
        "bidirectional and invisible characters, bytes that are no UTF-8, markup and TeX; 36 command lines each.",
        _in_every_command,
        fast=2,
        full=len(TEXTS),
    ),
    Attack(
        "text-in-the-recorder",
        "The same in the names that the recorder is given.",
        _in_the_recorder,
        fast=2,
        full=len(TEXTS),
    ),
    Attack(
        "settings-in-the-current-folder",
        "The current folder, a run that a stranger sent, holds modules, and settings of numba, matplotlib and pyshark "
        "that name programs.",
        _settings_in_the_current_folder,
        fast=1,
        full=1,
    ),
)
