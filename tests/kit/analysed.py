"""Analyses in this process, and what their results say of the inputs that they were made of."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pyarrow.parquet as pq

from pktrace import schema
from pktrace.analysis.analysis import Analysis, analyze_run
from pktrace.analysis.summary import summary
from pktrace.report.exchange import results_folder
from pktrace.report.results import write_results
from pktrace.run.runfile import load_run

TABLES = [f"{table.name}.parquet" for table in schema.TABLES]
_KEY = "pktrace.input.sha256:"


def silent(line: str) -> None:
    """Narration that nobody reads."""


def analyse(run: Path) -> Analysis:
    """Analyse a run and write its results, without plots."""
    analysis = analyze_run(load_run(run))
    with results_folder(run / "results", own=True, say=silent) as into:
        write_results(analysis, into, summary(analysis, 0))
    return analysis


def inputs_in(results: Path, attempts: int = 50) -> dict[str, str] | None:
    """The inputs that every file of the results names; None where there are no results.

    Raises:
        AssertionError: the files are of different analyses, or some are missing.
    """
    for _ in range(attempts):
        try:
            folder = os.open(results, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        try:  # by the folder's descriptor, so that an exchange meanwhile makes no mixture
            found = []
            for name in [*TABLES, "summary.json"]:
                with open(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
                    data = file.read()
                if name == "summary.json":
                    found.append(json.loads(data)["inputs"])
                    continue
                metadata = pq.read_metadata(io.BytesIO(data)).metadata
                keys = {key.decode(): value.decode() for key, value in metadata.items()}
                found.append({key[len(_KEY) :]: value for key, value in keys.items() if key.startswith(_KEY)})
        except FileNotFoundError:
            # The folder that was opened is the old one, and is being removed; or a file is missing for good.
            continue
        finally:
            os.close(folder)
        assert all(inputs == found[0] for inputs in found), "the results are a mixture of analyses"
        return dict(found[0])
    raise AssertionError("the results lack a file")
