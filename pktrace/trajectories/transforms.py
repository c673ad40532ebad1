"""What changed in packets from one point to the next, told by comparing the decoded headers of both sightings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.observations.tunnels import address_text
from pktrace.trajectories.model import Trajectories

Array = np.ndarray[Any, Any]
_TCP = 6


@dataclass(frozen=True)
class Transforms:
    """Changes in order of (trajectory, stage, kind): arrays of equal length; `kind` numbers `kinds`.

    `table` has (path, stage, kind, from, to, packets), in order of path, stage, kind, from and to; from and to are None
    where values of single packets would be no news (IP IDs, payload).
    """

    trajectory: Array
    stage: Array
    kind: Array
    kinds: tuple[str, ...]
    table: tuple[tuple[int, int, str, str | None, str | None, int], ...]


def transforms_of(trajectories: Trajectories) -> Transforms:
    """All changes between neighbouring sightings of every packet."""
    found: list[tuple[Array, int, str]] = []
    table: list[tuple[int, int, str, str | None, str | None, int]] = []
    rows = trajectories.observations.rows
    for number, path in enumerate(trajectories.run.paths):
        mine = np.flatnonzero(trajectories.path == number)
        seen = trajectories.seen[mine]
        for stage in path.stage_numbers():
            a, b = path.ends_of(stage)
            both = (seen[:, a] >= 0) & (seen[:, b] >= 0)
            if path.has_detour and stage == path.bypass:
                both &= (seen[:, a + 1 : b] < 0).all(axis=1)
            packets = mine[both]
            before, after = rows[seen[both, a]], rows[seen[both, b]]
            if not len(packets):
                continue
            for kind, changed, old, new in _changes(trajectories, before, after):
                found.append((packets[changed], stage, kind))
                table += [(number, stage, kind, *entry) for entry in _counted(old, new, int(changed.sum()))]
    kinds = tuple(sorted({kind for _, _, kind in found}))
    place = {kind: code for code, kind in enumerate(kinds)}
    empty = np.zeros(0, np.int64)
    trajectory = np.concatenate([empty, *(packets for packets, _, _ in found)])
    stages = np.concatenate([empty, *(np.full(len(packets), stage) for packets, stage, _ in found)])
    codes = np.concatenate([empty, *(np.full(len(packets), place[kind]) for packets, _, kind in found)])
    order = np.lexsort((codes, stages, trajectory))
    table.sort(key=lambda entry: (*entry[:3], entry[3] or "", entry[4] or ""))
    return Transforms(trajectory[order], stages[order], codes[order], kinds, tuple(table))


def _changes(trajectories: Trajectories, before: Array, after: Array) -> list[tuple[str, Array, list[str], list[str]]]:
    """(kind, which packets, their values before, after) of every kind of change; values are empty where no news."""
    found: list[tuple[str, Array, list[str], list[str]]] = []

    def note(kind: str, changed: Array, old: Any = None, new: Any = None) -> None:
        if changed.any():
            found.append((kind, changed, *([] if side is None else side(changed) for side in (old, new))))

    steps = after["ttl"].astype(np.int64) - before["ttl"]
    for step in np.unique(steps[steps != 0]).tolist():
        note(f"ttl{step:+d}", steps == step, _values(before, "ttl"), _values(after, "ttl"))
    note("dscp", before["dscp"] != after["dscp"], _values(before, "dscp"), _values(after, "dscp"))
    for side in ("source", "destination"):
        changed = before["ip_version"] != after["ip_version"]
        for half in (f"{side}_high", f"{side}_low"):
            changed = changed | (before[half] != after[half])
        note(f"nat-{side}", changed, _addresses(before, side), _addresses(after, side))
    # Only first fragments have ports.
    ports = before["has"] & after["has"] & field.HAS_PORTS != 0
    for name, side in (("sport", "source"), ("dport", "destination")):
        changed = ports & (before[name] != after[name])
        note(f"nat-{side}-port", changed, _values(before, name), _values(after, name))
    note("icmp-id", before["icmp_id"] != after["icmp_id"])
    note("ip-id", before["ip_id"] != after["ip_id"])
    tagged, still = before["has"] & field.HAS_VLAN != 0, after["has"] & field.HAS_VLAN != 0
    note("vlan-push", ~tagged & still, None, _values(after, "vlan"))
    note("vlan-pop", tagged & ~still, _values(before, "vlan"))
    changed = tagged & still & (before["vlan"] != after["vlan"])
    note("vlan-change", changed, _values(before, "vlan"), _values(after, "vlan"))
    for kind, changed, old, new in _tunnels(trajectories.observations.tunnels, before["tunnel"], after["tunnel"]):
        note(kind, changed, (lambda chosen, code=old: [code] * int(chosen.sum())) if old else None,
             (lambda chosen, code=new: [code] * int(chosen.sum())) if new else None)  # fmt: skip
    partial, complete = (side["has"] & field.PARTIAL_CHECKSUM != 0 for side in (before, after))
    note("checksum-completion", partial & ~complete)
    note("checksum-removal", ~partial & complete)
    payload = (before["content"] != after["content"]) | (before["payload_length"] != after["payload_length"])
    note("payload", payload)
    options = (before["protocol"] == _TCP) & (before["payload"] - before["l4"] != after["payload"] - after["l4"])
    same = np.ones(len(before), bool)
    for name in ("source_high", "source_low", "destination_high", "destination_low", "sport", "dport", "ip_id"):
        same &= before[name] == after[name]
    # Nothing else that the digest covers differs: then it is the options, or the window.
    options |= (before["protocol"] == _TCP) & same & ~payload & (before["digest"] != after["digest"])
    note("tcp-options", options)
    return found


def _values(rows: Array, name: str) -> Any:
    return lambda chosen: [str(value) for value in rows[name][chosen].tolist()]


def _addresses(rows: Array, side: str) -> Any:
    return lambda chosen: [
        address_text(*entry)
        for entry in zip(
            rows["ip_version"][chosen].tolist(),
            rows[f"{side}_high"][chosen].tolist(),
            rows[f"{side}_low"][chosen].tolist(),
            strict=True,
        )
    ]


def _tunnels(texts: tuple[str, ...], before: Array, after: Array) -> list[tuple[str, Array, str | None, str | None]]:
    """Tunnels pushed, popped or changed; one entry per pair of tunnel texts."""
    found: list[tuple[str, Array, str | None, str | None]] = []
    changed = before != after
    pairs = set(zip(before[changed].tolist(), after[changed].tolist(), strict=True))
    for old, new in sorted(pairs):
        which = (before == old) & (after == new)
        was, now = (texts[code - 1] if code else "" for code in (old, new))
        outer = [part.split(" ")[0] for part in (was, now)]
        if not was or now.endswith(f" / {was}"):
            found.append((f"{outer[1]}-push", which, None, now))
        elif not now or was.endswith(f" / {now}"):
            found.append((f"{outer[0]}-pop", which, was, None))
        else:
            found.append(("tunnel-change", which, was, now))
    return found


def _counted(old: list[str], new: list[str], packets: int) -> list[tuple[str | None, str | None, int]]:
    """Distinct pairs of values with their counts; a single entry without values where there are none."""
    if not old and not new:
        return [(None, None, packets)]
    counts: dict[tuple[str | None, str | None], int] = {}
    befores: list[str | None] = [*old] or [None] * packets
    afters: list[str | None] = [*new] or [None] * packets
    for pair in zip(befores, afters, strict=True):
        counts[pair] = counts.get(pair, 0) + 1
    return [(was, now, count) for (was, now), count in counts.items()]
