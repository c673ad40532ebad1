"""The life of one packet: every sighting, every changed field, and the reasons of its verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from rich.text import Text

from pktrace.analysis.analysis import Analysis
from pktrace.decode import changeable as unkept_field
from pktrace.decode import rows as field
from pktrace.errors import CallerError
from pktrace.observations.changeable import changeable_of
from pktrace.observations.tunnels import address_text
from pktrace.report.console import console, plain_table
from pktrace.report.words import clock_time, date_time, microseconds, plural
from pktrace.run.conditions import PROTOCOL_NAMES
from pktrace.schema import BASES, FATES, REASONS, RULE_VERDICTS, TREATMENTS, VERDICTS
from pktrace.trajectories.model import UNSEEN
from pktrace.trajectories.outcome.changes import ECN_NAMES, mac_text
from pktrace.verdicts.codes import NONE
from pktrace.visible import visible

# Fields that may change on the way; addresses and tunnels are compared as text.
_WATCHED = (
    ("sport", field.HAS_PORTS),
    ("dport", field.HAS_PORTS),
    ("ip_id", field.HAS_ID),
    ("ttl", field.HAS_IP),
    ("dscp", field.HAS_IP),
    ("vlan", field.HAS_VLAN),
    ("length", 0),
    ("captured_length", 0),
)
# Mutable fields that rows do not keep, each with the function that formats its values.
_WATCHED_UNKEPT: tuple[tuple[str, str, int, Callable[[int], str]], ...] = (
    ("mac_source", "MAC source", unkept_field.MAC_SOURCE, mac_text),
    ("mac_destination", "MAC destination", unkept_field.MAC_DESTINATION, mac_text),
    ("ecn", "ECN", unkept_field.ECN, ECN_NAMES.__getitem__),
    ("mss", "MSS", unkept_field.MSS, str),
)

_WHY_FATE = {
    "delivered": "it was seen at the last point of its path, and the first one saw it or may have missed it",
    "lost": "the next point's capture ran on long enough after it, and did not see it",
    "partial": "part of its bytes was lost",
    "dropped": "its rule says drop, and no later point saw it",
    "absorbed": "the service may answer or swallow packets of its rule, and it was not seen after the service",
    "injected": "no point before the service saw it, though they were capturing",
    "undetermined": "the captures cannot show whether it was lost",
    "ambiguous": (
        "it may have become one of the packets that begin behind it, or it may be a copy of one that the first point "
        "saw with the same bytes; nothing shows which"
    ),
}
_WHY_REASON = {
    "late": "it came later than the loss threshold",
    "outside_window": "it was seen when not every point was certainly capturing",
    "waiting_time": "the next point's capture ended before the waiting time was over",
    "capture_drops": "a capture that could have seen it next dropped packets",
    "capture_cut": "a capture that could have seen it next is damaged and ends before",
    "clock_unknown": "the clocks of the points cannot be compared",
    "against_path": "it passed the path in the opposite direction",
    "first_point_missing": "the first point of its path was capturing, and did not see it: it came from elsewhere",
    "filter_dropped": "the filter's own drop counters account for exactly the packets that vanished there",
    "part_lost": "some of the bytes of the packet did not cross this stage",
}
_WHY_BASIS = {
    "packet_id": "the capture gave it one number (epb_packetid) at every point",
    "exact": "addresses, ports, IP ID, transport header and payload are the same at every point, as in no other packet",
    "order": "other packets have the same bytes within the loss threshold; only their order distinguishes them",
    "rewritten": "its flow was rewritten on the way; payload, length and transport numbers are the same",
    "modified": "its flow was changed on the way; addresses, ports, IP ID and transport numbers are the same",
    "range": "it was split or merged on the way; the frames hold the same bytes of its flow or datagram",
    "signature": "only the mark of a test generator at the end of its payload distinguishes it from others",
}


@dataclass(frozen=True)
class Sighting:
    """One sighting of the packet, with the changes on the way to it."""

    position: int | None  # None: a duplicate, or a further part of a split packet
    point: str
    ts_ns: int | None
    since_previous_ns: int | None
    capture: str | None
    frame: int | None
    changes: tuple[str, ...]
    stage: str | None
    verdict: str | None
    reason: str | None


@dataclass(frozen=True)
class Explanation:
    """One packet's life; `str()` gives the output of `pktrace explain`."""

    trajectory: int
    path: str
    packet: str
    fate: str
    sightings: tuple[Sighting, ...]
    because: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "trajectory": self.trajectory,
            "path": self.path,
            "packet": self.packet,
            "fate": self.fate,
            "sightings": [dict(vars(sighting)) for sighting in self.sightings],
            "because": list(self.because),
        }

    def __str__(self) -> str:
        import io

        text = io.StringIO()
        self.print(text)
        return text.getvalue()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def print(self, stream: IO[str]) -> None:
        """Write the life of the packet to a stream."""
        out = console(stream)
        out.print(Text(f"Packet {self.trajectory} on path {self.path}: {self.fate}", style="bold"))
        out.print(self.packet)
        out.print()
        table = plain_table(
            "Sightings",
            [("point", "left"), ("time, UTC", "left"), ("+ µs", "right"), ("frame", "left"), ("what happened", "left")],
        )
        for sighting in self.sightings:
            happened = []
            if sighting.stage is not None:
                happened.append(
                    f"{sighting.stage}: {sighting.verdict}" + (f" ({sighting.reason})" if sighting.reason else "")
                )
            happened.extend(sighting.changes)
            table.add_row(
                sighting.point,
                clock_time(sighting.ts_ns) if sighting.ts_ns is not None else "not seen",
                microseconds(sighting.since_previous_ns) if sighting.since_previous_ns is not None else "",
                f"{_file_name(sighting.capture)} {sighting.frame}" if sighting.capture is not None else "",
                "; ".join(happened),
            )
        out.print(table)
        out.print()
        for line in self.because:
            out.print(line)


