"""Attacks on the cache of compiled kernels: another user puts code where root's pktrace loads its kernels from."""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.hostile.attack import Attack

ROOT = Path(__file__).parent.parent.parent
OTHER = 12345  # a user that is not root, and need not exist
# Walks over a pcap file of no packets: that loads one kernel, in a second.
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from pktrace.capture.pcap import PcapWalker
from pktrace.cli.narration import with_kernels
from pktrace.wire import PACKET
walk = lambda: PcapWalker(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")).walk(
    np.zeros(64, np.uint8), 24, np.zeros(1, PACKET))
for _ in range(2):
    assert with_kernels(walk) == (0, 0)
"""


class _Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.open, (str(self.mark), os.O_CREAT | os.O_WRONLY)


def _run(**environment: str) -> subprocess.CompletedProcess[str]:
    cleared = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_", "TMPDIR"))}
    return subprocess.run(
        [sys.executable, "-P", "-c", _PROGRAM, str(ROOT)], capture_output=True, text=True, check=False, timeout=600,
        env={**cleared, **environment}, cwd="/",
    )  # fmt: skip


@functools.cache
def _genuine() -> Path:
    """A cache that pktrace has made itself, in a folder of root."""
    folder = Path(tempfile.mkdtemp(prefix="pktrace-hostile-cache-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    done = _run(XDG_CACHE_HOME=str(folder))
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return folder


def _planted(place: Path, mark: Path, owner: int) -> Path:
    """The genuine cache below `place`, with a bomb in every index; all of it belongs to `owner`."""
    shutil.copytree(_genuine() / "pktrace", place / "pktrace")
    for index in place.rglob("*.nbi"):
        index.write_bytes(pickle.dumps(_Bomb(mark)))
    _give(place / "pktrace", owner)
    return place


def _give(folder: Path, owner: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner, owner, follow_symlinks=False)


def _another_home(folder: Path, mark: Path) -> dict[str, str]:
    """sudo -E, or a sudo that keeps HOME."""
    _planted(folder / "home/.cache", mark, OTHER)
    _give(folder / "home", OTHER)
    return {"HOME": str(folder / "home")}


def _another_cache_home(folder: Path, mark: Path) -> dict[str, str]:
    _give(_planted(folder / "cache", mark, OTHER), OTHER)
    return {"XDG_CACHE_HOME": str(folder / "cache"), "HOME": "/root"}


def _another_numba_cache(folder: Path, mark: Path) -> dict[str, str]:
    _give(_planted(folder / "cache", mark, OTHER), OTHER)
    return {"NUMBA_CACHE_DIR": str(folder / "cache"), "HOME": "/root"}


def _own_folder_in_another_home(folder: Path, mark: Path) -> dict[str, str]:
    """The cache is root's, made by an earlier call; the folders above are the other user's, who can exchange it."""
    _planted(folder / "home/.cache", mark, OTHER)
    os.chown(folder / "home/.cache/pktrace", 0, 0)
    for kernels in (folder / "home/.cache/pktrace").iterdir():
        _give(kernels, 0)
    for place in (folder / "home", folder / "home/.cache"):
        os.chown(place, OTHER, OTHER)
    return {"HOME": str(folder / "home")}


def _writable_folder_above(folder: Path, mark: Path) -> dict[str, str]:
    """A folder above is open to a group: whoever is in it can put another cache in place of root's."""
    _planted(folder / "shared/cache", mark, 0)
    (folder / "shared").chmod(0o775)
    return {"XDG_CACHE_HOME": str(folder / "shared/cache")}


def _files_planted_earlier(folder: Path, mark: Path) -> dict[str, str]:
    """The cache is root's alone by now; it was open once, and files of the other user lie in it."""
    _planted(folder / "cache", mark, 0)
    for file in (folder / "cache").rglob("*.nbi"):
        os.chown(file, OTHER, OTHER)
    return {"XDG_CACHE_HOME": str(folder / "cache")}


def _files_that_others_can_write(folder: Path, mark: Path) -> dict[str, str]:
    _planted(folder / "cache", mark, 0)
    for file in (folder / "cache").rglob("*.nbi"):
        file.chmod(0o666)
    return {"XDG_CACHE_HOME": str(folder / "cache")}


def _a_link_to_it(folder: Path, mark: Path) -> dict[str, str]:
    _planted(folder / "theirs", mark, OTHER)
    (folder / "cache").mkdir()
    (folder / "cache/pktrace").symlink_to(folder / "theirs/pktrace")
    return {"XDG_CACHE_HOME": str(folder / "cache")}


