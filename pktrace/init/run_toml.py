"""A proposal as the text of a run.toml; comments give the evidence of the captures and its limits."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pktrace.errors import CallerError, OutputError
from pktrace.init.proposal import Pair, Proposal, ProposedPath, ProposedPoint, ProposedStage
from pktrace.report.whole import whole_file
from pktrace.report.words import one_line, plural
from pktrace.visible import json_text, toml_text

_LISTED_PAIRS = 60
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # a byte, as Python shows it in a name (PEP 383)
_LONGEST_COMMENT = 118


def proposal_toml(proposal: Proposal, name: str, files: Mapping[str, str]) -> str:
    """The text of run.toml.

    Args:
        name: of the run; files: the name of each capture in run.toml, relative to its folder.
    """
    blocks = [_head(proposal, name), *_pairs(proposal.pairs), *_notes(proposal.notes)]
    blocks += [_point(point, files) for point in proposal.points]
    blocks += [_path(path) for path in proposal.paths]
    if not proposal.paths:
        blocks.append(
            _comment(
                "No [[path]]: the captures do not show an order of points. Without one, only observations are made."
            )
        )
    return "\n".join(blocks)


def proposal_json(proposal: Proposal, name: str, files: Mapping[str, str], output: str | None) -> str:
    """The proposal as JSON, for programs."""
    document: dict[str, Any] = {"name": name, "output": output, **dataclasses.asdict(proposal)}
    for point in document["points"]:
        point["captures"] = [files[capture] for capture in point["captures"]]
    return json_text(document)


def relative_names(captures: Sequence[str], folder: Path) -> dict[str, str]:
    """The name of each capture for a run.toml in a folder.

    TOML is UTF-8. A byte of a name that is not UTF-8 becomes `?` in a pattern, provided that no other file fits it.

    Raises:
        CallerError: other files fit the pattern, too.
    """
    return {capture: _named_in_toml(capture, os.path.relpath(capture, folder), folder) for capture in captures}


def _named_in_toml(capture: str, name: str, folder: Path) -> str:
    if not _NOT_UTF8.search(name):
        return name
    pattern = _NOT_UTF8.sub("?", glob.escape(name))
    here = os.path.abspath(folder)  # the folder need not exist yet
    fitting = glob.glob(os.path.normpath(os.path.join(glob.escape(here), pattern)))
    if fitting != [os.path.normpath(os.path.join(here, name))]:
        raise CallerError(f"{capture}: run.toml cannot name this file, its name is not UTF-8; rename it")
    return pattern


def write_proposal(text: str, file: Path) -> None:
    """Write run.toml, whole or not at all; its folder is made if missing.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as opened:
            opened.write(text.encode())
    except OSError as problem:
        raise OutputError(f"{file}: cannot write: {problem.strerror or problem}") from None


def _head(proposal: Proposal, name: str) -> str:
    captures = {capture for point in proposal.points for capture in point.captures}
    told = (
        f"Proposed by pktrace init from {plural(proposal.packets, 'packet')} in {plural(len(captures), 'capture')}."
        " Check it, and give points and stages the names you use."
    )
    return (
        _comment(told)
        + f"\nschema = 1\nname = {_text(name)}\n"
        + "\n# [window]: the captures do not show the span in which all points were certainly capturing.\n"
    )


def _pairs(pairs: Sequence[Pair]) -> list[str]:
    if not pairs:
        return []
    lines = [_comment("Points that share packets:")]
    for pair in pairs[:_LISTED_PAIRS]:
        fewer = min(pair.first_packets, pair.second_packets)
        told = f"  {pair.first} and {pair.second}: {pair.common:,} of {fewer:,} packets seen at both"
        if not pair.one_clock:
            told += "; on two clocks"
        elif pair.median_ns is not None:
            told += f"; median {_duration(pair.median_ns)}"
        lines.append(_comment(told))
    if len(pairs) > _LISTED_PAIRS:
        lines.append(_comment(f"  and {len(pairs) - _LISTED_PAIRS} more pairs"))
    return ["".join(lines)]


def _notes(notes: Sequence[str]) -> list[str]:
    return ["".join(_comment(note) for note in notes)] if notes else []


