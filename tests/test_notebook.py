"""The notebook runs from its first cell to its last, on the recorded run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

jupytext = pytest.importorskip("jupytext", reason="the extra `notebook` is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra `notebook` is not installed")
pytest.importorskip("ipykernel", reason="the extra `notebook` is not installed")

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "notebooks" / "first-look.py"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook with its outputs; a cell that fails is an error that shows the cell."""
    own = tmp_path_factory.mktemp("jupyter")  # nothing of the user's own settings
    settings = {
        "IPYTHONDIR": str(own / "ipython"),
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_DATA_DIR": str(own / "data"),
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    notebook = jupytext.read(NOTEBOOK)
    client = nbclient.NotebookClient(
        notebook,
        timeout=120,
        startup_timeout=60,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        client.execute()
    return notebook


def outputs_of(notebook: Any, source: str) -> list[Any]:
    """Outputs of the one code cell that holds a text."""
    found = [cell for cell in notebook.cells if cell.cell_type == "code" and source in cell.source]
    assert len(found) == 1, source
    outputs: list[Any] = found[0].outputs
    return outputs


def test_every_cell_ran(executed: Any) -> None:
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert len(cells) > 8
    assert all(cell.execution_count for cell in cells)


@pytest.mark.parametrize("source", ["latency.plot.ecdf()", "latency.plot.waterfall("])
def test_plots_are_shown(executed: Any, source: str) -> None:
    assert any("image/png" in output.get("data", {}) for output in outputs_of(executed, source))


def test_one_packet_is_explained(executed: Any) -> None:
    (output,) = outputs_of(executed, "trajectories.explain(")
    text = output["data"]["text/plain"]
    assert "lost" in text
    assert "service: lost" in text


def test_it_uses_the_steps_of_the_public_interface() -> None:
    source = NOTEBOOK.read_text(encoding="utf-8")
    for step in ("load_run", "observe", "follow", "judge", "stage_latency"):
        assert f"pt.{step}(" in source
    assert "pktrace." not in source.replace("import pktrace as pt", ""), "only the public interface"
