"""Interruptions: none is lost, wherever in the program it falls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from capture_scripts.processes import Interrupted, accept_interruptions, interruptible, shielded
from tests.conftest import ROOT


class InterruptedInItsFinalizer:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


def finalize_and_wait() -> None:
    with interruptible():
        victim = InterruptedInItsFinalizer()
        del victim
        time.sleep(1)


def test_an_interruption_inside_a_finalizer_is_raised_all_the_same() -> None:
    with pytest.raises(Interrupted, match="SIGINT"):
        finalize_and_wait()


def test_only_the_first_interruption_is_raised_until_more_are_accepted() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        with pytest.raises(Interrupted, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        accept_interruptions()
        with pytest.raises(Interrupted, match="SIGINT"):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_shield_notes_signals_where_it_is_up_and_raises_them_where_it_is_lifted() -> None:
    """False before: an interruption may be raised at any line of the recorder, and the folder then go."""
    before = signal.getsignal(signal.SIGTERM)
    with interruptible(), shielded() as shield:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert shield.arrived == ["SIGTERM", "SIGINT"]
        with pytest.raises(Interrupted, match="SIGTERM"):
            shield.raise_arrived()
        shield.lift()
        with pytest.raises(Interrupted, match="SIGHUP"):
            os.kill(os.getpid(), signal.SIGHUP)
        shield.up()
        assert shield.arrived == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert shield.arrived == ["SIGTERM"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_patience_of_a_shield_ends(capfd: pytest.CaptureFixture[str]) -> None:
    with interruptible(), shielded() as shield:
        shield.up(patience=1, words="once more ends it")
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # ignored until the shield is up again
    assert capfd.readouterr().err == "once more ends it\n"


def test_an_interruption_inside_a_finalizer_is_noted_behind_a_shield() -> None:
    with interruptible(), shielded() as shield:
        shield.lift()
        victim = InterruptedInItsFinalizer()
        del victim
        shield.up()
        time.sleep(0.05)
        assert shield.arrived == ["SIGINT"]


_SIGNALLED = """
import os, random, signal, sys, threading, time
from capture_scripts.processes import Interrupted, interruptible, run
for number in range(60):
    began = time.monotonic()
    wait = random.Random(number).uniform(0, 0.05)
    threading.Timer(wait, os.kill, [os.getpid(), signal.SIGINT]).start()
    try:
        with interruptible():
            run(["sleep", "0.06"])
            time.sleep(1)
    except Interrupted:
        assert time.monotonic() - began >= 0.06, "the command was left behind"
        continue
    raise SystemExit("no interruption")
print("held")
"""


def test_a_signal_while_a_command_runs_is_raised_behind_it() -> None:
    """It was raised inside `subprocess`, once with its lock taken: the wait for the command never ended."""
    done = subprocess.run(
        [sys.executable, "-c", _SIGNALLED], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr) == ("held\n", "")
