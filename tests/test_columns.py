"""The kernel that reads rows says the same as the readable form, which is used for few rows."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from pktrace.decode import rows as field
from pktrace.decode.rows import ROW
from pktrace.run.model import Condition, Network, PacketPath, Point, Run
from pktrace.trajectories import columns
from pktrace.trajectories.columns import Columns
from pktrace.trajectories.paths import NO_PATH, NOT_FOLLOWED

ALL = (1 << 64) - 1
NETWORKS = (
    Network(4, 0, 0x0A000000, ALL, 0xFFFFFFFFFF000000),
    Network(4, 0, 0x0A010203, ALL, ALL),
    Network(4, 0, 0, ALL, 0xFFFFFFFF00000000),
    Network(6, 0x20010DB8 << 32, 0, 0xFFFFFFFF << 32, 0),
    Network(6, 0, 0x0A010203, ALL, ALL),
)


def some_rows(rng: random.Random, count: int) -> np.ndarray:
    rows = np.zeros(count, ROW)
    bits = (field.HAS_IP, field.HAS_TIME, field.HAS_PORTS, field.HAS_ICMP, field.NO_DIRECTION, field.HAS_PACKET_ID)
    for row in rows:
        has = sum(
            bit for bit, share in zip(bits, (0.9, 0.95, 0.7, 0.3, 0.1, 0.01), strict=True) if rng.random() < share
        )
        row["has"], row["point"] = has, rng.choice([-1, 0, 1, 2, 3])
        row["ts_ns"], row["identity"] = rng.randrange(-(2**62), 2**62), rng.randrange(2**64)
        row["ip_version"], row["protocol"] = rng.choice([4, 6]), rng.choice([1, 6, 17, 58, 0, 255])
        for side in ("source", "destination"):
            row[f"{side}_high"] = rng.choice([0, 0, 0x20010DB8 << 32, ALL])
            row[f"{side}_low"] = rng.choice([0x0A010203, 0x0A020304, 0xC0000201, 0, ALL])
        row["sport"], row["dport"] = rng.choice([0, 53, 443, 65535]), rng.choice([0, 53, 443, 65535])
        row["icmp_type"] = rng.choice([0, 8, 128, 255])
        row["vlan"], row["tunnel_id"] = rng.choice([0, 10, 4095]), rng.choice([0, 100, 2**32 - 1])
        row["has"] |= rng.choice([0, field.HAS_VLAN]) | rng.choice([0, field.HAS_TUNNEL_ID])
    return rows


def some_condition(rng: random.Random) -> Condition:
    def perhaps(values: list, most: int = 3) -> tuple | None:
        return None if rng.random() < 0.6 else tuple(rng.choices(values, k=rng.randrange(most)))

    ports = [(0, 65535), (53, 53), (443, 65535), (1, 0)]
    return Condition(
        perhaps([1, 6, 17, 58, 255]), perhaps(list(NETWORKS)), perhaps(list(NETWORKS)), perhaps(ports), perhaps(ports),
        perhaps([(0, 8), (128, 255)]), perhaps([(0, 10), (11, 4095)]), perhaps([(0, 99), (100, 2**32 - 1)]),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_many_rows_are_read_as_few_are(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    points = tuple(Point(name, ()) for name in "abcd")
    paths = []
    for number in range(rng.randrange(5)):
        way = tuple(rng.choices(range(4), k=rng.randrange(1, 5)))
        stages = tuple(f"s{stage}" for stage in range(len(way) - 1))
        paths.append(PacketPath(f"path {number}", way, stages, some_condition(rng)))
    run = Run(Path("."), "", "", points, tuple(paths), (), 1, None, "")
    rows = some_rows(rng, rng.choice([0, 1, 200]))
    few = Columns.all_of(run, rows)
    monkeypatch.setattr(columns, "_FEW", 0)
    monkeypatch.setattr(columns, "_PIECE", 64)
    many = Columns.all_of(run, rows)
    for name in ("points", "times", "identities", "paths"):
        assert (getattr(few, name) == getattr(many, name)).all(), name
    assert few.has == many.has
    assert set(few.paths.tolist()) <= {NO_PATH, NOT_FOLLOWED, *range(len(paths))}
