"""Each attack of the hostile suite, as often as its `fast` says; `make hostile` runs them in full."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hostile.attack import Attack
from tests.hostile.catalogue import areas

_ATTACKS = [attack for attacks in areas().values() for attack in attacks]


def _tried(attack: Attack, folder: Path) -> None:
    outcome = attack.run(folder, attack.fast)
    assert outcome.held == outcome.tried, outcome.broken


@pytest.mark.parametrize("attack", [a for a in _ATTACKS if not a.lab], ids=lambda attack: attack.name)
def test_held(attack: Attack, tmp_path: Path) -> None:
    _tried(attack, tmp_path)


@pytest.mark.lab
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("attack", [a for a in _ATTACKS if a.lab], ids=lambda attack: attack.name)
def test_held_in_the_lab(attack: Attack, tmp_path: Path) -> None:
    _tried(attack, tmp_path)
