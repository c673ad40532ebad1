"""Random runs are rows: there are no captures to read again."""

from __future__ import annotations

import pytest

from pktrace.observations.observe import Observations
from pktrace.trajectories import follow


@pytest.fixture(autouse=True)
def contents_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents of random rows are comparable as they are; those of captures are made so."""
    original = follow.make_contents_comparable

    def make_contents_comparable(observations: Observations) -> None:
        if observations.run is not None and observations.run.folder.exists():
            original(observations)

    monkeypatch.setattr(follow, "make_contents_comparable", make_contents_comparable)
