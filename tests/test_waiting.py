"""The tests of the lab wait for conditions. A pause, or a deadline that is a guess, fails on a machine that is busy."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from capture_scripts.processes import LabError
from capture_scripts.quiet import wait_until, wait_until_handled
from tests.conftest import ROOT

LAB_TESTS = sorted((ROOT / "tests" / "lab").glob("*.py"))
_PAUSE = re.compile(r"\bsleep\((?!.*# pace)")
_SHORT = re.compile(r"(?:timeout(?:_s)?=|\.wait\(|\.join\()(\d+(?:\.\d+)?)\b")
_LEAST_S = 60


@pytest.mark.parametrize("module", LAB_TESTS, ids=lambda module: module.name)
def test_no_pause_and_no_short_deadline(module: Path) -> None:
    """A line that sets the pace of traffic, or of a user, says so: ``# pace``."""
    lines = module.read_text(encoding="utf-8").splitlines()
    pauses = [(number, line.strip()) for number, line in enumerate(lines, start=1) if _PAUSE.search(line)]
    short = [
        (number, line.strip())
        for number, line in enumerate(lines, start=1)
        for seconds in _SHORT.findall(line)
        if float(seconds) < _LEAST_S
    ]
    assert pauses == [], "wait for a condition: capture_scripts.quiet.wait_until"
    assert short == [], "a deadline guards against hanging, nothing else: capture_scripts.quiet.DEADLINE_S"


@pytest.mark.parametrize("module", LAB_TESTS, ids=lambda module: module.name)
def test_processes_are_looked_for_in_one_place(module: Path) -> None:
    """A process may end between the listing of /proc and the look at it; `running` of tests/lab/conftest.py knows."""
    walks = re.findall(r"Path\(\"/proc\"\)\.(?:iterdir|glob)", module.read_text(encoding="utf-8"))
    assert len(walks) == (module.name == "conftest.py")


def test_a_condition_is_waited_for_and_returned() -> None:
    answers = iter([0, "", None, 7, 8])
    assert wait_until(lambda: next(answers), "an answer comes") == 7


def test_what_never_comes_is_named() -> None:
    with pytest.raises(LabError, match=r"an answer comes: not within 0\.05 s"):
        wait_until(lambda: False, "an answer comes", 0.05)


def test_the_kernel_has_handled_what_was_sent() -> None:
    """No datagram on the loopback device is missing after it, however many were sent."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        for number in range(100):
            sender.sendto(b"%d" % number, receiver.getsockname())
        wait_until_handled()
        receiver.setblocking(False)
        assert [receiver.recv(16) for _ in range(100)] == [b"%d" % number for number in range(100)]
