"""The program's surroundings: protection from settings and modules in the current folder, which may be a run from a
stranger, and in $HOME; files that come with the package.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """Change to the root folder for a moment, for a library that reads settings in the current folder during its
    import.

    Use it before threads start that open files by relative names.
    """
    try:
        here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # the current folder has been removed: nothing can lie in it
        yield
        return
    try:
        os.chdir("/")
        yield
    finally:
        with contextlib.suppress(OSError):
            os.fchdir(here)
        os.close(here)


@contextlib.contextmanager
def homeless() -> Iterator[None]:
    """Set an empty $HOME for programs started meanwhile, so that they load no settings and no plugins from it.

    With sudo, $HOME may belong to another user, and its plugins would run with the rights of root.
    """
    names = ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "WIRESHARK_CONFIG_DIR", "WIRESHARK_PLUGIN_DIR")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="pktrace-home-") as home:
        os.environ.update(dict.fromkeys(names, home))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def shipped_file(installed: str, checked_out: str) -> Path | None:
    """A file that comes with pktrace; None if it is missing.

    Args:
        installed: its path in an installed package; checked_out: its path in a checkout, where it lies beside the
        package.
    """
    package = Path(__file__).parent
    places = (package / installed, package.parent / checked_out)
    return next((place for place in places if place.is_file()), None)


def python_command(module: str, function: str) -> list[str]:
    """A command that calls a function of this package in a second Python, with the package that runs here.

    `python -m` searches modules in the current folder first, so a `pktrace` or a `numpy.py` in it would be imported;
    `-P` leaves the folder out.
    """
    root = str(Path(__file__).parent.parent)
    program = (
        "import sys; sys.path[:0] = [] if sys.argv[1] in sys.path else sys.argv[1:2]; "
        f"from {module} import {function}; {function}()"
    )
    return [sys.executable, "-P", "-c", program, root]
