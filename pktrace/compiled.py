"""Compilation and caching of the numba kernels.

numba writes compiled functions beside the source or into a folder of the user. It notices a change only in the file of
the function itself, not in functions called from other files. Therefore the kernels have a cache folder of their own,
named after the state of all kernel sources: a changed source gets a new folder, a read-only installation works, and the
user's other numba functions stay untouched.
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

import numpy as np

from pktrace.kernel_cache import KernelCache, Refused, kernel_cache, private_folders, written_privately
from pktrace.surroundings import elsewhere

with elsewhere():  # numba reads settings in the current folder as it is imported, and at every compilation
    import numba
    from numba.core.caching import NullCache

    numba.core.config._config_fname = os.devnull

# The packages that hold kernels; a change in any of them invalidates all of them (together about 8 s).
_KERNEL_PACKAGES = ("capture", "decode", "trajectories", "verdicts")
_KEPT_CACHES = 4
# For tests: kernels run as plain Python, or check every index.
CHECKED = bool(numba.config.DISABLE_JIT or numba.config.BOUNDSCHECK)


def kernel_sources() -> list[Path]:
    """The modules that hold kernels, and those with numbers that kernels hold."""
    package = Path(__file__).parent
    found = [source for folder in _KERNEL_PACKAGES for source in sorted((package / folder).rglob("*.py"))]
    return [package / "wire.py", package / "protocols.py", *found]


def _state_of_sources() -> str:
    package = Path(__file__).parent
    state = hashlib.sha256(numba.__version__.encode())
    for source in kernel_sources():
        status = source.stat()
        state.update(f"{source.relative_to(package)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return state.hexdigest()[:16]


def _bases() -> list[tuple[str, str]]:
    """Possible places of the cache, in order of preference: (folder that has to exist, folder below it)."""
    bases = [
        ("/", os.path.abspath(base)) for base in map(os.environ.get, ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")) if base
    ]
    home = os.path.expanduser("~")
    if os.path.isabs(home):
        bases.append((home, ".cache"))
    return [*bases, (os.path.abspath(tempfile.gettempdir()), f"pktrace-{os.geteuid()}")]


def _cache() -> tuple[KernelCache | None, str | None]:
    """The cache, or None and one sentence with the reason and the remedy."""
    if numba.config.DISABLE_JIT:
        return None, None
    helps = "set XDG_CACHE_HOME to a folder of your own"
    try:
        found = kernel_cache(_bases(), f"kernels-{_state_of_sources()}")
    except Refused as problem:
        return None, f"{problem}; {helps}, with sudo use `sudo -H`"
    return found, None if found is not None else f"no folder for it can be written; {helps}"


_CACHE, _WHY_NONE = _cache()
_KERNELS: list[Any] = []


def why_no_cache() -> str | None:
    """One sentence with the reason why kernels are compiled anew each time, and the remedy; None if they are kept."""
    return _WHY_NONE


def is_cached() -> bool:
    """True if kernels are kept on disk, so that another process can compile them for this one."""
    return _CACHE is not None


def without_cache() -> None:
    """Give up the cache for this process, and empty it: it is damaged, or its disk is full."""
    for compiled in _KERNELS:
        compiled._cache = NullCache()
    if _CACHE is not None:
        _CACHE.clear()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a plain loop over packets with numba on first call; releases the GIL; cached on disk."""
    if numba.config.DISABLE_JIT:
        return _plain(function)
    if _CACHE is None:
        return numba.njit(nogil=True, error_model="numpy")(function)
    before = numba.config.CACHE_DIR
    try:
        numba.config.CACHE_DIR = _CACHE.path
        with private_folders():
            compiled = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
        with contextlib.suppress(AttributeError):  # else numba writes the files itself, with the umask's mode
            compiled._cache._cache_file._open_for_write = written_privately
        _KERNELS.append(compiled)
        return compiled
    finally:
        numba.config.CACHE_DIR = before


def _plain(function: Callable[..., Any]) -> Any:
    """The function uncompiled, for tests: 64 bit arithmetic wraps around without a warning, as in compiled code."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        with np.errstate(over="ignore"):
            return function(*arguments)

    return call


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a small function that only kernels call; it is compiled into them and not cached by itself."""
    return numba.njit(nogil=True, error_model="numpy")(function)


def unfolded(function: Callable[..., Any]) -> Any:
    """As `inlined`, for a large function that is cheaper to copy into each caller than to call."""
    return numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)


def must_compile() -> bool:
    """True when no run has completed yet with these kernel sources, so that this one compiles them."""
    return not numba.config.DISABLE_JIT and (_CACHE is None or not _CACHE.complete())


def compiled_all() -> None:
    """Remember that a whole run has compiled its kernels; drop the caches of older sources."""
    if _CACHE is None:
        return
    with contextlib.suppress(OSError):  # another process tidies up at the same time; the cache is only a convenience
        _CACHE.mark_complete()
        _CACHE.remove_older(_KEPT_CACHES - 1)
