"""Packets that were made to look like others to a hash without a key, and results that do not depend on the key."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fixtures.scenarios import generate_scenario
from fixtures.scenarios.catalogue import SCENARIOS
from pktrace.analysis.analysis import Analysis, analyze_run
from pktrace.analysis.tables import trajectories_table
from pktrace.decode import identity
from pktrace.decode.digest import PAYLOAD_BYTES, content_of
from pktrace.decode.identity import group_numbers, groups_of, mixed, secret
from pktrace.observations.observe import observe_run
from pktrace.observations.table import observations_table
from pktrace.run.runfile import load_run
from tests.kit import forged_runs, forgery
from tests.kit.packets import Header, frame
from tests.kit.pcap_files import Record
from tests.test_named_cases import START, S, analyzed, file_of

CHECKOUT = Path(__file__).resolve().parents[1]
KEYS = (1, 2, 3)
# Each matcher that sorts or numbers groups of equal hashes.
SENSITIVE = (
    "nat-source", "nat-many-to-one-new-ip-id", "nat-identical", "double-nat", "nat-both-sides", "tcp-renumbered",
    "payload-changed-some", "two-flows-one-content", "identical-udp-fast", "tso-then-gro",
    "udp-gso-nat-loss-duplication-reordering", "udp-gro-loss-reordering",
    "nat-fragmentation-loss-duplication-reordering", "packet-id-sessions",
)  # fmt: skip


@pytest.fixture
def another_key() -> Iterator[Callable[[int], None]]:
    """A function that sets the key; the key of the process is back afterwards."""
    before = secret().copy()
    yield identity._use_key_of
    secret()[:] = before


@pytest.mark.parametrize("number", range(len(forged_runs.SHAPES)))
def test_a_packet_with_the_digest_of_a_lost_one(tmp_path: Path, number: int) -> None:
    """Equal digests were one packet, "exact, 1 candidate": that addresses and bytes were others did not matter."""
    assert forged_runs.forged_digest(tmp_path, number) is None


def test_a_correct_drop_is_no_violation(tmp_path: Path) -> None:
    """A dropped packet was "seen" behind the filter when another host sent one with its digest."""
    assert forged_runs.forged_violation(tmp_path, 0) is None


@pytest.mark.parametrize("number", range(4))
def test_other_payloads_of_one_hash_are_no_translation(tmp_path: Path, number: int) -> None:
    """A flow was taken for the translated form of another whose payloads only had the same hashes."""
    assert forged_runs.forged_content(tmp_path, number) is None


def test_two_flows_of_one_hash(tmp_path: Path) -> None:
    """Two hosts were one flow if the lower half of an IPv6 address was chosen for it."""
    assert forged_runs.forged_flow(tmp_path, 0) is None


def test_a_header_of_one_hash_does_not_shorten_what_is_compared(tmp_path: Path) -> None:
    """A cut packet took the payload out of the digests of packets whose network header has the same hash."""
    assert forged_runs.forged_header(tmp_path, 0) is None


def test_the_exported_digest_is_what_it_was(tmp_path: Path) -> None:
    """It is public, and the same in every process."""
    payload = bytes(range(PAYLOAD_BYTES))
    data = frame(Header("10.0.0.1", "10.0.0.2", 17, payload, sport=1000, dport=2000, ip_id=77))
    analysis = analyzed(tmp_path, {name: file_of([Record(START + S, data)]) for name in ("a", "b")})
    wanted = forgery.udp_digest(0x0A000001, 0x0A000002, 4, 77, 1000, 2000, payload)
    observations = analysis.trajectories.observations
    assert observations_table(observations)["digest"].to_pylist() == [wanted, wanted] == [0xE8B2CAE7284B098A] * 2
    assert not (observations.rows["identity"] == wanted).any()


def test_hashes_have_a_key_and_are_the_same_uncompiled() -> None:
    told = (
        "import numpy as np; from pktrace.decode import identity as i; from pktrace.decode.digest import content_of; "
        "i._use_key_of(7); data = np.arange(80, dtype=np.uint8); "
        "print([int(content_of(data, np.int64(n), i.secret())) for n in range(65)])"
    )
    here = {}
    for setting in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", told], cwd=CHECKOUT, capture_output=True, text=True, check=True,
            env={**os.environ, "NUMBA_DISABLE_JIT": setting},
        )  # fmt: skip
        here[setting] = eval(run.stdout)
    assert here["0"] == here["1"]
    assert len(set(here["0"])) == 65


def test_two_processes_have_two_keys() -> None:
    told = "from pktrace.decode.identity import secret; print(secret().tobytes().hex())"
    keys = {
        subprocess.run([sys.executable, "-c", told], cwd=CHECKOUT, capture_output=True, check=True).stdout
        for _ in range(2)
    }
    assert len(keys) == 2


def test_columns_of_other_types_have_one_hash(another_key: Callable[[int], None]) -> None:
    values = np.array([0, 1, 65535, 7], np.uint16)
    assert (mixed(values, values) == mixed(values.astype(np.int64), values.astype(np.uint64))).all()
    before = mixed(values)
    assert (mixed(values, values)[1:] != mixed(values)[1:]).all()
    another_key(99)
    assert (mixed(values)[1:] != before[1:]).all()


def test_groups_are_numbered_as_they_come_first(another_key: Callable[[int], None]) -> None:
    values = np.random.default_rng(1).integers(0, 50, 500)
    for key in KEYS:
        another_key(key)
        first, number = groups_of(mixed(values))
        assert (np.diff(first) > 0).all()
        assert (values[first][number] == values).all()
        assert (group_numbers(values, values) == number).all()


def test_content_depends_on_every_byte_and_on_how_many() -> None:
    data = np.zeros(PAYLOAD_BYTES + 8, np.uint8)
    found = {int(content_of(data, np.int64(size), secret())) for size in range(PAYLOAD_BYTES + 1)}
    for place in range(PAYLOAD_BYTES):
        changed = data.copy()
        changed[place] = 1
        found.add(int(content_of(changed, np.int64(PAYLOAD_BYTES), secret())))
    assert len(found) == 2 * PAYLOAD_BYTES + 1


def _told(analysis: Analysis) -> str:
    state = hashlib.sha256()
    followed = analysis.trajectories
    for table in (trajectories_table(analysis), observations_table(followed.observations, followed.owner)):
        for column in table.columns:
            state.update(repr(column.to_pylist()).encode())
    state.update(repr(analysis.transforms.table).encode())
    return state.hexdigest()


@pytest.mark.parametrize("name", SENSITIVE)
def test_results_do_not_depend_on_the_key(tmp_path: Path, name: str, another_key: Callable[[int], None]) -> None:
    """Groups of equal hashes were walked in the order of the hashes, which is another with each key."""
    folder = tmp_path / name
    generate_scenario(name, folder, packets=SCENARIOS[name].small)
    found = set()
    for key in KEYS:
        another_key(key)
        found.add(_told(analyze_run(load_run(folder))))
    assert len(found) == 1


def test_the_sample_of_init_does_not_depend_on_the_key(tmp_path: Path, another_key: Callable[[int], None]) -> None:
    from pktrace.init.samples import read_samples

    folder = tmp_path / "plain"
    generate_scenario("plain", folder, packets=SCENARIOS["plain"].small)
    paths = [str(path) for path in sorted(folder.glob("captures/*.pcapng"))]
    found = set()
    for key in KEYS:
        another_key(key)
        samples, every = read_samples(paths, most=500)
        found.add((every, *(sample.rows["frame"].tobytes() for sample in samples)))
    assert len(found) == 1


def test_nothing_is_followed_by_the_digest() -> None:
    """It is written into tables, and anybody can make it up: matching and findings read `identity`."""
    for layer in ("trajectories", "findings", "verdicts", "latency", "rules"):
        for file in sorted((CHECKOUT / "pktrace" / layer).glob("*.py")):
            assert '["digest"]' not in file.read_text(), file


def test_observations_of_one_process_have_one_key(tmp_path: Path) -> None:
    generate_scenario("plain", tmp_path / "run", packets=SCENARIOS["plain"].small)
    rows = [observe_run(load_run(tmp_path / "run")).rows for _ in range(2)]
    assert (rows[0]["identity"] == rows[1]["identity"]).all()


def test_packets_that_every_sample_takes(tmp_path: Path) -> None:
    """A packet id whose hash is 0 was in each sample, however thin: with too many of them there was no end."""
    from pktrace.init.samples import read_samples

    always = (1 << 64) - 0x9E3779B97F4A7C15
    data = frame(Header("10.0.0.1", "10.0.0.2", 17, b"again", sport=1, dport=2))
    records = [Record(START + number, data, packet_id=always) for number in range(100)]
    (tmp_path / "a.pcapng").write_bytes(file_of(records))
    samples, _ = read_samples([str(tmp_path / "a.pcapng")], most=50)
    assert len(samples[0].rows) == 50
