"""pktrace follows every packet through a service chain, from captures taken at several points.

import pktrace as pt
run = pt.load_run("fixtures/service-chain")
observations = pt.observe(run)
trajectories = pt.follow(observations)
verdicts = pt.judge(trajectories)
latency = pt.stage_latency(trajectories)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pktrace.errors import PktraceError
from pktrace.version import __version__

if TYPE_CHECKING:
    from pktrace.notebook import (
        Latency,
        Observations,
        Trajectories,
        Verdicts,
        follow,
        judge,
        load_run,
        observe,
        stage_latency,
    )
    from pktrace.run.model import Run

__all__ = [
    "Latency",
    "Observations",
    "PktraceError",
    "Run",
    "Trajectories",
    "Verdicts",
    "__version__",
    "follow",
    "judge",
    "load_run",
    "observe",
    "stage_latency",
]


def __getattr__(name: str) -> Any:
    """Import the steps and classes at first use, so that `import pktrace` and `pktrace --help` stay fast."""
    if name in __all__:
        from pktrace import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module 'pktrace' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, those that are not imported yet, too."""
    return sorted(__all__)
