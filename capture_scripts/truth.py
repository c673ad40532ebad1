"""The truth beside a recording: ``truth.parquet`` from the sender's plan, ``truth.json`` from the counters.

Neither is made from captures, and the analysis never reads either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .known_loss import (
    BY_CODE,
    IDENTICAL_COUNTER,
    IDENTICAL_LOST,
    IDENTICAL_SENT,
    KERNEL_TCP_COUNTERS,
    KERNEL_TCP_LOSS_PERCENT,
    KERNEL_TCP_PORT,
    KERNEL_TCP_STAGE,
    PLACES,
    SINK_COUNTER,
    SINKS,
)
from .nft_rules import Rule, default_counter
from .plan import ICMP_ID, MarkedPacket
from .processes import LabError
from .service_chain import PATH_BY_NAME
from .topology import AGENT1, CLIENT, PVM1
from .traffic import IDENTICAL_DPORT, IDENTICAL_SPORT

_ECHO_TYPES = (0, 8, 128, 129)
COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("marker", pa.string(), "First 14 payload bytes: drop code, PKTR, path letter, sequence; unique"),
    ("path", pa.string(), "Path of run.toml that the packet belongs to"),
    (
        "rule",
        pa.string(),
        "Rule that fits it, also when lost before the filter; null: the default, or no filter",
    ),
    ("expected_action", pa.string(), "forward, drop or punt; forward on paths without a filter"),
    ("fate", pa.string(), "delivered, dropped (by its rule) or lost"),
    ("lost_stage", pa.int16(), "Stage in which it is lost on purpose; null unless the fate is lost"),
    ("protocol", pa.uint8(), "IP protocol number"),
    ("ip_version", pa.uint8(), "4 or 6"),
    ("source", pa.string(), "Source address"),
    ("destination", pa.string(), "Destination address"),
    ("sport", pa.uint16(), "Source port; null for ICMP and ICMPv6"),
    ("dport", pa.uint16(), "Destination port; null for ICMP and ICMPv6"),
    ("ip_id", pa.uint32(), "IPv4 identification, never 0 and used once; null for IPv6"),
    ("tcp_seq", pa.uint32(), "TCP sequence number; null for other protocols"),
    ("icmp_type", pa.uint8(), "ICMP or ICMPv6 type; null for TCP and UDP"),
    ("icmp_id", pa.uint16(), "Echo identifier; null for what is no echo message"),
    ("icmp_seq", pa.uint16(), "Echo sequence number; null for what is no echo message"),
    ("length", pa.uint32(), "Bytes on the wire, from the Ethernet header on"),
)


def _row(packet: MarkedPacket) -> dict[str, Any]:
    kind = packet.kind
    source, destination = kind.addresses()
    echo = kind.icmp_type in _ECHO_TYPES
    return {
        "marker": packet.marker,
        "path": kind.path,
        "rule": kind.rule,
        "expected_action": kind.action or "forward",  # a path without a filter forwards
        "fate": packet.fate,
        "lost_stage": packet.lost_stage,
        "protocol": kind.protocol,
        "ip_version": kind.version,
        "source": source,
        "destination": destination,
        "sport": packet.sport,
        "dport": packet.dport,
        "ip_id": packet.ip_id,
        "tcp_seq": packet.tcp_sequence,
        "icmp_type": kind.icmp_type,
        "icmp_id": ICMP_ID if echo else None,
        "icmp_seq": packet.icmp_sequence if echo else None,
        "length": packet.length,
    }


def write_truth_table(plan: Sequence[MarkedPacket], file: Path) -> None:
    """``truth.parquet``: a row per marked packet, in the order of path and sequence."""
    rows = [_row(packet) for packet in sorted(plan, key=lambda packet: (packet.kind.path, packet.sequence))]
    schema = pa.schema([pa.field(name, kind, metadata={"description": text}) for name, kind, text in COLUMNS])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")


def read_counters(context: Path, moment: str = "after") -> dict[str, int]:
    """All named counters of a recording by role and name: ``host:in1_r1``, ``svm:loss_in_p1``."""
    listed = {"host": json.loads((context / f"counters-{moment}.json").read_text(encoding="utf-8"))}
    listed |= json.loads((context / f"drop-counters-{moment}.json").read_text(encoding="utf-8"))
    return {
        f"{role}:{item['counter']['name']}": int(item["counter"]["packets"])
        for role, ruleset in listed.items()
        for item in ruleset["nftables"]
        if "counter" in item
    }


def truth_document(plan: Sequence[MarkedPacket], rules: Sequence[Rule], context: Path) -> dict[str, Any]:
    """``truth.json``: what the counters say of all packets, marked or not.

    LabError when the counters contradict the plan: then the recording is no evidence of anything.
    """
    counted = read_counters(context)
    _check_against_plan(plan, counted)
    return {
        "kernel_tcp": {
            "port": KERNEL_TCP_PORT,
            "percent": KERNEL_TCP_LOSS_PERCENT,
            "lost": [
                {
                    "path": path,
                    "stage": KERNEL_TCP_STAGE[path],
                    "stage_name": PATH_BY_NAME[path].stages[KERNEL_TCP_STAGE[path]],
                    "counter": counter,
                    "packets": counted[f"svm:{counter}"],
                }
                for path, counter in KERNEL_TCP_COUNTERS.items()
            ],
        },
        "identical": {
            "path": "ingress",
            "rule": "punt-dns",
            "expected_action": "punt",
            "source": CLIENT.ipv4,
            "destination": PVM1.ipv4,
            "protocol": 17,
            "sport": IDENTICAL_SPORT,
            "dport": IDENTICAL_DPORT,
            "ip_id": 0,
            "sent": IDENTICAL_SENT,
            "delivered": IDENTICAL_SENT - IDENTICAL_LOST,
            "lost": IDENTICAL_LOST,
            "lost_stage": 2,
            "counter": IDENTICAL_COUNTER,
        },
        "marked": {
            "sent": len(plan),
            "lost": [
                {
                    "code": place.code,
                    "path": place.path,
                    "stage": place.lost_stage,
                    "place": f"{place.namespace}/{place.device} {place.hook}",
                    "counter": place.counter,
                    "packets": counted[f"{place.namespace}:{place.counter}"],
                }
                for place in PLACES
            ],
        },
        "rules": [
            {
                "path": rule.path,
                "rule": rule.id,
                "action": rule.action,
                "counter": rule.counter,
                "packets": counted[f"host:{rule.counter}"],
            }
            for rule in rules
        ],
        "defaults": [
            {
                "path": path,
                "action": "forward",
                "counter": default_counter(AGENT1, path),
                "packets": counted[f"host:{default_counter(AGENT1, path)}"],
            }
            for path in ("ingress", "egress")
        ],
        "other_losses": 0,
        "kernel": (context / "uname.txt").read_text(encoding="utf-8").strip(),
        "tools": json.loads((context / "tool-versions.json").read_text(encoding="utf-8")),
    }


def _check_against_plan(plan: Sequence[MarkedPacket], counted: Mapping[str, int]) -> None:
    expected = {
        f"{place.namespace}:{place.counter}": sum(packet.code == code for packet in plan)
        for code, place in BY_CODE.items()
    }
    expected[f"svm:{IDENTICAL_COUNTER}"] = IDENTICAL_LOST
    ends = {"ingress": "pvm1", "egress": "client", "to-pvm3": "pvm3", "from-pvm3": "client"}
    for role in SINKS:
        expected[f"{role}:{SINK_COUNTER}"] = sum(
            packet.fate == "delivered" and ends[packet.kind.path] == role for packet in plan
        )
    expected[f"pvm1:{SINK_COUNTER}"] += IDENTICAL_SENT - IDENTICAL_LOST
    for name in ("in1_other", "eg1_other", "back1_other"):
        expected[f"host:{name}"] = 0
    wrong = {name: (number, counted[name]) for name, number in expected.items() if counted[name] != number}
    if wrong:
        told = ", ".join(f"{name} planned {planned}, counted {found}" for name, (planned, found) in wrong.items())
        raise LabError(f"the counters contradict the plan: {told}")


def write_truth(folder: Path, plan: Sequence[MarkedPacket], rules: Sequence[Rule]) -> dict[str, Any]:
    """Both truth files of the run in ``folder``; returns what ``truth.json`` says."""
    document = truth_document(plan, rules, folder / "context")
    write_truth_table(plan, folder / "truth.parquet")
    (folder / "truth.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return document
