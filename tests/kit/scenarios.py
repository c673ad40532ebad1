"""Named scenarios, one per difficulty: reference and fast analyser are tested with the same ones."""

from __future__ import annotations

from tests.kit.truth import MILLISECOND, SECOND, Options

EVERY_POINT = ("uplink", "switchport", "punt", "return", "vnic", "vnic3")

SCENARIOS: dict[str, Options] = {
    "clean": Options(),
    "nothing-sent": Options(packets=0),
    "loss": Options(
        packets=280,
        loss={
            ("ingress", 0): 0.08,
            ("ingress", 1): 0.08,
            ("ingress", 2): 0.1,
            ("ingress", 3): 0.1,
            ("ingress", 4): 0.1,
            ("egress", 0): 0.1,
            ("egress", 1): 0.1,
            ("egress", 2): 0.1,
            ("egress", 3): 0.1,
            ("direct", 0): 0.2,
        },
    ),
    "duplicates": Options(duplicates={("ingress", 0): 0.1, ("ingress", 2): 0.2, ("ingress", 4): 0.1}),
    "reordering": Options(reordered=0.2, interval_ns=20_000),
    "loss-duplication-reordering": Options(
        packets=200, loss={("ingress", 2): 0.05}, duplicates={("ingress", 3): 0.05}, reordered=0.1
    ),
    "late": Options(packets=60, late=4, tail_ns=8 * SECOND, threshold_ns=SECOND),
    "late-egress": Options(packets=60, late=3, late_stage=("egress", 1), tail_ns=8 * SECOND, threshold_ns=SECOND),
    "identical": Options(packets=60, identical=60, identical_lost={("ingress", 2): 5}),
    "identical-fast": Options(
        seed=3,
        packets=60,
        identical=40,
        identical_forward=20,
        identical_gap_ns=40_000,
        identical_lost={("ingress", 0): 2, ("ingress", 1): 6, ("ingress", 3): 5, ("ingress", 4): 2},
    ),
    "identical-forward": Options(packets=60, identical_forward=40, identical_lost={("ingress", 4): 3}),
    "identical-and-faults": Options(
        packets=120,
        identical=30,
        identical_forward=30,
        identical_faults=6,
        identical_lost={("ingress", 3): 2, ("ingress", 4): 2},
        faults={"false_forward": 0.1, "false_punt": 0.1},
    ),
    "identical-and-clock-offset": Options(
        packets=60,
        identical=30,
        identical_lost={("ingress", 2): 3},
        clock_offsets={"return": 4 * SECOND + 99},
    ),
    "ip-id-wraps-slowly": Options(
        packets=60, id_modulus=20, threshold_ns=100 * MILLISECOND, interval_ns=15 * MILLISECOND
    ),
    "ip-id-wraps-fast": Options(packets=120, id_modulus=16, interval_ns=1_000_000, loss={("ingress", 2): 0.08}),
    "fragments": Options(packets=60, fragmented=5),
    "absorbed": Options(packets=60, absorbed=20),
    "absorbed-or-lost": Options(packets=60, absorbed=20, answered=0.4, loss={("ingress", 1): 0.2}),
    "loop": Options(packets=60, looped=20, loss={("loop", 1): 0.2}),
    "injected": Options(packets=60, injected=8),
    "rule-faults": Options(
        packets=280,
        faults={
            "false_punt": 0.15,
            "false_forward": 0.15,
            "missed_drop": 0.3,
            "missed_drop_punt": 0.2,
            "vanish": 0.1,
        },
    ),
    "changes": Options(changes=True, fragmented=2),
    "noise": Options(packets=60, noise=20),
    "unsorted": Options(unsorted=True, noise=5),
    "capture-drops-in-the-middle": Options(capture_drops={"punt": 0.1}, loss={("ingress", 2): 0.1}),
    "capture-drops-at-the-end": Options(capture_drops={"vnic": 0.1}, drops_told_by="packets"),
    "capture-drops-at-the-start": Options(capture_drops={"uplink": 0.1}, drops_told_by="log"),
    "capture-drops-everywhere": Options(
        packets=200, capture_drops=dict.fromkeys(EVERY_POINT, 0.2), loss={("ingress", 2): 0.1}
    ),
    "snaplen": Options(snaplen={"punt": 80}),
    "snaplen-headers-only": Options(snaplen={"return": 76, "vnic": 80}),
    "silent-point": Options(silent=("punt",), statistics=False),
    "silent-point-that-covered": Options(silent=("punt",)),
    "silent-end": Options(silent=("vnic",), statistics=False),
    "clock-offset": Options(
        clock_offsets={"vnic": -37 * SECOND - 123_457}, loss={("ingress", 3): 0.1, ("ingress", 4): 0.1}
    ),
    "clock-offset-one-way": Options(
        only_path="ingress",
        clock_offsets={"return": 9 * SECOND, "vnic": -SECOND // 3},
        loss={("ingress", 2): 0.1},
        identical=20,
        identical_lost={("ingress", 3): 2},
    ),
    "two-clock-offsets": Options(
        clock_offsets={"vnic": 5 * SECOND + 11, "punt": -3 * SECOND}, loss={("ingress", 2): 0.1}, changes=True
    ),
    "starts-late-first": Options(starts_late={"uplink": 130 * MILLISECOND}),
    "starts-late-middle": Options(
        starts_late={"punt": 130 * MILLISECOND}, loss={("ingress", 2): 0.2, ("ingress", 1): 0.2}
    ),
    "starts-late-last": Options(starts_late={"vnic": 130 * MILLISECOND}),
    "starts-late-all": Options(
        starts_late={"uplink": 150 * MILLISECOND, "switchport": 140 * MILLISECOND, "punt": 130 * MILLISECOND}
    ),
    "ends-early": Options(ends_early={"vnic": 3 * SECOND + 20 * MILLISECOND}),
    "identical-starts-late-first": Options(
        starts_late={"uplink": 1500 * MILLISECOND}, identical=40, identical_lost={("ingress", 2): 2}
    ),
    "identical-starts-late-middle": Options(
        starts_late={"return": 1500 * MILLISECOND}, identical=40, identical_lost={("ingress", 3): 2}
    ),
    "identical-ends-early": Options(ends_early={"punt": 2 * SECOND}, identical=40, identical_lost={("ingress", 3): 2}),
    "identical-silent-point": Options(silent=("return",), identical=20, identical_lost={("ingress", 2): 1}),
    "identical-silent-point-no-statistics": Options(silent=("punt",), identical=20, statistics=False),
    "ends-early-middle": Options(ends_early={"punt": 3 * SECOND + 20 * MILLISECOND}, loss={("ingress", 2): 0.2}),
    "short-tail-nothing-certain": Options(tail_ns=SECOND, loss={("ingress", 2): 1.0}),
    "short-tail": Options(tail_ns=200_000, loss={("ingress", 3): 0.3, ("ingress", 2): 0.3, ("egress", 0): 0.3}),
    "no-statistics": Options(statistics=False, loss={("ingress", 3): 0.2, ("ingress", 2): 0.2}),
    "no-statistics-but-window": Options(statistics=False, window=True, loss={("ingress", 3): 0.2}),
    "pcap-nanoseconds": Options(format="pcap", window=True, loss={("ingress", 3): 0.1}),
    "pcap-microseconds-big-endian": Options(format="pcap", order=">", tsresol=6, window=True),
    "pcapng-big-endian-binary-time": Options(order=">", tsresol=0x80 | 34, tsoffset=1_000_000_000),
}
