"""Interruptions: none is lost, wherever in the program it falls."""

from __future__ import annotations

import os
import signal
import time

import pytest

from capture_scripts.processes import Interrupted, accept_interruptions, interruptible


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
