"""The public interface: names, types, and what results show of themselves."""

from __future__ import annotations

import subprocess
import sys
from typing import get_type_hints

import pytest

import pktrace as pt

NAMES = {
    "Latency", "Observations", "PktraceError", "Run", "Trajectories", "Verdicts", "__version__", "follow", "judge",
    "load_run", "observe", "stage_latency",
}  # fmt: skip


@pytest.fixture(scope="module")
def results() -> tuple[pt.Observations, pt.Trajectories, pt.Verdicts, pt.Latency]:
    """Each step of the analysis of the example."""
    observations = pt.observe(pt.load_run())
    trajectories = pt.follow(observations)
    return observations, trajectories, pt.judge(trajectories), pt.stage_latency(trajectories)


def test_the_names_are_listed_before_they_are_imported() -> None:
    """False before: `dir(pktrace)` named no step until it was used."""
    program = "import pktrace; print(sorted(dir(pktrace)))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == str(sorted(NAMES))
    assert set(dir(pt)) == set(pt.__all__) == NAMES
    assert all(getattr(pt, name) is not None for name in NAMES)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'anything'"):
        pt.anything  # noqa: B018


def test_steps_have_the_types_that_are_exported() -> None:
    steps = (pt.load_run, pt.observe, pt.follow, pt.judge, pt.stage_latency)
    returned = {step.__name__: get_type_hints(step)["return"] for step in steps}
    assert returned == {
        "load_run": pt.Run, "observe": pt.Observations, "follow": pt.Trajectories, "judge": pt.Verdicts,
        "stage_latency": pt.Latency,
    }  # fmt: skip


def test_a_run_without_a_name_is_the_example(results: tuple[pt.Observations, ...]) -> None:
    assert pt.load_run().name == "service-chain"
    assert len(results[0]) > 5000


def test_results_say_in_one_line_what_they_are(results: tuple[object, ...]) -> None:
    for result in results:
        shown = repr(result)
        assert shown.startswith(f"<{type(result).__name__}: ")
        assert "\n" not in shown
        assert len(shown) < 120


def test_results_show_their_table_in_a_notebook(results: tuple[object, ...]) -> None:
    for result in results:
        html = result._repr_html_()  # type: ignore[attr-defined]
        assert html.startswith(f"<p><b>{type(result).__name__}</b>: ")
        assert "<table" in html