def _file_name(capture: str) -> str:
    return visible(capture.rpartition("/")[2])


def explain_packet(analysis: Analysis, trajectory: int) -> Explanation:
    """Explain one packet.

    Args:
        trajectory: its number, as in trajectories.parquet.

    Raises:
        CallerError: there is no such trajectory.
    """
    trajectories, verdicts, run = analysis.trajectories, analysis.verdicts, analysis.run
    if not 0 <= trajectory < len(trajectories):
        known = f"they run from 0 to {len(trajectories) - 1}" if len(trajectories) else "this run has none"
        raise CallerError(f"there is no packet {trajectory}; {known}")
    path = run.paths[int(trajectories.path[trajectory])]
    fate = FATES[int(verdicts.fate[trajectory])]
    return Explanation(
        trajectory=trajectory,
        path=path.name,
        packet=_packet_line(analysis, trajectory),
        fate=_fate_line(analysis, trajectory, fate),
        sightings=tuple(_sightings(analysis, trajectory)),
        because=tuple(_because(analysis, trajectory, fate)),
    )


def _packet_line(analysis: Analysis, trajectory: int) -> str:
    row = analysis.trajectories.first_rows[trajectory]
    has = int(row["has"])
    ends = []
    for side, port in (("source", "sport"), ("destination", "dport")):
        address = _address(row, side)
        if has & field.HAS_PORTS:
            address = f"[{address}]:{row[port]}" if row["ip_version"] == 6 else f"{address}:{row[port]}"
        ends.append(address)
    protocol = PROTOCOL_NAMES.get(int(row["protocol"]), f"protocol {row['protocol']}")
    parts = [f"IPv{row['ip_version']} {protocol} {ends[0]} > {ends[1]}"]
    if has & field.HAS_ID:
        parts.append(f"IP ID {row['ip_id']}")
    if has & field.HAS_TCP:
        parts.append(f"seq {row['tcp_seq']}, ack {row['tcp_ack']}, flags 0x{int(row['tcp_flags']):03x}")
    if has & field.HAS_ICMP:
        parts.append(f"type {row['icmp_type']} code {row['icmp_code']}")
    if has & field.HAS_ECHO:
        parts.append(f"id {row['icmp_id']} seq {row['icmp_seq']}")
    parts.append(f"{row['length']} bytes")
    return f"{', '.join(parts)}; first seen {date_time(int(row['ts_ns']))}"


def _fate_line(analysis: Analysis, trajectory: int, fate: str) -> str:
    stage = int(analysis.verdicts.lost_stage[trajectory])
    if stage < 0:
        return fate
    path = analysis.run.paths[int(analysis.trajectories.path[trajectory])]
    a, b = (analysis.run.points[path.points[at]].name for at in path.ends_of(stage))
    return f"{fate} in stage {stage} {path.stage_name(stage)}, between {a} and {b}"


