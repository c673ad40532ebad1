"""Tailored packets: for a rule file, packets that hit each rule and packets that miss it by one.

Each field of every rule is taken at its bounds, inside them and just outside, while the other fields stay inside, in
both IP versions. ``first_match.py`` gives the expected rule for the headers of each packet: a packet that misses one
rule may hit the next. The whole plan is made before the first packet is sent.

A packet is unique in two ways. Its payload is unique (drop code, ``PKTR``, path, sequence, plan id). Its row in the
tables is unique by source, destination, protocol, ports, IP ID, ICMP type and sequence, and TCP sequence number.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..filter_rules import Range, Rule
from ..fixture.plan import ICMP_ID, LETTERS, MARKER_BYTES
from ..fixture.truth import COLUMNS
from ..marks import BY_CODE, MARK, NO_DROP, PLACES
from ..processes import LabError
from ..testbed.service_chain import PATH_BY_NAME
from .first_match import TCP, UDP, Headers, first_match
from .near_misses import Addresses, Case, LeftOut, cases, icmp_of

MOST_PACKETS = 50_000  # there are 65,535 IPv4 identifications, each drawn once
PLAN_ID_BYTES = 8
FREE_PORTS = (20_000, 60_000)
_ECHO = {4: (8, 0), 6: (128, 129)}
_PAYLOADS = (22, 22, 26, 32, 48, 64, 64, 100, 256, 700, 1200)
_DRAWS = 40
_TURNS_OF_A_HIT = 4  # rules have more misses than hits; the plan should have about as many packets of both

EXTRA_COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("points", pa.list_(pa.string()), "Points at which it should be seen, in path order"),
    ("about", pa.string(), "The rule that it was made for; null: the path's default"),
    ("field", pa.string(), "The field of that rule that was varied; all: none, every field is inside"),
    ("where", pa.string(), "Where that field was put: inside, first, last, below, above, neighbour, other version"),
    ("sequence", pa.uint32(), "Number of the packet on its path, from 1; also the order of sending"),
    ("lead", pa.uint32(), "First four bytes above IP where they are neither ports nor an ICMP type that rules know"),
)


@dataclass(frozen=True)
class Tailored:
    """One packet of a plan. ``first`` and ``second`` are the 16 bit words in the place of ports."""

    case: Case
    headers: Headers
    code: str
    sequence: int
    rule: str | None
    action: str
    ip_id: int | None
    tcp_sequence: int | None
    payload_length: int

    @property
    def marker(self) -> str:
        return f"{self.code}{MARK.decode()}{LETTERS[self.case.path]}{self.sequence:08d}"

    @property
    def lost_stage(self) -> int | None:
        return BY_CODE[self.code].lost_stage if self.code in BY_CODE else None

    @property
    def fate(self) -> str:
        if self.lost_stage is not None:
            return "lost"
        return "dropped" if self.action == "drop" else "delivered"

    @property
    def points(self) -> tuple[str, ...]:
        """The expected points. A stage loses packets behind its first point, the bypass behind the filter's input."""
        path = PATH_BY_NAME[self.case.path]
        before_detour = path.points[path.points.index(path.detour[0]) - 1]
        crossed = [point for point in path.points if self.action == "punt" or point not in path.detour]
        last = crossed[-1]
        if self.lost_stage is not None:
            last = path.points[self.lost_stage] if self.lost_stage < len(path.stages) else before_detour
        elif self.action == "drop":
            last = before_detour
        return tuple(crossed[: crossed.index(last) + 1])

    def row(self) -> dict[str, Any]:
        """Its row of the truth, with the names of COLUMNS and EXTRA_COLUMNS."""
        headers = self.headers
        ports = headers.protocol in (TCP, UDP)
        icmp = headers.icmp_type is not None
        echo = headers.icmp_type in _ECHO[headers.version]
        transport = 20 if headers.protocol == TCP else 8
        return {
            "marker": self.marker,
            "path": self.case.path,
            "rule": self.rule,
            "expected_action": self.action,
            "fate": self.fate,
            "lost_stage": self.lost_stage,
            "protocol": headers.protocol,
            "ip_version": headers.version,
            "source": headers.source,
            "destination": headers.destination,
            "sport": headers.sport,
            "dport": headers.dport,
            "ip_id": self.ip_id,
            "tcp_seq": self.tcp_sequence,
            "icmp_type": headers.icmp_type,
            "icmp_id": ICMP_ID if echo else None,
            "icmp_seq": self.sequence if echo else None,
            "length": 14 + (20 if headers.version == 4 else 40) + transport + self.payload_length,
            "points": list(self.points),
            "about": self.case.about,
            "field": self.case.field,
            "where": self.case.where,
            "sequence": self.sequence,
            "lead": None if ports or icmp else headers.first << 16 | headers.second,
        }

    def key(self) -> tuple[object, ...]:
        """The fields that identify its rows in the tables."""
        headers = self.headers
        echo = headers.icmp_type in _ECHO[headers.version]
        fields = (headers.source, headers.destination, headers.protocol, headers.sport, headers.dport, self.ip_id)
        return (*fields, headers.icmp_type, self.sequence if echo else None, self.tcp_sequence)


