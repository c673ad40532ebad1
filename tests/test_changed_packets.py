"""The decoder agrees with the reference on packets that were cut or changed: a deterministic sample of them.

All cuts and many more changes were compared once; this keeps a part that runs in seconds.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.kit.pcap_files import Record, pcap_bytes
from tests.kit.samples import GROUPS, Sample
from tests.kit.small_captures import CAPTURES
from tests.reference.observe import observe
from tests.test_decoder import differences, streamed

LIKELY = (0, 1, 2, 4, 5, 6, 17, 41, 47, 51, 58, 60, 0x45, 0x60, 0x80, 0x88, 0xFF)


def cuts(sample: Sample, chance: random.Random) -> list[Sample]:
    """The packet under some shorter snap lengths."""
    wire = len(sample.data) if sample.length is None else sample.length
    ends = chance.sample(range(len(sample.data)), min(12, len(sample.data)))
    return [Sample(sample.data[:end], {}, sample.linktype, wire) for end in ends]


def changes(sample: Sample, chance: random.Random) -> list[Sample]:
    """The packet with one to three bytes changed."""
    changed = []
    for _ in range(20 if sample.data else 0):
        data = bytearray(sample.data)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.choice((*LIKELY, chance.randrange(256)))
        changed.append(Sample(bytes(data), {}, sample.linktype, sample.length))
    return changed


@pytest.mark.parametrize("group", [name for name in CAPTURES if name in GROUPS])
def test_cut_and_changed_packets(group: str, tmp_path: Path) -> None:
    chance = random.Random(group)  # seeded by the name: the same in every run
    samples = [other for sample in GROUPS[group]() for other in cuts(sample, chance) + changes(sample, chance)]
    for linktype in sorted({sample.linktype for sample in samples}):
        chosen = [sample for sample in samples if sample.linktype == linktype]
        records = [Record(number, sample.data, sample.length) for number, sample in enumerate(chosen)]
        data = pcap_bytes(records, linktype=linktype)
        rows, _, _ = streamed(data, tmp_path)
        expected, _, _ = observe(data)
        wrong = [f"{text}: {chosen[int(text.split()[1]) - 1].data.hex()}" for text in differences(rows, expected)]
        assert "\n".join(wrong[:5]) == ""
