"""Random runs are rows: there are no captures to read again."""

from __future__ import annotations

import pytest

from pktrace.observations import contents
from pktrace.observations.observe import Observations


@pytest.fixture(autouse=True)
def contents_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents of random rows are comparable as they are; those of captures are made so."""
    original = contents.make_contents_comparable

    def make_contents_comparable(observations: Observations) -> None:
        if observations.run is not None and observations.run.folder.exists():
            original(observations)

    monkeypatch.setattr(contents, "make_contents_comparable", make_contents_comparable)