def _a_link_that_another_user_made(folder: Path, mark: Path) -> dict[str, str]:
    """The link leads to a folder of root's now, and elsewhere a moment later."""
    _planted(folder / "roots", mark, 0)
    (folder / "cache").symlink_to(folder / "roots")
    os.chown(folder / "cache", OTHER, OTHER, follow_symlinks=False)
    return {"XDG_CACHE_HOME": str(folder / "cache")}


def _in_the_temporary_folder(folder: Path, mark: Path) -> dict[str, str]:
    """No home can be used, and the name below the temporary folder has been taken."""
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)
    place = _planted(folder / "tmp/pktrace-0", mark, OTHER)
    _give(place, OTHER)
    return {"HOME": "/nonexistent", "TMPDIR": str(folder / "tmp")}


_VARIANTS = (
    _another_home, _another_cache_home, _another_numba_cache, _own_folder_in_another_home, _writable_folder_above,
    _files_planted_earlier, _files_that_others_can_write, _a_link_to_it, _a_link_that_another_user_made,
    _in_the_temporary_folder,
)  # fmt: skip


def _foreign_code(folder: Path, number: int) -> str | None:
    variant = _VARIANTS[number % len(_VARIANTS)]
    mark = folder / "code-ran"
    done = _run(**variant(folder, mark))
    name = variant.__name__.strip("_")
    if mark.exists():
        return f"{name}: code of another user ran as root"
    if done.returncode:
        return f"{name}: it ended with {done.returncode}: {done.stderr[-300:]}"
    said = [line for line in done.stderr.splitlines() if "without a cache" in line]
    return None if len(said) == 1 == len(done.stderr.splitlines()) else f"{name}: it said {done.stderr!a}"


# Exchanges root's cache for the bomb and back, as the other user, until its folder has gone.
_SWAP = """
import os, sys
os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2])); os.chdir(sys.argv[1])
print("ready", flush=True)
for _ in range(10_000_000):
    try:
        for old, new in ((".cache", "good"), ("evil", ".cache"), (".cache", "evil"), ("good", ".cache")):
            os.rename(old, new)
    except OSError:
        pass
"""


def _exchanged_meanwhile(folder: Path, number: int) -> str | None:
    """The folders above the cache are the other user's, who exchanges them all the time."""
    mark = folder / "code-ran"
    home = folder / "home"
    shutil.copytree(_genuine() / "pktrace", home / ".cache/pktrace")
    _planted(home / "evil", mark, 0)
    for place in (home, home / ".cache", home / "evil"):
        os.chown(place, OTHER, OTHER)
    for place in (folder, folder.parent):
        place.chmod(0o755)
    with subprocess.Popen([sys.executable, "-c", _SWAP, str(home), str(OTHER)], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            done = _run(HOME=str(home), TMPDIR="/nonexistent")
        finally:
            other.kill()
    if mark.exists():
        return "code of another user ran as root"
    return None if done.returncode == 0 else f"it ended with {done.returncode}: {done.stderr[-300:]}"


def _own_cache_is_used(folder: Path, number: int) -> str | None:
    """The control: the bomb works, and a cache of one's own is still used."""
    mark = folder / "code-ran"
    done = _run(XDG_CACHE_HOME=str(_planted(folder / "cache", mark, 0)))
    if not mark.exists():
        return f"root's own cache was not used: {done.stderr[-300:]!a}"
    again = _run(XDG_CACHE_HOME=str(_genuine()))
    return None if again.returncode == 0 and not again.stderr else f"it said {again.stderr!a}"


ATTACKS = (
    Attack(
        "foreign-kernel-cache",
        "HOME, XDG_CACHE_HOME and NUMBA_CACHE_DIR of another user under sudo, folders and files that others can write, "
        "links, and a name taken in the temporary folder: ten ways to have root load another user's code.",
        _foreign_code,
        fast=2,
        full=3 * len(_VARIANTS),
        lab=True,
    ),
    Attack(
        "kernel-cache-exchanged",
        "The same while the folders above the cache are exchanged all the time, between the check and the use.",
        _exchanged_meanwhile,
        fast=1,
        full=10,
        lab=True,
    ),
    Attack(
        "own-kernel-cache",
        "No attack: code in a cache of root's own is loaded, so the attacks above would have run theirs.",
        _own_cache_is_used,
        fast=1,
        full=1,
        lab=True,
    ),
)
