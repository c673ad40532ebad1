"""The decoder against the reference and against what the builder knows, on a small capture of everything there is.

The reference (`tests/reference/`) is written from docs/decoding.md, slow and without a look at the kernels. Each
capture is compared column by column, and so are the ledger and whether the file counts as damaged.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pktrace.errors import CaptureFileError
from pktrace.ledger import Ledger
from pktrace.observations.export import ObservationStream
from pktrace.observations.observe import Observations, observe_files
from pktrace.observations.table import observations_table
from tests.kit.pcap_files import pcap_header
from tests.kit.small_captures import CAPTURES, EXPECTED
from tests.reference.details import DETAILS
from tests.reference.observe import observe

Rows = list[dict[str, Any]]
# The digest is the product's own; the capture is the file's name.
NOT_COMPARED = {"digest", "capture"}


def decoded(data: bytes, folder: Path) -> tuple[Rows, Counter[str], Observations]:
    """What the product makes of a file in memory: its table and its ledger."""
    path = folder / "capture"
    path.write_bytes(data)
    observations = observe_files([str(path)])
    return observations_table(observations).to_pylist(), counted(observations.ledger), observations


def streamed(data: bytes, folder: Path) -> tuple[Rows, Counter[str], ObservationStream]:
    """What `pktrace observe --details` makes of a file."""
    path = folder / "capture"
    path.write_bytes(data)
    stream = ObservationStream([str(path)], with_details=True)
    rows = [row for table in stream.tables() for row in table.to_pylist()]
    return rows, counted(stream.ledger), stream


def counted(ledger: Ledger) -> Counter[str]:
    counts: Counter[str] = Counter()
    for counter, _, _, count in ledger.rows():
        counts[counter.name] += count
    return counts


def differences(ours: Rows, others: Rows) -> list[str]:
    """Common columns that differ, as sentences."""
    wrong = [f"{len(ours)} rows, {len(others)} expected"] if len(ours) != len(others) else []
    for mine, other in zip(ours, others, strict=False):
        wrong += [
            f"frame {mine['frame']} {name}: {mine[name]!r}, expected {other[name]!r}"
            for name in sorted(mine.keys() & other.keys() - NOT_COMPARED)
            if mine[name] != other[name]
        ]
    return wrong


def counts_that_differ(ours: Counter[str], others: Counter[str]) -> list[str]:
    return [
        f"ledger {name}: {ours[name]}, expected {others[name]}"
        for name in sorted(ours.keys() | others.keys())
        if ours[name] != others[name]
    ]


@pytest.mark.parametrize("name", CAPTURES)
def test_the_decoder_agrees_with_the_reference(name: str, tmp_path: Path) -> None:
    rows, ledger, observations = decoded(CAPTURES[name], tmp_path)
    expected_rows, expected_ledger, damaged = observe(CAPTURES[name])
    wrong = differences(rows, expected_rows) + counts_that_differ(ledger, expected_ledger)
    assert "\n".join(wrong) == ""
    assert observations.damaged == damaged
    for row in rows:
        assert (row["digest"] is None) == (row["source"] is None), row["frame"]


@pytest.mark.parametrize("name", CAPTURES)
def test_the_stream_with_details_agrees_with_the_reference(name: str, tmp_path: Path) -> None:
    rows, ledger, stream = streamed(CAPTURES[name], tmp_path)
    expected_rows, expected_ledger, damaged = observe(CAPTURES[name])
    wrong = differences(rows, expected_rows) + counts_that_differ(ledger, expected_ledger)
    assert "\n".join(wrong) == ""
    assert stream.damaged == damaged
    assert all(name in row for row in rows for name in DETAILS)


@pytest.mark.parametrize("name", CAPTURES)
def test_the_decoder_finds_what_was_put_in(name: str, tmp_path: Path) -> None:
    rows, _, _ = streamed(CAPTURES[name], tmp_path)
    assert len(rows) == len(EXPECTED[name])
    assert "\n".join(differences(rows, EXPECTED[name])) == ""


@pytest.mark.parametrize("name", CAPTURES)
def test_the_reference_finds_what_was_put_in(name: str) -> None:
    rows, _, damaged = observe(CAPTURES[name])
    assert len(rows) == len(EXPECTED[name])
    assert "\n".join(differences(rows, EXPECTED[name])) == ""
    assert not damaged


@pytest.mark.parametrize(
    "data", [b"", b"\x0a", b"\x0a\x0d\x0d", pcap_header()[:23], b"GIF89a" + bytes(100), bytes(1000)]
)
def test_what_is_no_capture_is_an_error(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither"):
        observe(data)
    with pytest.raises(CaptureFileError):
        decoded(data, tmp_path)
