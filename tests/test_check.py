"""`pktrace check`: what a run can show, on captures whose truth is known because they are made here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pktrace.check.answers import Answer, answers_of, check_outcome, findings_of
from pktrace.check.capture_strip import strip, window_strip
from pktrace.check.facts import Suitability, suitability_of
from pktrace.check.finding import Finding, duration
from pktrace.check.silences import Pause
from pktrace.observations.observe import observe_run
from pktrace.run.runfile import load_run
from tests.conftest import SERVICE_CHAIN, CommandLine
from tests.kit.packets import TCP, UDP, Header, arp_request, frame
from tests.kit.pcap_files import Interface, Record, Section, Statistics, pcap_bytes, pcapng_bytes
from tests.kit.scenario import generate
from tests.kit.truth import BEGIN_NS, MILLISECOND, SECOND, Options

SENDER, RECEIVER = "10.0.0.1", "10.0.0.2"


@dataclass(frozen=True)
class Checked:
    """What the functions say of a run."""

    facts: Suitability
    findings: tuple[Finding, ...]
    answers: dict[str, Answer]
    exit_code: int

    def said(self, *words: str) -> list[Finding]:
        """Findings whose sentence has all the words."""
        return [finding for finding in self.findings if all(word in finding.sentence for word in words)]

    @property
    def verdict(self) -> tuple[str, ...]:
        return tuple(answer.answer for answer in self.answers.values())


def checked(folder: Path) -> Checked:
    facts = suitability_of(observe_run(load_run(folder)))
    findings = findings_of(facts)
    answers = answers_of(facts, findings)
    return Checked(facts, findings, {answer.question: answer for answer in answers}, check_outcome(facts, answers).code)


def numbered(count: int, gap_ns: int = MILLISECOND, **header: object) -> list[Record]:
    """Datagrams that all differ; `payload` is a format for their number."""
    plain = Header(SENDER, RECEIVER, UDP, sport=1000, dport=2000)
    payload = header.pop("payload", b"%08d")
    assert isinstance(payload, bytes)
    return [
        Record(
            BEGIN_NS + number * gap_ns,
            frame(replace(plain, ip_id=number + 1, payload=payload % number, **header)),  # type: ignore[arg-type]
        )
        for number in range(count)
    ]


def later(records: Sequence[Record], delay_ns: int = 20_000) -> list[Record]:
    return [replace(record, ts_ns=record.ts_ns + delay_ns) for record in records]


def capture(records: Sequence[Record], dropped: int | None = 0, span: tuple[int, int] | None = None) -> bytes:
    """A pcapng file that says when it ran (by default 1 ms around its packets) and what it dropped."""
    records = sorted(records, key=lambda record: record.ts_ns)
    if span is None and records:
        span = records[0].ts_ns - MILLISECOND, records[-1].ts_ns + MILLISECOND
    start, end = span or (None, None)
    statistics = Statistics(ts_ns=end or 0, start_ns=start, end_ns=end, received=len(records), dropped=dropped)
    return pcapng_bytes(Section([Interface(name="eth0")], records, [statistics]))


def a_run(folder: Path, captures: dict[str, bytes], clocks: dict[str, str] | None = None, path: str = "") -> Path:
    """A run whose one path goes over all points in the given order."""
    (folder / "captures").mkdir(parents=True)
    text = 'schema = 1\nname = "made"\n'
    for name, content in captures.items():
        (folder / "captures" / f"{name}.pcapng").write_bytes(content)
        text += f'[[point]]\nname = "{name}"\ncaptures = ["captures/{name}.pcapng"]\n'
        text += f'clock = "{clocks[name]}"\n' if clocks else ""
    text += path or f'[[path]]\nname = "there"\npoints = {json.dumps(list(captures))}\n'
    (folder / "run.toml").write_text(text)
    return folder


RULES = '[[rule]]\nid = "r"\npath = "there"\nprotocol = "udp"\naction = "forward"\n'
THERE = '[[path]]\nname = "there"\npoints = ["a", "b"]\n'


# --- the whole --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 200])
def test_the_recorded_run_can_answer_everything(pktrace: CommandLine, columns: int) -> None:
    told = pktrace("check", SERVICE_CHAIN, COLUMNS=str(columns))
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[-1].strip() == "Can answer  latency: yes   losses: yes   rules: yes"
    assert max(map(len, lines)) <= columns
    for point in ("uplink", "switchport", "punt", "return", "vnic", "vnic3"):
        assert sum(line.startswith(f"{point} ") for line in lines) == 3  # points, coverage, frames


def test_json_says_the_same_as_the_functions(pktrace: CommandLine) -> None:
    told = pktrace("check", SERVICE_CHAIN, "--json")
    document = json.loads(told.stdout)
    found = checked(SERVICE_CHAIN)
    assert document["exit_code"] == told.returncode == found.exit_code == 0
    assert [entry["sentence"] for entry in document["findings"]] == [finding.sentence for finding in found.findings]
    assert {name: entry["answer"] for name, entry in document["answers"].items()} == dict.fromkeys(
        ("latency", "losses", "rules"), "yes"
    )
    assert document["points"]["uplink"]["packets"] == 2652
    assert document["points"]["uplink"]["cut_by_snap_length"] > 0
    assert document["paths"]["ingress"]["stages"][0]["share"] == 1.0


def test_a_clean_run_has_no_findings(tmp_path: Path) -> None:
    records = numbered(200)
    captures = {"a": capture(records), "b": capture(later(records))}
    found = checked(a_run(tmp_path / "run", captures, path=THERE + RULES))
    assert found.verdict == ("yes", "yes", "yes")
    assert not found.findings
    (path,) = found.facts.paths
    assert (path.packets, path.by_order) == (200, 0)
    assert (path.stages[0].both, path.stages[0].median_ns, path.stages[0].backwards) == (200, 20_000, 0)


def test_every_finding_that_limits_is_named_by_the_answer_it_limits(tmp_path: Path) -> None:
    generate(Options(seed=3, capture_drops={"punt": 0.1}, clock_offsets={"vnic": SECOND}), tmp_path / "run")
    found = checked(tmp_path / "run")
    for question, answer in found.answers.items():
        assert (answer.answer == "yes") == (not answer.findings)
        for place in answer.findings:
            assert question in dict(found.findings[place].limits)
    ranks = [finding.rank for finding in found.findings]
    assert ranks == sorted(ranks, reverse=True)


# --- small and broken runs --------------------------------------------------------------------------------------


def test_empty_captures_answer_nothing(tmp_path: Path, pktrace: CommandLine) -> None:
    empty = capture([], span=(BEGIN_NS, BEGIN_NS + SECOND))
    told = pktrace("check", a_run(tmp_path / "run", {"a": empty, "b": empty}))
    assert told.returncode == 0
    assert "the captures hold none" in told.stdout
    assert "latency: no" in told.stdout


def test_no_statistics_and_no_packets(tmp_path: Path) -> None:
    nothing = pcap_bytes([])
    found = checked(a_run(tmp_path / "run", {"a": nothing, "b": nothing}))
    assert found.verdict == ("no", "no", "no")


def test_one_packet_is_enough_to_ask(tmp_path: Path, pktrace: CommandLine) -> None:
    one = numbered(1)
    told = pktrace("check", a_run(tmp_path / "run", {"a": capture(one), "b": capture(later(one))}))
    assert told.returncode == 0, told.stderr
    assert "latency: yes   losses: yes   rules: no" in told.stdout


def test_a_run_without_paths_answers_nothing_and_shows_its_points(tmp_path: Path, pktrace: CommandLine) -> None:
    run = a_run(tmp_path / "run", {"a": capture(numbered(30))}, path="\n")
    told = pktrace("check", run)
    assert told.returncode == 3
    assert "run.toml has no [[path]]" in told.stdout
    assert "10.0.0.1" in told.stdout


def test_a_path_whose_match_fits_nothing(tmp_path: Path) -> None:
    captures = {"a": capture(numbered(30)), "b": capture(later(numbered(30)))}
    found = checked(a_run(tmp_path / "run", captures, path=f'{THERE}match = {{ destination = "192.0.2.9" }}\n'))
    assert found.said("No path has packets", "`match`")
    assert found.exit_code == 3


def test_a_damaged_file_is_exit_code_3(tmp_path: Path, pktrace: CommandLine) -> None:
    records = numbered(100)
    run = a_run(tmp_path / "run", {"a": capture(records), "b": capture(later(records))[:-150]})
    told = pktrace("check", run)
    assert told.returncode == 3
    assert "b: captures/b.pcapng ends in the middle of a packet" in " ".join(told.stdout.split())
    assert checked(run).verdict[1] == "partly"


def test_a_run_that_is_none_is_exit_code_2(tmp_path: Path, pktrace: CommandLine) -> None:
    assert pktrace("check", tmp_path).returncode == 2
    run = a_run(tmp_path / "run", {"a": b"no capture at all"}, path="\n")
    assert pktrace("check", run).returncode == 2


def test_names_from_outside_cannot_steer_the_terminal(tmp_path: Path, pktrace: CommandLine) -> None:
    run = a_run(tmp_path / "run", {"a": capture(numbered(30)), "b": capture(numbered(30))})
    evil = "captures/\x1b]0;owned\x07.pcapng"
    (run / evil).write_bytes(capture(numbered(30))[:-100])
    text = (run / "run.toml").read_text()
    (run / "run.toml").write_text(text.replace('"captures/b.pcapng"', '"captures/*owned*"'))
    told = pktrace("check", run)
    assert told.returncode == 3
    assert "owned" in told.stdout
    assert "\x1b" not in told.stdout
    assert "\x07" not in told.stdout


# --- what the captures say of themselves ------------------------------------------------------------------------


def test_drops_are_told_by_number_and_unknown_is_not_zero(tmp_path: Path) -> None:
    records = numbered(100)
    captures = {"a": capture(records, dropped=None), "b": capture(later(records), dropped=25)}
    found = checked(a_run(tmp_path / "run", captures))
    assert [point.cover.dropped for point in found.facts.points] == [None, 25]
    assert found.said("b dropped 25 packets (20.0 %)")
    assert found.said("a does not say")
    assert found.verdict[:2] == ("yes", "partly")


@pytest.mark.parametrize("seed", range(4))
def test_drops_of_generated_runs_are_those_that_were_made(tmp_path: Path, seed: int) -> None:
    truth = generate(Options(seed=seed, capture_drops={"punt": 0.2, "vnic": 0.05}, noise=3), tmp_path / "run")
    found = checked(tmp_path / "run")
    assert {point.name: point.cover.dropped for point in found.facts.points} == truth.dropped_by_capture
    assert all(point.not_ip >= 1 for point in found.facts.points)
    for name, dropped in truth.dropped_by_capture.items():
        assert bool(found.said(f"{name} dropped {dropped:,} packet")) == bool(dropped)


def test_packets_that_were_seen_before_and_after_a_point_were_missed_there(tmp_path: Path) -> None:
    records = numbered(100)
    middle = later([record for number, record in enumerate(records) if number % 10 != 5])
    captures = {"a": capture(records), "b": capture(middle), "c": capture(later(records, 40_000))}
    found = checked(a_run(tmp_path / "run", captures))
    assert [point.missed for point in found.facts.points] == [0, 10, 0]
    assert found.said("b missed 10 packets")


def test_what_frames_are_is_counted(tmp_path: Path) -> None:
    big = Record(BEGIN_NS + SECOND, frame(Header(SENDER, RECEIVER, TCP, bytes(3000), sport=1, dport=2)))
    arp = Record(BEGIN_NS + 2 * SECOND, arp_request())
    six = Record(BEGIN_NS + 3 * SECOND, frame(Header("fd00::1", "fd00::2", UDP, b"six", sport=1, dport=2)))
    records = [*numbered(10), big, arp, six]
    whole = capture(records)
    cut = pcapng_bytes(Section([Interface(name="eth0", snaplen=96)], later(records)))
    found = checked(a_run(tmp_path / "run", {"a": whole, "b": cut}))
    a, b = found.facts.points
    assert (a.superpackets, a.not_ip, a.without_id, a.snapped) == (1, 1, 1, 0)
    assert (b.snapped, b.cover.snap_length, b.cover.link_types) == (1, 96, (1,))
    assert found.said("Frames longer than 1,522 bytes at a (1) and b (1)")


def test_superpackets_on_one_side_only_are_split_in_between(tmp_path: Path) -> None:
    records = numbered(50)
    segments = [
        Record(
            BEGIN_NS + SECOND + part,
            frame(Header(SENDER, RECEIVER, TCP, bytes(1448), sport=1, dport=2, seq=1448 * part)),
        )
        for part in range(3)
    ]
    whole = Record(BEGIN_NS + SECOND, frame(Header(SENDER, RECEIVER, TCP, bytes(3 * 1448), sport=1, dport=2)))
    captures = {"a": capture([*records, whole]), "b": capture(later([*records, *segments]))}
    found = checked(a_run(tmp_path / "run", captures))
    (finding,) = found.said("at a (1), and none at b", "followed by their bytes")
    assert not finding.limits
    assert found.verdict[:2] == ("yes", "yes")


def test_superpackets_that_cannot_be_followed_limit_everything(tmp_path: Path) -> None:
    """The other side has packets of another connection."""
    plain = Header(SENDER, RECEIVER, TCP, bytes(3000), sport=1, dport=2)
    whole = [Record(BEGIN_NS + n * SECOND, frame(replace(plain, seq=3000 * n))) for n in range(20)]
    captures = {"a": capture(whole), "b": capture(later(numbered(60, gap_ns=500 * MILLISECOND)))}
    found = checked(a_run(tmp_path / "run", captures))
    assert found.said("a and b share no packet")
    assert found.verdict[:2] == ("no", "no")


# --- time -------------------------------------------------------------------------------------------------------


def test_captures_at_different_times_answer_nothing(tmp_path: Path) -> None:
    again = later(numbered(50, gap_ns=15 * MILLISECOND), 10 * SECOND)
    found = checked(a_run(tmp_path / "run", {"a": capture(numbered(50)), "b": capture(again)}))
    assert found.said("a and b were not captured at the same time")
    assert found.verdict[:2] == ("no", "no")
    assert found.exit_code == 3


def test_a_constant_difference_of_ten_seconds_is_one_of_clocks(tmp_path: Path) -> None:
    """'a and b were not captured at the same time': each packet of a was in b, just 10.00002 s later."""
    captures = {"a": capture(numbered(50)), "b": capture(later(numbered(50), 10 * SECOND + 20_000))}
    found = checked(a_run(tmp_path / "run", captures))
    assert found.said("All packets take equally long, and longer than the loss threshold")
    assert not found.said("a and b were not captured at the same time")
    assert found.verdict[0] == "no"


def test_a_capture_that_began_late_limits_losses(tmp_path: Path) -> None:
    records = numbered(400, gap_ns=10 * MILLISECOND)
    captures = {"a": capture(records), "b": capture(later(records[200:]))}
    found = checked(a_run(tmp_path / "run", captures))
    assert found.said("while not all points of their path captured: 200 of 400 on path there")
    assert found.facts.paths[0].stages[0].share == 1.0
    assert found.verdict[:2] == ("yes", "partly")


def test_a_point_that_is_silent_while_its_neighbour_is_not(tmp_path: Path) -> None:
    records = numbered(3000)
    deaf = [record for number, record in enumerate(records) if not 1000 <= number < 1500]
    found = checked(a_run(tmp_path / "run", {"a": capture(records), "b": capture(later(deaf))}))
    a, b = found.facts.points
    assert not a.pauses
    (pause,) = b.pauses
    assert pause.end_ns - pause.start_ns == 501 * MILLISECOND
    assert 495 <= pause.expected <= 505
    assert found.said("b saw nothing for 501 ms")
    assert found.verdict[:2] == ("yes", "partly")


def test_a_pause_of_the_traffic_accuses_no_point(tmp_path: Path) -> None:
    records = [record for number, record in enumerate(numbered(3000)) if not 1000 <= number < 1500]
    found = checked(a_run(tmp_path / "run", {"a": capture(records), "b": capture(later(records))}))
    assert [len(point.pauses) for point in found.facts.points] == [1, 1]
    assert [point.pauses[0].expected for point in found.facts.points] == [1, 1]  # the one that ends it
    assert not found.said("saw nothing")


@pytest.mark.parametrize("offset", [250 * MILLISECOND, -3 * SECOND])
def test_the_offset_of_another_clock_is_estimated_and_latency_refused(tmp_path: Path, offset: int) -> None:
    records = numbered(200)
    captures = {"a": capture(records), "b": capture(later(records, offset))}
    found = checked(a_run(tmp_path / "run", captures, clocks={"a": "here", "b": "there"}))
    assert found.facts.points[1].offset_ns == offset
    assert found.facts.points[1].clock_known
    assert found.said("Different clocks", f"a and b ({duration(offset)})")
    assert found.verdict[:2] == ("no", "yes")
    assert found.facts.paths[0].stages[0].both == 200


def test_a_clock_that_cannot_be_told_prevents_losses_too(tmp_path: Path) -> None:
    other = numbered(200, dport=9, payload=b"other %08d")  # with equal payloads it would be the same flow, rewritten
    captures = {"a": capture(numbered(200)), "b": capture(later(other, 5 * SECOND))}
    found = checked(a_run(tmp_path / "run", captures, clocks={"a": "here", "b": "there"}))
    assert not found.facts.points[1].clock_known
    assert found.said("a and b have different clocks, and too few packets")
    assert found.verdict[:2] == ("no", "no")


def test_points_in_the_wrong_order_are_noticed(tmp_path: Path) -> None:
    records = numbered(200)
    found = checked(a_run(tmp_path / "run", {"a": capture(later(records)), "b": capture(records)}))
    stage = found.facts.paths[0].stages[0]
    assert (stage.certain, stage.same_clock) == (200, False)
    (finding,) = found.said("b before a on path there (median -20 µs)", "order of the points is wrong")
    assert "swap" in finding.fix
    assert found.verdict[0] == "no"


def test_points_in_the_wrong_order_make_losses_doubtful(tmp_path: Path) -> None:
    """60 packets that were lost between a and b, given as b and a, became none, and all rules were verified."""
    records = numbered(200)
    found = checked(a_run(tmp_path / "run", {"a": capture(later(records[:140])), "b": capture(records)}))
    assert found.said("Points stand in the wrong order", "b before a")
    assert found.verdict == ("no", "no", "no")


def test_both_directions_on_one_path_are_noticed(tmp_path: Path) -> None:
    there = numbered(100)
    back = numbered(100, source=RECEIVER, destination=SENDER)
    captures = {"a": capture([*there, *later(back)]), "b": capture([*later(there), *back])}
    found = checked(a_run(tmp_path / "run", captures))
    (finding,) = found.said("100 of 200 packets", "both directions")
    assert "match" in finding.fix


# --- recognising packets ----------------------------------------------------------------------------------------


def test_points_that_share_nothing_are_noticed(tmp_path: Path) -> None:
    sealed = later(numbered(100, source="192.0.2.7", payload=b"sealed %08d"))
    captures = {"a": capture(numbered(100)), "b": capture(sealed)}
    found = checked(a_run(tmp_path / "run", captures))
    assert found.facts.paths[0].stages[0].share == 0
    assert found.said("a and b share no packet on path there (100 and 100)")
    assert found.verdict[:2] == ("no", "no")


def test_one_opaque_stage_leaves_the_others(tmp_path: Path) -> None:
    records, sealed = numbered(100), numbered(100, source="192.0.2.7", payload=b"sealed %08d")
    captures = {"a": capture(records), "b": capture(later(records)), "c": capture(later(sealed, 40_000))}
    found = checked(a_run(tmp_path / "run", captures))
    assert found.said("b and c share no packet")
    assert found.verdict[:2] == ("partly", "partly")
    assert found.exit_code == 0


@pytest.mark.parametrize(
    "path", ["", '[[path]]\nname = "there"\npoints = ["a", "b"]\nmatch = { source = "10.0.0.0/8" }\n']
)
def test_translated_packets_are_followed_all_the_same(tmp_path: Path, path: str) -> None:
    """It was said that everything would look lost there, while the analysis follows all of them."""
    captures = {"a": capture(numbered(100)), "b": capture(later(numbered(100, source="192.0.2.7")[::2]))}
    found = checked(a_run(tmp_path / "run", captures, path=path))
    stage = found.facts.paths[0].stages[0]
    assert (stage.both, stage.entered, stage.followed, stage.changed, stage.median_ns) == (0, 100, 50, 50, 20_000)
    (finding,) = found.said("on path there are rewritten, split or merged between a and b (50 of 100 packets followed)")
    assert not finding.limits
    assert not found.said("share no packet")
    assert found.verdict[:2] == ("yes", "yes")


def test_losses_do_not_lower_the_share(tmp_path: Path) -> None:
    records = numbered(100)
    found = checked(a_run(tmp_path / "run", {"a": capture(records), "b": capture(later(records[::3]))}))
    assert found.facts.paths[0].stages[0].share == 1.0
    assert not found.said("share")


def test_equal_packets_are_counted_by_path_and_point(tmp_path: Path) -> None:
    same = Header(SENDER, RECEIVER, UDP, b"all the same", sport=5, dport=6)
    equal = [Record(BEGIN_NS + SECOND + number * MILLISECOND, frame(same)) for number in range(40)]
    records = [*numbered(60), *equal]
    found = checked(a_run(tmp_path / "run", {"a": capture(records), "b": capture(later(records))}))
    assert [(point.repeats, point.alike) for point in found.facts.points] == [(39, 40), (39, 40)]
    assert (found.facts.paths[0].packets, found.facts.paths[0].by_order) == (100, 40)
    assert found.facts.digests == 61
    assert found.said("40 of 100 on path there")
    assert not found.said("sees packets twice")
    assert found.verdict[0] == "partly"


def test_equal_packets_further_apart_than_the_loss_threshold_are_told_apart(tmp_path: Path) -> None:
    same = Header(SENDER, RECEIVER, UDP, b"all the same", sport=5, dport=6)
    records = [Record(BEGIN_NS + number * 3 * SECOND, frame(same)) for number in range(5)]
    found = checked(a_run(tmp_path / "run", {"a": capture(records), "b": capture(later(records))}))
    assert [point.repeats for point in found.facts.points] == [0, 0]


def test_a_capture_that_sees_packets_twice_is_noticed(tmp_path: Path) -> None:
    records = numbered(100)
    twice = [*later(records), *later(records, 25_000)]
    found = checked(a_run(tmp_path / "run", {"a": capture(records), "b": capture(twice)}))
    b = found.facts.points[1]
    assert (b.repeats, b.repeat_ns, b.alike) == (100, 5_000, 200)
    (finding,) = found.said("b holds 100 packets (50.0 %) again, typically 5 µs later")
    assert "-i any" in finding.fix


def test_a_point_that_the_path_visits_twice_sees_each_packet_twice(tmp_path: Path) -> None:
    records = numbered(100)
    captures = {"a": capture([*records, *later(records, 60_000)]), "b": capture(later(records))}
    path = '[[path]]\nname = "there"\npoints = ["a", "b", "a"]\n'
    found = checked(a_run(tmp_path / "run", captures, path=path))
    assert [point.repeats for point in found.facts.points] == [0, 0]
    there, back = found.facts.paths[0].stages
    assert (there.median_ns, back.median_ns, back.certain) == (20_000, 40_000, 100)
    assert found.verdict[:2] == ("yes", "yes")


def test_the_bypass_counts_only_what_was_not_punted(tmp_path: Path) -> None:
    generate(Options(seed=5, packets=300), tmp_path / "run")
    found = checked(tmp_path / "run")
    for path in found.facts.paths:
        for stage in path.stages:
            if min(stage.at_from, stage.at_to):
                assert stage.share is not None
                assert stage.share > 0.9, stage
    assert not found.said("share")


# --- IP identification ------------------------------------------------------------------------------------------


def counter(start: int) -> Callable[[], int]:
    state = [start]

    def following() -> int:
        state[0] = (state[0] + 1) & 0xFFFF
        return state[0]

    return following


def identified(behaviour: str) -> list[int]:
    """IP IDs of 400 packets, round robin over four flows."""
    rng = random.Random(7)
    shared, own = counter(65_400), [counter(rng.randrange(1, 65536)) for _ in range(4)]
    kinds: dict[str, Callable[[int], int]] = {
        "zero": lambda number: 0,
        "constant": lambda number: 4711,
        "shared counter": lambda number: shared(),
        "flow counter": lambda number: own[number % 4](),
        "random": lambda number: rng.randrange(1, 65536),
        "mixed": lambda number: own[0]() if number % 2 else 0,
    }
    return [kinds[behaviour](number) for number in range(400)]


def sent(ids: Sequence[int], flows: int = 4, gap_ns: int = MILLISECOND) -> list[Record]:
    return [
        Record(
            BEGIN_NS + number * gap_ns,
            frame(Header(SENDER, RECEIVER, UDP, b"%08d" % number, sport=1000 + number % flows, dport=7, ip_id=ip_id)),
        )
        for number, ip_id in enumerate(ids)
    ]


@pytest.mark.parametrize("behaviour", ["zero", "constant", "shared counter", "flow counter", "random", "mixed"])
def test_how_a_sender_numbers_its_packets(tmp_path: Path, behaviour: str) -> None:
    records = sent(identified(behaviour))
    found = checked(a_run(tmp_path / "run", {"a": capture(records), "b": capture(later(records[:100]))}))
    (sender,) = found.facts.senders
    assert (sender.behaviour, sender.packets, sender.flows, sender.point) == (behaviour, 400, 4, 0)


def test_one_flow_does_not_tell_whose_counter_it_is(tmp_path: Path) -> None:
    records = sent([number + 1 for number in range(100)], flows=1)
    found = checked(a_run(tmp_path / "run", {"a": capture(records), "b": capture(later(records))}))
    assert [sender.behaviour for sender in found.facts.senders] == ["counter"]


def test_a_counter_survives_reordering_retransmissions_and_answers_without_id(tmp_path: Path) -> None:
    ids = [number + 1 for number in range(400)]
    for number in range(0, 390, 40):
        ids[number], ids[number + 4] = ids[number + 4], ids[number]
    ids[::50] = [0] * len(ids[::50])
    found = checked(a_run(tmp_path / "run", {"a": capture(sent(ids)), "b": capture(later(sent(ids)))}))
    (sender,) = found.facts.senders
    assert (sender.behaviour, sender.zero) == ("shared counter", 8)


def test_senders_with_few_packets_and_ipv6_are_not_judged(tmp_path: Path) -> None:
    six = numbered(40, source="fd00::1", destination="fd00::2")
    few = numbered(15, source="10.0.0.77")
    found = checked(a_run(tmp_path / "run", {"a": capture([*six, *few]), "b": capture(later([*six, *few]))}))
    assert found.facts.senders == ()
    assert found.facts.points[0].without_id == 40


def test_the_shortest_time_after_which_an_id_comes_again(tmp_path: Path) -> None:
    ids = [1 + number % 50 for number in range(200)]
    found = checked(a_run(tmp_path / "run", {"a": capture(sent(ids)), "b": capture(later(sent(ids)))}))
    (sender,) = found.facts.senders
    assert sender.shortest_repeat_ns == 50 * MILLISECOND
    assert found.said("repeat within the loss threshold", "50 ms")


def test_copies_of_a_packet_are_no_repeated_id(tmp_path: Path) -> None:
    records = numbered(100)
    twice = [*records, *later(records, 3_000)]
    found = checked(a_run(tmp_path / "run", {"a": capture(twice), "b": capture(later(twice))}))
    (sender,) = found.facts.senders
    assert sender.shortest_repeat_ns is None
    assert sender.behaviour == "counter"


# --- display ----------------------------------------------------------------------------------------------------


def test_a_strip_shows_packets_silence_pauses_and_no_capture() -> None:
    times = np.array([20, 21, 22, 23, 30, 80], np.int64)
    pauses = (Pause(31, 49, 1, 0.0), Pause(50, 69, 1, 99.0))
    line = strip(times, (10, 89), pauses, (0, 99), 10, 20)
    assert line == " ·█▄-××·▄ "
    assert window_strip((10, 89), (0, 99), 10) == " ├──────┤"


def test_a_short_pause_that_neighbours_contradict_is_still_marked() -> None:
    times = np.arange(0, 1000, 10, dtype=np.int64)
    assert "×" in strip(times, (0, 999), (Pause(510, 515, 1, 50.0),), (0, 999), 10, 20)


@pytest.mark.parametrize("axis", [(5, 5), (0, 1), (-(1 << 62), 1 << 62)])
def test_a_strip_of_an_instant_and_of_centuries(axis: tuple[int, int]) -> None:
    line = strip(np.array(axis, np.int64), axis, (), axis, 40, 20)
    assert len(line) == 40
    assert line[0] == "█"


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0 ns"), (999, "999 ns"), (12_340, "12.3 µs"), (-5_000, "-5 µs"), (501 * MILLISECOND, "501 ms"),
     (2_000 * SECOND, "2,000 s")],
)  # fmt: skip
def test_durations_have_three_digits_and_a_unit(ns: int, text: str) -> None:
    assert duration(ns) == text