@dataclass(frozen=True)
class Plan:
    """Packets in the order of sending, the cases left out, and the arguments of the plan."""

    plan_id: str
    packets: Sequence[Tailored]
    left_out: Sequence[LeftOut]
    made_from: Mapping[str, Any]

    def write(self, file: Path) -> None:
        """Write the truth table; its metadata has the rest, under ``tailored``."""
        columns = (*COLUMNS, *EXTRA_COLUMNS)
        about = {"plan": self.plan_id, **self.made_from, "left_out": [asdict(entry) for entry in self.left_out]}
        schema = pa.schema(
            [pa.field(name, kind, metadata={"description": text}) for name, kind, text in columns],
            metadata={"tailored": json.dumps(about)},
        )
        table = pa.Table.from_pylist([packet.row() for packet in self.packets], schema=schema)
        unfinished = file.with_name(file.name + ".partial")
        try:
            pq.write_table(table, unfinished, compression="zstd")
            unfinished.rename(file)
        except OSError as error:
            raise LabError(f"cannot write {file}: {error.strerror or error}") from error
        finally:
            unfinished.unlink(missing_ok=True)


def read_plan(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(rows, metadata) of a plan file; LabError when the file is no plan."""
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise LabError(f"{file}: cannot read the plan: {error}") from error
    about = (table.schema.metadata or {}).get(b"tailored")
    missing = [name for name, _, _ in (*COLUMNS, *EXTRA_COLUMNS) if name not in table.column_names]
    if about is None or missing:
        raise LabError(f"{file}: no plan of tailored packets (make one with: send plan RULES.toml -o PLAN.parquet)")
    return table.to_pylist(), json.loads(about)


def make_plan(
    rules: Sequence[Rule], count: int, *, seed: int = 1, addresses: Addresses | None = None, lost_percent: float = 0.0
) -> Plan:
    """``count`` packets, every case at least once; the same for the same arguments.

    ``lost_percent`` of them carry a drop code of the lab (``marks.py``). LabError when there are more cases than
    packets, or when no further packet would be unique in the tables.
    """
    ends = addresses or Addresses()
    wanted, left_out = cases(rules, ends)
    if not len(wanted) <= count <= MOST_PACKETS:
        raise LabError(
            f"--count {count}: these rules take {len(wanted)} packets or more, and a plan holds {MOST_PACKETS}"
        )
    tables = [dict(rule.written) for rule in rules]
    made_from = {
        "rules": tables, "count": count, "seed": seed, "addresses": asdict(ends), "lost_percent": lost_percent
    }  # fmt: skip
    plan_id = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:PLAN_ID_BYTES]
    drawing = _Drawing(tables, ends, random.Random(plan_id), lost_percent)
    packets: list[Tailored] = []
    turns = [1] * len(wanted)  # in the first round each case has one turn
    while wanted and len(packets) < count:
        lot = [case for case, times in zip(wanted, turns, strict=True) for _ in range(times)]
        drawing.chance.shuffle(lot)
        exhausted: dict[Case, None] = {}
        hits: set[Case] = set()
        for case in lot[: count - len(packets)]:
            packet = drawing.packet(case)
            if packet is None:
                exhausted[case] = None
            else:
                packets.append(packet)
                hits |= {case} if packet.rule else set()
        wanted = [case for case in wanted if case not in exhausted]
        turns = [_TURNS_OF_A_HIT if case in hits else 1 for case in wanted]
        for case in exhausted:
            left_out.append(
                LeftOut(
                    case.about or "default",
                    case.version,
                    case.field,
                    f"more of {case.where}, protocol {case.protocol}",
                    "the headers allow no further unique packet",
                )
            )
    if len(packets) < count:
        raise LabError(f"--count {count}: only {len(packets)} packets are unique with these rules and addresses")
    return Plan(plan_id, packets, left_out, made_from)


class _Drawing:
    """Draws the packets of one plan, each with unique fields."""

    def __init__(
        self, tables: Sequence[Mapping[str, Any]], addresses: Addresses, chance: random.Random, lost_percent: float
    ) -> None:
        self.chance = chance
        self._tables = tables
        self._addresses = addresses
        self._lost = lost_percent / 100
        self._ip_ids = iter(chance.sample(range(1, 0x10000), 0xFFFF))
        self._sequences: Counter[str] = Counter()
        self._used: set[tuple[object, ...]] = set()

    def packet(self, case: Case) -> Tailored | None:
        """A new packet of this case; None when all are drawn."""
        # In IPv6 only the addresses make these packets unique; the client's own is kept for rules that name it.
        nameless = case.version == 6 and case.protocol not in (TCP, UDP, icmp_of(6))
        for turn in range(_DRAWS):
            headers = self._headers(case, any_peer=nameless or turn > _DRAWS // 2)
            if headers.source == headers.destination:  # fits both paths
                continue
            rule, action = first_match(self._tables, case.path, headers)
            packet = Tailored(
                case=case,
                headers=headers,
                code=NO_DROP,
                sequence=self._sequences[case.path] + 1,
                rule=rule,
                action=action,
                ip_id=0 if case.version == 4 else None,
                tcp_sequence=self.chance.randrange(1 << 32) if case.protocol == TCP else None,
                payload_length=self.chance.choice(_PAYLOADS),
            )
            if case.version == 4:
                packet = replace(packet, ip_id=next(self._ip_ids))
            if packet.key() not in self._used:
                self._used.add(packet.key())
                self._sequences[case.path] += 1
                return replace(packet, code=self._code(case.path, action))
        return None

    def _code(self, path: str, action: str) -> str:
        codes = drop_codes(path, action)
        return self.chance.choice(codes) if codes and self.chance.random() < self._lost else NO_DROP

    def _headers(self, case: Case, *, any_peer: bool) -> Headers:
        client, target = self._addresses.client(case.version), self._addresses.target(case.version)
        peer = client
        if case.peer is not None:
            peer = str(_address(case.version, self._draw(case.peer)))
        elif any_peer:  # the last field that can vary, in the network of the client
            size = 8 if case.version == 4 else 64
            peer = str(_address(case.version, int(ipaddress.ip_address(client)) >> size << size | self._bits(size)))
        source, destination = (peer, target) if case.path == "ingress" else (target, peer)
        if case.icmp_type is not None or case.protocol == icmp_of(case.version):
            types = case.icmp_type or tuple((kind, kind) for kind in _ECHO[case.version])
            first, second = self._draw(types) << 8, 0
        else:
            first, second = self._draw(case.sport or (FREE_PORTS,)), self._draw(case.dport or (FREE_PORTS,))
        return Headers(case.version, case.protocol, source, destination, first, second)

    def _draw(self, ranges: Sequence[Range]) -> int:
        low, high = self.chance.choice(ranges)
        return self.chance.randint(low, high)

    def _bits(self, size: int) -> int:
        return self.chance.getrandbits(size)


def _address(version: int, number: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number)


def drop_codes(path: str, action: str) -> str:
    """Drop codes of the places on the way of such a packet."""
    way = PATH_BY_NAME[path]
    detour = way.points.index(way.detour[0])
    found = ""
    for place in PLACES:
        if place.path != path:
            continue
        before_filter = place.lost_stage < detour - 1
        behind = place.lost_stage >= detour + len(way.detour) and place.lost_stage < len(way.stages)
        in_detour = detour - 1 <= place.lost_stage < detour + len(way.detour)
        fits = {
            "drop": before_filter,
            "punt": before_filter or in_detour or behind,
            "forward": before_filter or behind or place.lost_stage == len(way.stages),
        }
        found += place.code if fits[action] else ""
    return found


def filling(plan_id: str, marker: str, length: int) -> bytes:
    """The payload of a packet: marker, plan id, and bytes unique to this packet."""
    rest = length - MARKER_BYTES - PLAN_ID_BYTES
    return marker.encode() + plan_id.encode() + random.Random(plan_id + marker).randbytes(rest)