def _point(point: ProposedPoint, files: Mapping[str, str]) -> str:
    lines = [
        "[[point]]",
        f"name = {_text(point.name)}",
        f"captures = {_list([files[name] for name in point.captures])}",
    ]
    if point.interface is not None:
        lines.append(f"interface = {_text(point.interface)}")
    if point.direction != "any":
        lines.append(f"direction = {_text(point.direction)}  # packets pass twice here, in and out")
    if point.clock is not None:
        lines.append(f"clock = {_text(point.clock)}  # {_of_clock(point)}")
    if point.session is not None:
        lines.append(f"session = {_text(point.session)}  # packet ids number the same packets in several files")
    told = plural(point.packets, "packet")
    if point.ip_packets < point.packets:
        told += f", {point.ip_packets:,} of them IP"
    if point.first_ns is not None and point.last_ns is not None:
        told += f", over {_duration(point.last_ns - point.first_ns)}"
    return _comment(told) + "\n".join(lines) + "\n"


def _of_clock(point: ProposedPoint) -> str:
    if point.offset_ns is None:
        return "a clock of its own"
    way = "ahead of" if point.offset_ns > 0 else "behind"
    about = f"about {_duration(abs(point.offset_ns))} {way} the other points"
    if point.offset_known:
        return f"{about}; latency across clocks stays empty"
    return f"{about}, any delay included: packets went one way only"


def _path(path: ProposedPath) -> str:
    head = [_comment(f"{path.packets:,} packets whose bytes differ from all others:")]
    head += [_comment(f"  {_stage(stage)}") for stage in path.stages]
    head += [_comment(note) for note in path.notes]
    lines = ["[[path]]", f"name = {_text(path.name)}", f"points = {_list(path.points)}"]
    if path.detour:
        lines.append(f"detour = {_list(path.detour)}  # only a part of the packets goes here")
    if path.stage_names is not None:
        lines.append(f"stages = {_list(path.stage_names)}")
    keys = {"source": path.match.source, "destination": path.match.destination}
    inside = ", ".join(f"{key} = {_list(values)}" for key, values in keys.items() if values)
    if inside:
        lines.append(f"match = {{ {inside} }}")
    else:
        lines.append("# match: everything that no path above takes; the addresses are too many to list")
    return "".join(head) + "\n".join(lines) + "\n" + _rules(path)


def _rules(path: ProposedPath) -> str:
    """Traffic that took the detour, as comments. The user has to write the rules: a capture only shows the actions of a
    filter.
    """
    if not path.detour:
        return ""
    lines = [
        "",
        "# The filter's rules are not in the captures. Without any, every packet is expected to be forwarded, and",
        "# those that took the detour count as false_punt. By protocol and lower port, these took the detour:",
    ]
    for service in path.services:
        port = "" if service.port is None else f" {service.port}"
        lines.append(f"#   {service.protocol}{port}: {service.detoured:,} of {service.detoured + service.skipped:,}")
    punted = next((service for service in path.services if service.detoured > service.skipped), None)
    if punted is not None:
        number = "" if punted.port is None else f"-{punted.port}"
        lines += ["# [[rule]]", f'# id = "punt-{punted.protocol}{number}"', f"# path = {_text(path.name)}"]
        lines += [f'# protocol = "{punted.protocol}"']
        lines += [] if punted.port is None else [f"# dport = {punted.port}"]
        lines += ['# action = "punt"']
    return "\n".join(lines) + "\n"


def _stage(stage: ProposedStage) -> str:
    told = f"{stage.start} to {stage.end}: {stage.common:,} of {stage.seen:,} packets seen at both"
    return told if stage.median_ns is None else f"{told}; median {_duration(stage.median_ns)}"


def _duration(ns: int) -> str:
    if abs(ns) < 10**6:
        return f"{ns / 1000:,.2f} µs"
    return f"{ns / 10**6:,.3f} ms" if abs(ns) < 10**9 else f"{ns / 10**9:,.3f} s"


def _comment(text: str) -> str:
    """Lines of a comment; text from file names and captures cannot end it."""
    indent = " " * (len(text) - len(text.lstrip()))
    lines, line = [], "#" + indent
    for word in one_line(text).split():
        if len(line) + 1 + len(word) > _LONGEST_COMMENT and line.strip("# "):
            lines.append(line)
            line = "#" + indent
        line += f" {word}"
    return "\n".join([*lines, line]) + "\n"


def _text(value: str) -> str:
    """A TOML basic string: JSON's short escapes are TOML's, and the others are made by TOML's rule."""
    return toml_text(json.dumps(value, ensure_ascii=False))


def _list(values: Sequence[str]) -> str:
    one = f"[{', '.join(map(_text, values))}]"
    if len(one) <= _LONGEST_COMMENT or len(values) < 2:
        return one
    return "[\n" + "".join(f"  {_text(value)},\n" for value in values) + "]"
