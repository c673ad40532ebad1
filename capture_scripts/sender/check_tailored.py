"""Compare a recording of tailored packets with its plan, packet by packet: ``check_tailored.py RUN``.

Three witnesses are compared with the plan (``RUN/truth.parquet``), each by itself, so that a disagreement names its
witness: the captures (by the markers in the payloads), the counters of the data plane, and the results of
``pktrace analyze``. The bytes in the captures identify the packet of each row of the results.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # started as a file: its room is the package (PEP 366)
    _room = Path(__file__).resolve().parent
    sys.path.append(str(_room.parent.parent))
    __package__ = f"{_room.parent.name}.{_room.name}"

import pyarrow.parquet as pq

from ..filter_rules import default_counter, parse_rules
from ..fixture.check_run import packets
from ..fixture.plan import MARKER_BYTES
from ..fixture.truth import read_counters
from ..marks import BY_CODE, MARK, PLACES, SINK_COUNTER
from ..processes import LabError
from ..testbed.service_chain import DEVICES, PATH_BY_NAME
from ..testbed.topology import AGENT1
from ..visible import printing_visibly
from .tailored import read_plan

Rows = Sequence[Mapping[str, Any]]
_ENDS = {"ingress": "pvm1", "egress": "client"}
_COMPARED = ("path", "rule", "expected_action", "fate", "lost_stage")
_SHOWN = ("marker", "about", "field", "where", "protocol", "ip_version", "source", "destination", "sport", "dport",
          "icmp_type", "lead")  # fmt: skip


def check(run: Path) -> tuple[dict[str, Any], list[str]]:
    """Figures of the comparison, and a sentence for each disagreement."""
    rows, about = read_plan(run / "truth.parquet")
    counted = read_counters(run / "context")
    faults: list[str] = []
    figures: dict[str, Any] = {
        "packets": len(rows),
        "fates": dict(Counter(row["fate"] for row in rows)),
        "captures": _check_captures(run, rows, faults),
        "losses": _check_losses(rows, counted, faults),
        "rules": _check_rules(rows, about, counted, faults),
    }
    if (run / "context" / "kernel_witness.json").exists():
        figures["kernel witness"] = _check_witness(run, rows, faults)
    if (run / "results" / "trajectories.parquet").exists():
        figures["analysis"] = _check_trajectories(run, rows, faults)
        _check_tables(run, rows, counted, about, faults)
    return figures, faults


def marker(data: bytes, start: int, end: int) -> str:
    """The marker in these bytes, or an empty string."""
    at = data.find(MARK, start, end)
    return data[at - 1 : at - 1 + MARKER_BYTES].decode("latin-1") if at > start else ""


def shown(row: Mapping[str, Any]) -> str:
    """A description of one packet of the plan, complete enough to build it again."""
    return ", ".join(f"{name} {row[name]}" for name in _SHOWN if row[name] is not None)


def _check_captures(run: Path, rows: Rows, faults: list[str]) -> dict[str, int]:
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    strangers: Counter[str] = Counter()
    total: dict[str, int] = {}
    planned = {row["marker"] for row in rows}
    for point in DEVICES:
        total[point] = 0
        for data in packets(run / "captures" / f"{point}.pcapng"):
            total[point] += 1
            found = marker(data, 0, len(data))
            if found in planned:
                seen[found][point] += 1
            else:
                strangers[point] += 1
    faults += [
        f"captures: {dict(seen[row['marker']])}, planned {row['points']}: {shown(row)}"
        for row in rows
        if seen[row["marker"]] != Counter(row["points"])
    ]
    faults += [f"captures: {number} packets at {point} that are in no plan" for point, number in strangers.items()]
    return total


def _check_losses(rows: Rows, counted: Mapping[str, int], faults: list[str]) -> dict[str, int]:
    planned = Counter(row["marker"][0] for row in rows)
    expected = {f"{place.namespace}:{place.counter}": planned[place.code] for place in PLACES}
    for path, role in _ENDS.items():
        expected[f"{role}:{SINK_COUNTER}"] = sum(row["path"] == path and row["fate"] == "delivered" for row in rows)
    expected |= {f"host:{name}": 0 for name in ("in1_other", "eg1_other", "back1_other")}
    for name, number in expected.items():
        if counted[name] != number:
            faults.append(f"counters: {name} counted {counted[name]}, planned {number}")
    return {f"{place.path} {place.lost_stage} {place.counter}": planned[place.code] for place in PLACES
            if planned[place.code]}  # fmt: skip


def _check_witness(run: Path, rows: Rows, faults: list[str]) -> dict[str, Any]:
    """Compare the kernel's drop reports with the planned drops, by marker and place, if no event was lost."""
    state = json.loads((run / "context" / "kernel_witness.json").read_text())
    if not state["recorded"]:
        return {"recorded": False, "reason": state["reason"]}
    if state["events_lost"]:
        faults.append(f"kernel witness: {state['events_lost']} events lost, so it proves nothing")
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    with (run / "context" / "kernel_drops.jsonl").open() as lines:
        for line in lines:
            drop = json.loads(line)
            data = bytes.fromhex(drop.get("payload", ""))
            told = data[max(0, data.find(MARK) - 1) :][:MARKER_BYTES]
            place = BY_CODE.get(told[:1].decode("latin-1"))
            if told[1:5] != MARK or place is None or drop["reason"] != "NETFILTER_DROP":
                continue
            if drop["device"] == place.device and str(drop["netns"]).endswith(f"-{place.namespace}"):
                seen[place.counter][told.decode("latin-1")] += 1
    planned: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row["marker"][:1] in BY_CODE:
            planned[BY_CODE[row["marker"][:1]].counter][row["marker"]] += 1
    for name in sorted(planned.keys() | seen.keys()):
        missing, extra = planned[name] - seen[name], seen[name] - planned[name]
        if missing or extra:
            faults.append(
                f"kernel witness: {name}: {missing.total()} planned drops not witnessed, {extra.total()} not planned"
            )
    return {"recorded": True, "drops": {name: markers.total() for name, markers in sorted(seen.items())}}