def _sightings(analysis: Analysis, trajectory: int) -> list[Sighting]:
    trajectories, verdicts, run = analysis.trajectories, analysis.verdicts, analysis.run
    rows = analysis.observations.rows
    tunnels = analysis.observations.tunnels
    path = run.paths[int(trajectories.path[trajectory])]
    arriving: dict[int, int] = {}  # position -> the stage with a verdict that ends there
    for stage in path.stage_numbers():
        if verdicts.stage_verdict[trajectory, stage] != NONE:
            arriving[path.ends_of(stage)[1]] = stage
    found: list[Sighting] = []
    previous = previous_position = -1
    clock = trajectories.clocks.clock
    ranges, headless = trajectories.ranges, trajectories.headless[trajectory]
    mine = (ranges.trajectory == trajectory).nonzero()[0].tolist()  # in order of position and first byte
    wanted = np.zeros(len(rows), bool)
    wanted[trajectories.seen[trajectory][trajectories.seen[trajectory] >= 0]] = True
    unkept = changeable_of(analysis.observations, wanted)
    parts = {int(ranges.row[at]): f"bytes {ranges.first[at]:,} to {ranges.last[at]:,}" for at in mine}

    def further(row_number: int, note: str) -> Sighting:
        row = rows[row_number]
        where = run.points[row["point"]].name, int(row["ts_ns"]), None
        file = analysis.observations.captures[row["capture"]]
        return Sighting(None, *where, file, int(row["frame"]), (note,), None, None, None)

    forms = trajectories.forms[trajectories.owner[trajectories.forms] == trajectory].tolist()
    for position, point in enumerate(path.points):
        row_number = int(trajectories.seen[trajectory, position])
        stage_here = arriving.get(position)
        if row_number < 0 and stage_here is None:
            continue
        row = rows[row_number] if row_number >= 0 else None
        same = previous < 0 or clock[rows["point"][previous]] == clock[point]
        same &= not headless[position] and (previous < 0 or not headless[previous_position])  # times of one byte
        since = int(row["ts_ns"] - rows["ts_ns"][previous]) if row is not None and previous >= 0 and same else None
        changes: tuple[str, ...] = ()
        if row_number in parts:
            # A part of the packet shows its byte range only.
            changes = (parts[row_number] + (", the first ones were not seen" if headless[position] else ""),)
        elif row is not None and previous >= 0:
            changes = _changes(rows[previous], row, tunnels) + _unkept_changes(unkept[previous], unkept[row_number])
        found.append(
            Sighting(
                position,
                run.points[point].name,
                int(row["ts_ns"]) if row is not None else None,
                since,
                analysis.observations.captures[row["capture"]] if row is not None else None,
                int(row["frame"]) if row is not None else None,
                changes,
                path.stage_name(stage_here) if stage_here is not None else None,
                VERDICTS[int(verdicts.stage_verdict[trajectory, stage_here])] if stage_here is not None else None,
                REASONS[int(verdicts.stage_reason[trajectory, stage_here])] if stage_here is not None else None,
            )
        )
        here = [int(ranges.row[at]) for at in mine if ranges.position[at] == position]
        found += [further(part, parts[part]) for part in here if part != row_number]
        leaving = [form for form in forms if rows["point"][form] == point]
        found += [further(form, "; ".join(("as it left", *_changes(row, rows[form], tunnels)))) for form in leaving]
        if row is not None:
            previous, previous_position = row_number, position
    owned = set((trajectories.owner == trajectory).nonzero()[0].tolist())
    copies = sorted(owned - set(parts) - set(forms) - set(trajectories.seen[trajectory].tolist()))
    return found + [further(copy, "a further copy (duplicate)") for copy in copies]


def _address(row: Any, side: str) -> str:
    return address_text(int(row["ip_version"]), int(row[f"{side}_high"]), int(row[f"{side}_low"]))


