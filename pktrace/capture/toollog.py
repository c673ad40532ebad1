"""The log of the capture tool (`captures/<point>.log`): the packets that it received and dropped.

tcpdump prints "N packets captured", "M packets received by filter", "D packets dropped by kernel" at its end and,
on one line, at every SIGUSR1: the last of each counts. dumpcap prints "Packets received/dropped on interface
'x': R/D (...)", where R excludes D.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# At most 18 digits: a number with more digits is no count, and 64 bits hold 18 digits.
_CAPTURED = re.compile(r"\b(\d{1,18}) packets? captured")
_RECEIVED = re.compile(r"\b(\d{1,18}) packets? received by filter")
_DROPPED = re.compile(r"\b(\d{1,18}) packets? dropped by kernel")
_BY_INTERFACE = re.compile(r"\b(\d{1,18}) packets? dropped by interface")
_DUMPCAP = re.compile(r"Packets received/dropped on interface '[^'\n]{0,200}': (\d{1,18})/(\d{1,18})\b")


@dataclass(frozen=True)
class ToolCounts:
    """Packets by the capture tool's count; None if the log gives no number."""

    captured: int | None
    received: int | None
    dropped: int | None
    by_interface: int = 0  # dropped before the capture filter; not among the received packets

    @property
    def unread(self) -> int:
        """Packets that passed the filter, were not dropped, and yet are not in the file (RFC 7680 2.7)."""
        if self.captured is None or self.received is None or self.dropped is None:
            return 0
        return max(0, self.received - self.dropped - self.captured)


def parse(text: str) -> ToolCounts:
    """The counts that a log holds."""
    dumpcap = _DUMPCAP.findall(text)
    if dumpcap:
        captured = sum(int(received) for received, _ in dumpcap)
        dropped = sum(int(drops) for _, drops in dumpcap)
        return ToolCounts(captured, captured + dropped, dropped)
    last = [found[-1] if found else None for found in (p.findall(text) for p in (_CAPTURED, _RECEIVED, _DROPPED))]
    captured_, received_, dropped_ = (None if value is None else int(value) for value in last)
    by_interface = _BY_INTERFACE.findall(text)
    return ToolCounts(captured_, received_, dropped_, int(by_interface[-1]) if by_interface else 0)
