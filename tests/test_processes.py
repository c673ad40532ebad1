"""Interruptions: none is lost, wherever in the program it falls."""

from __future__ import annotations

import os
import signal
import time

import pytest

from capture_scripts.processes import Interrupted, accept_interruptions, interruptible, shielded


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
