"""What CI installs: every dependency in a lock file, in a version that pyproject.toml allows, with hashes; and `make
test` says before it installs packages of the distribution."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
RUN = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["build"]]
DEV = [*RUN, *EXTRAS["dev"], *EXTRAS["notebook"]]
PYTHONS = ("3.11.0", "3.12.0", "3.13.0")


def locked(name: str) -> list[tuple[Requirement, list[str]]]:
    """The entries of a lock file: a requirement, and the hashes of the files that it may be."""
    found: list[tuple[Requirement, list[str]]] = []
    for line in (ROOT / name).read_text().splitlines():
        text = line.rstrip("\\").strip()
        if line.startswith("#"):
            continue
        if line.startswith(" "):
            found[-1][1].append(text)
        else:
            found.append((Requirement(text), []))
    return found


@pytest.mark.parametrize(
    ("file", "wanted"),
    [("requirements.lock", RUN), ("requirements-dev.lock", DEV), ("requirements-fuzz.lock", EXTRAS["fuzz"])],
)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_locked_in_a_version_that_it_allows(file: str, wanted: list[str], python: str) -> None:
    environment = {**default_environment(), "python_full_version": python, "python_version": python.rsplit(".", 1)[0]}
    versions: dict[str, str] = {}
    for requirement, _ in locked(file):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in versions, f"{name} is locked twice for Python {python}"
            versions[name] = str(requirement.specifier).removeprefix("==")
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{text} is not in {file}: run `make lock`"
        assert versions[name] in requirement.specifier, f"{file} has {name} {versions[name]}: run `make lock`"


@pytest.mark.parametrize("file", ["requirements.lock", "requirements-dev.lock", "requirements-fuzz.lock"])
def test_every_entry_has_hashes_and_names_no_place(file: str) -> None:
    entries = locked(file)
    assert entries
    for requirement, hashes in entries:
        assert str(requirement.specifier).startswith("=="), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in hashes), requirement
    text = (ROOT / file).read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--extra-index" not in text


def test_the_build_backend_is_locked_too() -> None:
    """pip would fetch it without a hash, into an environment of its own."""
    backend = {canonicalize_name(Requirement(text).name) for text in PROJECT["build-system"]["requires"]}
    assert backend <= {canonicalize_name(requirement.name) for requirement, _ in locked("requirements.lock")}
    makefile = (ROOT / "Makefile").read_text()
    installs = re.findall(r"^(?:LOCKED|THIS) := .*$|^\t@\$\(PIP\) install .*$", makefile, re.MULTILINE)
    assert all(
        "--require-hashes" in line or "--no-deps --no-build-isolation" in line or "uv" in line for line in installs
    )


@pytest.fixture
def bare_machine(tmp_path: Path) -> dict[str, str]:
    """A PATH without the system's tools, on which apt-get writes down that it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "id", "cat", "mktemp", "rm", "tail", "dirname", "env"):
        found = next(Path(place, name) for place in ("/usr/bin", "/bin") if Path(place, name).exists())
        (folder / name).symlink_to(found)
    (folder / "apt-get").write_text(f"#!/bin/bash\necho APT-GET >&3\necho called >> {tmp_path}/called\n")
    (folder / "apt-get").chmod(0o755)
    return {"PATH": str(folder)}


def tools(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`.ci/system-tools` on that machine, everything that it says and does in one stream."""
    # The script adds the folders for administrators, where tcpdump may lie: a copy does without them.
    script = (ROOT / ".ci/system-tools").read_text().replace("PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin", "")
    copy = Path(environment["PATH"]).parent / "system-tools"
    copy.write_text(script)
    return subprocess.run(
        ["/bin/bash", "-c", f"exec 3>&1; exec /bin/bash '{copy}' 2>&1"], capture_output=True, text=True, check=False,
        timeout=60, env=environment,
    )  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")
def test_packages_are_announced_before_they_are_installed(bare_machine: dict[str, str], tmp_path: Path) -> None:
    """It once named them and neither said what for nor how to do without."""
    said = tools(bare_machine).stdout
    before, _, after = said.partition("APT-GET")
    assert after, said
    for word in ("apt-get", "tcpdump", "bpftrace", "lab tests", "SYSTEM_TOOLS=no"):
        assert word in before, (word, before)
    assert (tmp_path / "called").exists()


def test_packages_are_not_installed_where_that_is_asked(bare_machine: dict[str, str], tmp_path: Path) -> None:
    done = tools({**bare_machine, "SYSTEM_TOOLS": "no"})
    assert done.returncode == 0, done.stdout
    assert "tcpdump" in done.stdout
    assert not (tmp_path / "called").exists()