def _at_filter(row: Mapping[str, Any]) -> bool:
    points = PATH_BY_NAME[row["path"]].points
    return points[points.index(PATH_BY_NAME[row["path"]].detour[0]) - 1] in row["points"]


def _rule_verdict(row: Mapping[str, Any]) -> str | None:
    """The expected rule verdict: None for a packet that never reached the filter, ``unseen`` for a packet that went in
    and no further (the analysis has no witness of another drop), else the correct one."""
    if not _at_filter(row):
        return None
    points = PATH_BY_NAME[row["path"]].points
    filter_input = points[points.index(PATH_BY_NAME[row["path"]].detour[0]) - 1]
    return "unseen" if row["fate"] == "lost" and row["points"][-1] == filter_input else "hit"


def _counters_of_rules(about: Mapping[str, Any]) -> dict[tuple[str, str | None], str]:
    names = {(rule.path, rule.id): rule.counter for rule in parse_rules({"rule": about["rules"]})}
    return names | {(path, None): default_counter(AGENT1, path) for path in _ENDS}


def _check_rules(rows: Rows, about: Mapping[str, Any], counted: Mapping[str, int], faults: list[str]) -> dict[str, int]:
    planned = Counter((row["path"], row["rule"]) for row in rows if _at_filter(row))
    figures = {}
    for key, counter in _counters_of_rules(about).items():
        figures[counter] = planned[key]
        if counted[f"host:{counter}"] != planned[key]:
            faults.append(f"counters: rule {key[1]} counted {counted[f'host:{counter}']}, planned {planned[key]}")
    return figures


