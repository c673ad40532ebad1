"""Opens capture files: the only place of this package that reads from disk."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pktrace.capture import pcap, pcapng, toollog
from pktrace.capture.index import Capture
from pktrace.errors import CaptureFileError

_HEAD_BYTES = 64
_LARGEST_LOG = 4 << 20
_FORMATS = (pcapng, pcap)


@dataclass(frozen=True)
class CaptureFile:
    """One capture file in memory: `name` as it is shown and written, all bytes, their index, their SHA-256."""

    name: str
    data: np.ndarray[Any, Any]
    capture: Capture
    sha256: str


def read_capture(path: str | os.PathLike[str], name: str) -> CaptureFile:
    """Read and index one capture file.

    Raises:
        CaptureFileError: the file cannot be read or is no capture; the message lists each format's reason.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CaptureFileError(name, None, "is no regular file; captures are read from files")
        with open(path, "rb") as file:
            data = np.fromfile(file, np.uint8)
    except (OSError, MemoryError) as problem:
        reason = getattr(problem, "strerror", None) or "not enough memory"
        raise CaptureFileError(name, None, f"cannot be read: {reason}") from None
    head = data[:_HEAD_BYTES].tobytes()
    reasons = [form.refusal(head) for form in _FORMATS]
    for form, reason in zip(_FORMATS, reasons, strict=True):
        if reason is None:
            return CaptureFile(name, data, form.read(data), hashlib.sha256(data.data).hexdigest())
    raise CaptureFileError(name, 0, f"is no capture file ({'; '.join(filter(None, reasons))})")


def read_tool_log(log: Path) -> toollog.ToolCounts | None:
    """The counts in a capture tool's log (`captures/<point>.log`), or None where there is no such file."""
    try:
        if not log.is_file():
            return None
        with open(log, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _LARGEST_LOG))
            return toollog.parse(file.read().decode("utf-8", "replace"))
    except OSError:
        return None
