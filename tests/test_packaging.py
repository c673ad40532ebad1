"""What users install: the wheel's contents, one version, and a command line that starts without the heavy libraries."""

from __future__ import annotations

import email
import os
import re
import resource
import statistics
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import pktrace
from pktrace.cli.main import _COMMANDS

ROOT = Path(__file__).parent.parent
HEAVY = ("numba", "polars", "pyarrow", "matplotlib", "numpy", "rich")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without downloading anything."""
    pytest.importorskip("hatchling", reason="the extra `dev` is not installed")
    into = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(into), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (file,) = into.glob("*.whl")
    return file


def test_the_wheel_carries_the_package_and_the_capture_scripts(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        lab_mode = archive.getinfo("pktrace/_capture_scripts/lab").external_attr >> 16
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "pktrace").rglob("*.py")}
    scripts = {
        f"pktrace/_{path.relative_to(ROOT)}"
        for path in (ROOT / "capture_scripts").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert ours | scripts | {"pktrace/py.typed", "pktrace/_example/run.toml"} <= names
    assert lab_mode & 0o111, "the command `lab` can be started"
    elsewhere = {
        name for name in names if not name.startswith(("pktrace/", f"pktrace-{pktrace.__version__}.dist-info/"))
    }
    assert not elsewhere
    assert not {name for name in names if "__pycache__" in name or name.endswith(".pyc")}


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    folder = f"pktrace-{pktrace.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
        commands = archive.read(f"{folder}/entry_points.txt").decode()
        licence = archive.read(f"{folder}/licenses/LICENSE")
    assert metadata["Version"] == pktrace.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert "pktrace = pktrace.cli.main:run" in commands
    needed = {
        re.split(r"[^\w-]", line)[0].lower() for line in metadata.get_all("Requires-Dist") if "extra ==" not in line
    }
    assert "scapy" not in needed, "scapy's licence is the GPL: tests only"


def test_the_unpacked_wheel_starts(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import pktrace, pktrace.cli.main as m; print(pktrace.__file__); m.run(['--version'])"
    told = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert told.splitlines() == [str(tmp_path / "pktrace" / "__init__.py"), f"pktrace, version {pktrace.__version__}"]


@pytest.mark.parametrize("command", ["lab", "record", "forwarder/forwarder.py"])
def test_a_machine_that_only_records_needs_no_installed_package(command: str) -> None:
    """Without the packages of this Python, and with the script in another folder than the present one."""
    script = str(ROOT / "capture_scripts" / command)
    shown = subprocess.run(
        [sys.executable, "-I", "-S", script, "--help"], capture_output=True, text=True, timeout=60, cwd="/", check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage: ")


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "pktrace/version.py"
    holders = [
        path.relative_to(ROOT)
        for folder in ("pktrace", "capture_scripts")
        for path in (ROOT / folder).rglob("*.py")
        if f'"{pktrace.__version__}"' in path.read_text(encoding="utf-8")
    ]
    assert holders == [Path("pktrace/version.py")]
    assert version("pktrace") == pktrace.__version__


def modules_after(*arguments: str) -> set[str]:
    """Top-level modules that a command line has imported when it ends."""
    code = (
        "import sys, pktrace.cli.main as m\n"
        "try: m.run(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('\\n' + ' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    return set(found.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_overview_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not modules_after(*arguments) & set(HEAVY)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, pktrace; print(*{name.partition('.')[0] for name in sys.modules})"
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert not set(found.stdout.split()) & set(HEAVY)


@pytest.mark.alone
def test_help_is_there_at_once() -> None:
    """Measured in processor time: others may use the processors meanwhile."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "pktrace", "--help"], check=True, capture_output=True, cwd=ROOT, timeout=60
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(seconds) < 0.2


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_has_an_example_of_itself(command: str) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "pktrace", command, "--help"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    ).stdout
    assert f"Example: pktrace {command} " in " ".join(told.split())
