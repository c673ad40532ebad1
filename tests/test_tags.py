"""Tags in the `match` of paths and in rules: the outermost VLAN, and the number of the innermost tunnel."""

from __future__ import annotations

from pathlib import Path

import pytest

from pktrace.analysis.analysis import Analysis
from pktrace.errors import RunFileError
from pktrace.schema import TREATMENTS
from tests.kit.kinds import KINDS
from tests.kit.kinds.model import record
from tests.test_named_cases import analyzed


def tenants(folder: Path, kind: str, key: str, values: tuple[object, object]) -> Analysis:
    """Two tenants with the same packets, a path for each."""
    recorded = record(KINDS[kind], 40, 1)
    paths = [
        {"name": name, "points": ["a", "b"], "match": {key: value}}
        for name, value in zip(("one", "other"), values, strict=True)
    ]
    rules = [{"id": "closed", "path": "other", key: values[1], "action": "drop"}]
    return analyzed(folder, recorded.files, paths, rule=rules)


@pytest.mark.parametrize(
    ("kind", "key", "values"),
    [
        ("tenants-vlan", "vlan", (10, "11-20")),
        ("tenants-vni", "tunnel_id", (100, [101, 102])),
        ("tenants-teid", "tunnel_id", (500, 501)),
        ("tenants-gre-key", "tunnel_id", (7, 8)),
    ],
)
def test_paths_and_rules_are_chosen_by_tags(tmp_path: Path, kind: str, key: str, values: tuple[object, object]) -> None:
    analysis = tenants(tmp_path, kind, key, values)
    assert analysis.trajectories.path.tolist() == [number % 2 for number in range(40)]
    expected = [TREATMENTS[code] for code in analysis.expected.action.tolist()]
    assert expected == ["forward", "drop"] * 20


@pytest.mark.parametrize(("key", "value"), [("vlan", 4096), ("tunnel_id", -1), ("tunnel_id", 2**32), ("vlan", "x")])
def test_tags_that_do_not_exist_are_named(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(RunFileError, match=key):
        tenants(tmp_path, "tenants-vlan", key, (value, 1))