def _changes(before: Any, after: Any, tunnels: tuple[str, ...]) -> tuple[str, ...]:
    """Watched fields that differ between two sightings."""
    found = []
    for side in ("source", "destination"):
        old, new = _address(before, side), _address(after, side)
        if old != new:
            found.append(f"{side} {old} to {new}")
    if before["tunnel"] != after["tunnel"]:
        old, new = (tunnels[row["tunnel"] - 1] if row["tunnel"] else "none" for row in (before, after))
        found.append(f"tunnel {old} to {new}")
    for name, bit in _WATCHED:
        had, has = (not bit or bool(row["has"] & bit) for row in (before, after))
        if had and has and before[name] != after[name]:
            found.append(f"{name} {before[name]} to {after[name]}")
        elif had != has:
            found.append(f"{name} {'added' if has else 'removed'}")
    return tuple(found)


def _unkept_changes(before: Any, after: Any) -> tuple[str, ...]:
    """Changes of mutable fields that rows do not keep, as far as both captures have them."""
    both = before["known"] & after["known"]
    found = [
        f"{shown} {text(int(before[name]))} to {text(int(after[name]))}"
        for name, shown, bit, text in _WATCHED_UNKEPT
        if both & bit and before[name] != after[name]
    ]
    if both & unkept_field.OPTIONS and before["options"] != after["options"]:
        found.append("other TCP options")
    return tuple(found)


def _because(analysis: Analysis, trajectory: int, fate: str) -> list[str]:
    trajectories, verdicts, run = analysis.trajectories, analysis.verdicts, analysis.run
    path_number = int(trajectories.path[trajectory])
    path = run.paths[path_number]
    lines = [f"Fate {fate}: {_WHY_FATE[fate]}."]
    reason = REASONS[int(verdicts.reason[trajectory])]
    if reason is not None:
        lines.append(f"Reason {reason}: {_WHY_REASON[reason]}.")
    stage = int(verdicts.lost_stage[trajectory])
    if stage >= 0 and reason != "late":
        wait = int(verdicts.trust.wait[path_number, stage])
        end = path.ends_of(stage)[1]
        last = int(trajectories.times[trajectory, int(verdicts.last_at[trajectory])])
        ran_on = int(verdicts.trust.end[path_number, end]) - last
        lines.append(
            f"Waited: {run.points[path.points[end]].name} was captured for {ran_on / 1e6:,.3f} ms after it was last "
            f"seen; {wait / 1e6:,.3f} ms were needed (10 x its largest certain delay, at most the loss threshold)."
        )
    lines += _last_byte_lines(analysis, trajectory)
    lines.append(_rule_line(analysis, trajectory))
    basis = BASES[int(trajectories.basis[trajectory])]
    candidates = int(trajectories.candidates[trajectory])
    lines.append(f"Matched by {basis}: {_WHY_BASIS.get(basis, basis)} ({plural(candidates, 'candidate')}).")
    return lines


def _last_byte_lines(analysis: Analysis, trajectory: int) -> list[str]:
    """A line per point that did not see the packet in one frame: the time of its last byte."""
    trajectories, run = analysis.trajectories, analysis.run
    path = run.paths[int(trajectories.path[trajectory])]
    lines = []
    for position in analysis.parts.divided[trajectory].nonzero()[0].tolist():
        point = run.points[path.points[position]].name
        first, last = (int(times[trajectory, position]) for times in (trajectories.raw_times, analysis.completed))
        if last == UNSEEN:
            lines.append(f"Bytes: not all of them were seen at {point}.")
        elif last > first:
            lines.append(f"Bytes: at {point} the last ones came {microseconds(last - first)} µs after the first.")
    return lines


def _rule_line(analysis: Analysis, trajectory: int) -> str:
    verdicts, run = analysis.verdicts, analysis.run
    path_number = int(analysis.trajectories.path[trajectory])
    if not run.paths[path_number].has_detour and not any(rule.path == path_number for rule in run.rules):
        return "Rule: this path has no filter."
    rule = int(analysis.expected.rule[trajectory])
    action = TREATMENTS[int(analysis.expected.action[trajectory])]
    said = f"rule {run.rules[rule].id} says {action}" if rule >= 0 else f"no rule fits, the path's default is {action}"
    verdict, observed = int(verdicts.rule_verdict[trajectory]), int(verdicts.observed[trajectory])
    did = (
        f"the filter did {TREATMENTS[observed]}" if observed != NONE else "the captures cannot show the filter's action"
    )
    judged = f": {RULE_VERDICTS[verdict]}" if verdict != NONE else ""
    return f"Rule: {said}; {did}{judged}."
