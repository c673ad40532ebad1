"""What a generated run is asked to be, and what is then true of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.kit import pcap_files
from tests.kit.packets import Header
from tests.kit.topology import PathPlan

BEGIN_NS = 1_795_410_000_000_000_123
MILLISECOND = 1_000_000
SECOND = 1_000_000_000

Stage = tuple[str, int]


@dataclass(frozen=True)
class Options:
    """What the run is made of; the default is a clean run of a few hundred packets over every flow.

    Stages are named by (path, number), the number of the bypass being n; probabilities are per packet. Times
    in nanoseconds.
    """

    seed: int = 1
    only_path: str | None = None
    packets: int = 150
    interval_ns: int = 400_000
    threshold_ns: int = 2 * SECOND
    loss: Mapping[Stage, float] = field(default_factory=dict)
    duplicates: Mapping[Stage, float] = field(default_factory=dict)
    reordered: float = 0.0
    late: int = 0
    late_stage: Stage = ("ingress", 2)
    identical: int = 0
    identical_lost: Mapping[Stage, int] = field(default_factory=dict)
    identical_gap_ns: int = 5 * MILLISECOND
    identical_forward: int = 0
    identical_faults: int = 0
    id_modulus: int | None = None
    fragmented: int = 0
    absorbed: int = 0
    answered: float = 0.7
    looped: int = 0
    injected: int = 0
    faults: Mapping[str, float] = field(default_factory=dict)
    changes: bool = False
    noise: int = 0
    capture_drops: Mapping[str, float] = field(default_factory=dict)
    drops_told_by: str = "statistics"
    snaplen: Mapping[str, int] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    clock_offsets: Mapping[str, int] = field(default_factory=dict)
    starts_late: Mapping[str, int] = field(default_factory=dict)
    ends_early: Mapping[str, int] = field(default_factory=dict)
    unsorted: bool = False
    format: str = "pcapng"
    order: pcap_files.ByteOrder = "<"
    tsresol: int = 9
    tsoffset: int | None = None
    statistics: bool = True
    window: bool = False
    tail_ns: int = 3 * SECOND


@dataclass(frozen=True)
class Sighted:
    """One captured pass: where it stands in which capture, and its raw time there."""

    point: str
    capture: str
    frame: int
    ts_ns: int


@dataclass
class PacketTruth:
    """The truth of one packet. ``passed`` is what happened, ``seen`` what was captured, both by position.

    ``fate`` to ``rule_verdict`` are what the design demands for what the captures can show. ``group`` numbers
    packets whose bytes are the same within the loss threshold: for these only counts per stage are decided,
    not who it was.
    """

    number: int
    path: PathPlan
    header: Header
    fragment: tuple[int, int] | None
    rule: str | None
    expected_action: str | None
    absorbed: bool
    treatment: str | None
    injected: bool
    really_lost: int | None
    group: int | None
    passed: dict[int, list[int]]
    seen: dict[int, list[Sighted]] = field(default_factory=dict)
    fate: str = ""
    reason: str | None = None
    lost_stage: int | None = None
    observed_action: str | None = None
    rule_verdict: str | None = None

    def owned(self) -> frozenset[tuple[str, str, int]]:
        """Every frame of this packet, as (point, capture, frame)."""
        return frozenset((s.point, s.capture, s.frame) for at in self.seen.values() for s in at)


@dataclass(frozen=True)
class Coverage:
    """The time a point's capture covers, in the point's own clock (None: nobody can know), and what it
    dropped; ``drop_spans`` are the times in which it dropped all of these, None where nothing says when.
    """

    start_ns: int | None
    end_ns: int | None
    dropped: int
    drop_spans: tuple[tuple[int, int], ...] | None = None

    def holds(self, low: int, high: int) -> bool:
        return self.start_ns is not None and self.end_ns is not None and self.start_ns <= low <= high <= self.end_ns


@dataclass
class Truth:
    """What is true of a generated run."""

    packets: list[PacketTruth]
    coverage: dict[str, Coverage]
    dropped_by_capture: dict[str, int]
    frames: dict[str, int]

    @property
    def visible(self) -> list[PacketTruth]:
        """Packets that at least one capture holds; of the others nobody can say anything."""
        return [packet for packet in self.packets if packet.seen]
