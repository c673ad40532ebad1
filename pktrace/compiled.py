"""How the numba kernels are compiled and cached.

numba writes compiled functions beside the source or into a folder of the user, and notices a change only in
the file of the function itself, not in the functions that it calls from other files. So the kernels have a
cache folder of their own, named after the state of all kernel sources: a changed source gets a new folder,
a read-only installation works, and the user's other numba functions are left alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core.caching import NullCache

# The packages that hold kernels; a change in any of them invalidates all of them (together about 8 s).
_KERNEL_PACKAGES = ("capture", "decode", "trajectories", "verdicts")
_KEPT_CACHES = 4
_MARKER = "complete"


def _state_of_sources() -> str:
    package = Path(__file__).parent
    state = hashlib.sha256(numba.__version__.encode())
    sources = [source for folder in _KERNEL_PACKAGES for source in sorted((package / folder).glob("*.py"))]
    for source in [package / "wire.py", *sources]:
        status = source.stat()
        state.update(f"{source.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return state.hexdigest()[:16]


def _cache_folder() -> Path | None:
    """A writable folder for compiled kernels, or None where there is none (then every run compiles)."""
    bases = [os.environ.get("NUMBA_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")]
    home = os.path.expanduser("~")
    candidates = [Path(base) / "pktrace" for base in bases if base]
    if home != "~":
        candidates.append(Path(home) / ".cache" / "pktrace")
    candidates.append(Path(tempfile.gettempdir()) / f"pktrace-{os.getuid()}")
    for candidate in candidates:
        folder = candidate / f"kernels-{_state_of_sources()}"
        try:
            candidate.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(exist_ok=True, mode=0o700)
        except OSError:
            continue
        # Compiled code is loaded from here: never from a folder that another user made or could write.
        if all(_ours_alone(made) for made in (candidate, folder)):
            return folder
    return None


def _ours_alone(folder: Path) -> bool:
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK)


_FOLDER = _cache_folder()


_KERNELS: list[Any] = []


def without_cache() -> None:
    """Give up the cache for this process, and empty it: it is damaged, or its disk is full."""
    for compiled in _KERNELS:
        compiled._cache = NullCache()
    if _FOLDER is not None:
        with contextlib.suppress(OSError):
            for file in _FOLDER.rglob("*"):
                if file.is_file():
                    file.unlink()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a plain loop over packets with numba on first call; releases the GIL; cached on disk."""
    if numba.config.DISABLE_JIT:
        return _plain(function)
    before = numba.config.CACHE_DIR
    try:
        if _FOLDER is not None:
            numba.config.CACHE_DIR = str(_FOLDER)
        compiled = numba.njit(cache=_FOLDER is not None, nogil=True, error_model="numpy")(function)
        _KERNELS.append(compiled)
        return compiled
    finally:
        numba.config.CACHE_DIR = before


def _plain(function: Callable[..., Any]) -> Any:
    """The function uncompiled, for tests: 64 bit arithmetic wraps around in silence, as it does when compiled."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        with np.errstate(over="ignore"):
            return function(*arguments)

    return call


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a small function that only kernels call; it is compiled into them and not cached by itself."""
    return numba.njit(nogil=True, error_model="numpy")(function)


def unfolded(function: Callable[..., Any]) -> Any:
    """The same for one that costs more to call than to hold twice, large as it is."""
    return numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)


def must_compile() -> bool:
    """True when no run has completed yet with these kernel sources, so that this one compiles them."""
    return not numba.config.DISABLE_JIT and (_FOLDER is None or not (_FOLDER / _MARKER).exists())


def compiled_all() -> None:
    """Remember that a whole run has compiled its kernels; drop the caches of older sources."""
    if _FOLDER is None or numba.config.DISABLE_JIT:
        return
    try:
        (_FOLDER / _MARKER).touch()
        older = sorted(
            (folder for folder in _FOLDER.parent.glob("kernels-*") if folder != _FOLDER),
            key=lambda folder: folder.stat().st_mtime_ns,
            reverse=True,
        )
        for folder in older[_KEPT_CACHES - 1 :]:
            for file in folder.rglob("*"):
                if file.is_file():
                    file.unlink()
            for child in sorted(folder.rglob("*"), reverse=True):
                child.rmdir()
            folder.rmdir()
    except OSError:
        return  # another process tidies up at the same time; the cache is only a convenience