def _check_trajectories(run: Path, rows: Rows, faults: list[str]) -> dict[str, Any]:
    names = ["trajectory", "capture", "byte_offset", "captured_length"]
    observed = pq.read_table(run / "results" / "observations.parquet", columns=names)
    columns = [observed.column(name).to_pylist() for name in names]
    files = {name: (run / str(name)).read_bytes() for name in set(columns[1])}
    speak_of: dict[int | None, set[str]] = defaultdict(set)
    for trajectory, capture, offset, length in zip(*columns, strict=True):
        speak_of[trajectory].add(marker(files[capture], offset, offset + length))
    if None in speak_of:
        faults.append(
            f"analysis: {columns[0].count(None)} observations on no trajectory, of {len(speak_of[None])} packets"
        )
    followed: dict[str, list[dict[str, Any]]] = defaultdict(list)
    table = pq.read_table(run / "results" / "trajectories.parquet").to_pylist()
    for found in table:
        markers = speak_of[found["trajectory"]]
        if len(markers) != 1:
            faults.append(f"analysis: trajectory {found['trajectory']} owns packets of {sorted(markers)}")
        for name in markers:
            followed[name].append(found)
    verdicts: Counter[str] = Counter()
    bases: Counter[str] = Counter()
    for row in rows:
        there = followed.pop(row["marker"], [])
        if len(there) != 1:
            faults.append(f"analysis: {len(there)} trajectories for one packet: {shown(row)}")
            continue
        found = there[0]
        verdict = _rule_verdict(row)
        if found["rule_verdict"] != verdict:
            faults.append(f"analysis: rule_verdict {found['rule_verdict']}, should be {verdict}: {shown(row)}")
        points = [point for point in DEVICES if found[f"{point}_ns"] is not None]
        wrong = [f"{name} {found[name]}, planned {row[name]}" for name in _COMPARED if found[name] != row[name]]
        if sorted(points) != sorted(row["points"]):
            wrong.append(f"points {points}, planned {row['points']}")
        if found["candidates"] != 1 or found["duplicates"] or found["sightings"] != len(row["points"]):
            wrong.append(f"{found['sightings']} sightings, {found['candidates']} candidates")
        if wrong:
            faults.append(f"analysis: {'; '.join(wrong)}: {shown(row)}")
        verdicts[str(found["rule_verdict"])] += 1
        bases[found["basis"]] += 1
    faults += [f"analysis: a packet that is in no plan: {name!r}" for name in followed]
    return {"trajectories": len(table), "rule_verdict": dict(verdicts), "basis": dict(bases)}


def _check_tables(
    run: Path, rows: Rows, counted: Mapping[str, int], about: Mapping[str, Any], faults: list[str]
) -> None:
    """Losses per stage in stages.parquet and latency.parquet, and matched packets in rules.parquet."""
    planned: Counter[tuple[str, int]] = Counter()
    for place in PLACES:
        planned[place.path, place.lost_stage] += counted[f"{place.namespace}:{place.counter}"]
    stages = pq.read_table(run / "results" / "stages.parquet", columns=["path", "stage", "verdict"]).to_pylist()
    lost = Counter((row["path"], row["stage"]) for row in stages if row["verdict"] == "lost")
    latency = pq.read_table(run / "results" / "latency.parquet").to_pylist()
    summed = Counter({(row["path"], row["stage"]): row["lost"] for row in latency if row["stage"] is not None})
    for what, table in (("stages", lost), ("latency", summed)):
        for key in sorted({*planned, *table}):
            if table[key] != planned[key]:
                faults.append(f"{what}.parquet: {table[key]} lost on {key[0]} {key[1]}, counters say {planned[key]}")
    other = Counter(row["verdict"] for row in stages if row["verdict"] not in ("crossed", "lost"))
    if other:
        faults.append(f"stages.parquet: verdicts that nothing gave a reason for: {dict(other)}")
    counters = _counters_of_rules(about)
    for row in pq.read_table(run / "results" / "rules.parquet").to_pylist():
        told = counted[f"host:{counters[row['path'], row['rule']]}"]
        if row["matched"] != told:
            faults.append(
                f"rules.parquet: {row['path']} {row['rule']} matched {row['matched']}, its counter says {told}"
            )
        if row["rule"] is not None and row["counter_packets"] != told:
            faults.append(f"rules.parquet: {row['rule']} shows counter {row['counter_packets']}, it is {told}")


@printing_visibly
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of ``check_tailored.py``; exit 0 everything agrees, 1 disagreement, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="check_tailored.py",
        description="Compare a recording of tailored packets, and its analysis if present, with the plan.",
        epilog="example: check_tailored.py RUN, for a RUN that marker_run.py has made",
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--faults", type=int, default=20, help="most disagreements to print (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        figures, faults = check(options.run)
    except (LabError, OSError) as error:
        print(f"check_tailored: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures, indent=1))
    return report(faults, options.faults, "check_tailored")


def report(faults: Sequence[str], most: int, program: str) -> int:
    """Print the first faults; 1 if there are any, else 0."""
    for fault in faults[:most]:
        print(f"{program}: {fault}", file=sys.stderr)
    if len(faults) > most:
        print(f"{program}: {len(faults) - most} more disagreements", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
