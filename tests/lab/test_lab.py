"""The laboratory: up and down, two agents, rules and their faults, services; pings and counters are truth."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from capture_scripts import marks, processes
from capture_scripts.filter_rules import compile_filter, load_rules, parse_rules
from capture_scripts.forwarder.impairment import Impairment
from capture_scripts.processes import LabError
from capture_scripts.quiet import DEADLINE_S, wait_until
from capture_scripts.testbed import report, rule_faults, state, topology
from capture_scripts.testbed.impairments import Impairments, swap_service
from capture_scripts.testbed.topology import AGENT1, AGENT2, CLIENT, PVM1, PVM2, PVM3, Lab
from tests.conftest import ROOT
from tests.lab.conftest import processes_about
from tests.lab.endpoints import FORWARDED, Flow, Tap, answers, inside, needs_lab, numbered

SCRIPT = ROOT / "capture_scripts" / "lab"
RULES = load_rules(topology.DEFAULT_RULES)


def statement(script: str, counter: str) -> list[str]:
    return [line.strip() for line in script.splitlines() if re.search(rf"counter name {counter} ", line)]


@pytest.mark.parametrize(
    ("kind", "rule", "words"),
    [
        ("false-punt", "forward-http-alt", r'dport { 8080 } counter name in1_r12 fwd to "punt1"'),
        ("false-forward", "punt-dns", r'dport { 53 } counter name in1_r8 fwd to "vnic1"'),
        ("missed-drop", "drop-smtp-out", r'dport { 25 } counter name eg1_r1 fwd to "fi1"'),
        ("drops-too-much", "drop-udp-games", r"dport { 6560-6769 } counter name in1_r2 drop"),
        ("drops-too-much", "drop-timestamp-request", r"meta l4proto { 1 } counter name in1_r3 drop"),
    ],
)
def test_a_fault_changes_one_rule(kind: str, rule: str, words: str) -> None:
    right = compile_filter(RULES, AGENT1)
    wrong, concerned, _ = rule_faults.faulty(RULES, kind, AGENT1, rule)
    assert concerned.id == rule
    changed = set(wrong.splitlines()) - set(right.splitlines())
    assert len(changed) == 1
    assert words in changed.pop()


def test_a_shadowed_rule_stands_behind_a_wider_one_and_a_rule_never_reached_behind_the_default() -> None:
    wrong, _, _ = rule_faults.faulty(RULES, "shadowed", AGENT1, "punt-dns")
    (wide,) = statement(wrong, "fault1_shadow")
    assert wide == 'meta l4proto { 17 } counter name fault1_shadow fwd to "vnic1";'
    assert wrong.index(wide) < wrong.index(statement(wrong, "in1_r8")[0])
    wrong, _, _ = rule_faults.faulty(RULES, "never-reached", AGENT1, "punt-dns")
    assert wrong.index(statement(wrong, "in1_default")[0]) < wrong.index(statement(wrong, "in1_r8")[0])
    with pytest.raises(LabError, match="false-punt"):
        rule_faults.faulty(RULES, "false-punt", AGENT1, "punt-dns")


def test_the_second_agent_has_counters_and_places_of_its_own() -> None:
    second = load_rules(topology.DEFAULT_RULES, 2)
    topology.check_counters({1: RULES, 2: second})
    with pytest.raises(LabError, match="both agents"):
        topology.check_counters({1: RULES, 2: RULES})
    places = marks.places(2)
    assert len({place.counter for place in places}) == len(places) == 22
    assert marks.places(1) == marks.PLACES
    assert {place.device for place in places} >= {"punt2", "p2", "ret2", "vnic2", "fi2", "sp2"}


class TestState:
    @pytest.fixture
    def state(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> state.LabState:
        monkeypatch.setenv(state.FOLDER_VARIABLE, str(tmp_path / "labs"))
        return state.LabState("some")

    def test_a_name_is_claimed_once(self, state: state.LabState) -> None:
        assert (state.exists(), state.read()) == (False, {})
        with pytest.raises(LabError, match="not up"), state.alone():
            pass
        state.claim({"roles": ["host"]})
        with pytest.raises(LabError, match="stands already"):
            state.claim({})
        state.update(agents=2)
        assert state.read() == {"roles": ["host"], "agents": 2}
        state.remove()
        assert not state.exists()

    def test_the_journal_has_a_line_per_action(self, state: state.LabState) -> None:
        state.claim({})
        for number in range(3):
            state.note("impair", number=number)
        lines = [json.loads(line) for line in state.journal.read_text().splitlines()]
        assert [(line["action"], line["number"]) for line in lines] == [("impair", n) for n in range(3)]
        assert [line["time_ns"] for line in lines] == sorted(line["time_ns"] for line in lines)

    def test_half_a_file_is_no_lab(self, state: state.LabState) -> None:
        state.claim({})
        (state.folder / "lab.json").write_text('{"roles": [')
        assert state.read() == {}


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def namespaces(name: str) -> set[str]:
    listed = {line.split()[0] for line in processes.run(["ip", "netns", "list"]).splitlines()}
    return {namespace for namespace in listed if namespace.startswith(f"{name}-")}


class TestUpAndDown:
    """As root."""

    pytestmark = needs_lab

    @pytest.fixture
    def name(self) -> Iterator[str]:
        name = f"ud{os.getpid()}"
        yield name
        Lab(name).down()

    def test_up_twice_is_an_error_and_down_twice_is_none(self, name: str) -> None:
        assert command("up", "--name", name).returncode == 0
        before = (namespaces(name), (Lab(name).state.folder / "lab.json").read_text())
        again = command("up", "--name", name)
        assert (again.returncode, again.stderr.count("\n")) == (1, 1)
        assert "stands already" in again.stderr
        assert before == (namespaces(name), (Lab(name).state.folder / "lab.json").read_text())
        for _ in range(2):
            assert command("down", "--name", name).returncode == 0
            assert (namespaces(name), Lab(name).state.exists()) == (set(), False)

    def test_only_one_of_several_wins_a_name(self, name: str) -> None:
        started = [
            subprocess.Popen([sys.executable, str(SCRIPT), "up", "--name", name], stderr=subprocess.PIPE)
            for _ in range(3)
        ]
        said = [process.communicate(timeout=DEADLINE_S)[1] for process in started]
        assert sorted(process.returncode for process in started) == [0, 1, 1]
        assert sum(b"stands already" in words for words in said) == 2
        assert Lab(name).status() == "up"

    @pytest.mark.parametrize("made", [1, 3, 6])
    def test_down_clears_up_after_a_crash(self, name: str, made: int) -> None:
        """Killed when so many namespaces stand, or later."""
        arguments = ["up", "--name", name, "--agents", "2", "--service", "forwarder"]
        process = subprocess.Popen([sys.executable, str(SCRIPT), *arguments])
        wait_until(lambda: len(namespaces(name)) >= made, f"{made} namespaces stand")
        process.send_signal(signal.SIGKILL)
        process.wait()
        # A command that it had begun goes on without it, and may have to make a namespace still.
        wait_until(lambda: not processes_about(f"{name}-"), "the last command of the killed one ends")
        command("down", "--name", name)
        assert (namespaces(name), Lab(name).state.exists()) == (set(), False)

    def test_an_interrupted_up_leaves_nothing(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Interrupted in the middle, however slow we are: it waits there for an nft that does not end."""
        (tmp_path / "nft").write_text("#!/bin/sh\nexec sleep 1000\n")
        (tmp_path / "nft").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        process = subprocess.Popen([sys.executable, str(SCRIPT), "up", "--name", name], stderr=subprocess.PIPE)
        wait_until(lambda: len(namespaces(name)) == len(topology.ROLES), "the namespaces stand")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, b"interrupted" in said) == (130, True)
        assert (namespaces(name), Lab(name).state.exists()) == (set(), False)

    def test_what_it_did_not_make_is_left_alone(self, name: str) -> None:
        foreign = f"{name}-svm"
        processes.run(["ip", "netns", "add", foreign])
        try:
            refused = command("up", "--name", name)
            assert (refused.returncode, foreign in refused.stderr) == (1, True)
            assert command("down", "--name", name).returncode == 0
            assert namespaces(name) == {foreign}
        finally:
            processes.run(["ip", "netns", "del", foreign])

    def test_status_of_nothing_and_of_a_half_lab(self, name: str) -> None:
        nothing = command("status", "--name", name)
        assert (nothing.returncode, nothing.stdout) == (3, f"lab {name}: down\n")
        lab = Lab(name)
        lab.up()
        processes.run(["ip", "netns", "del", lab.namespace("pvm3")])
        half = command("status", "--name", name)
        assert (half.returncode, "partial" in half.stdout) == (3, True)
        for words in (["impair", "show"], ["rules", "show"], ["service", "stop"]):
            refused = command(*words, "--name", name)
            assert (refused.returncode, "is partial" in refused.stderr) == (1, True)

    def test_without_a_lab_every_command_says_so(self, name: str) -> None:
        for words in (["impair", "show"], ["rules", "show"], ["service", "stop"], ["fault", "clear"]):
            refused = command(*words, "--name", name)
            assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
            assert "lab up" in refused.stderr


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"lb{os.getpid()}")
    lab.up(agents=2)
    yield lab
    lab.down()


def journal(lab: Lab) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lab.state.journal.read_text().splitlines()]


class TestTwoAgents:
    """As root."""

    pytestmark = needs_lab

    @pytest.fixture(autouse=True)
    def _zero(self, lab: Lab) -> None:
        lab.run_in("host", ["nft", "reset", "counters"])

    def counted(self, lab: Lab) -> dict[str, int]:
        return {name: packets for name, packets in report.counters(lab)["host"].items() if packets}

    def test_everybody_reaches_everybody(self, lab: Lab) -> None:
        hosts = (CLIENT, PVM1, PVM2, PVM3)
        for sender in hosts:
            for receiver in hosts:
                if sender is not receiver:
                    for address in (receiver.ipv4, receiver.ipv6):
                        assert answers(lab, sender.role, address, 1) == 1, (sender.role, address)

    def test_each_agent_sees_its_own_machine_only(self, lab: Lab) -> None:
        assert answers(lab, "client", PVM2.ipv4) == 3
        assert self.counted(lab) == {
            "in2_r10": 3,
            "eg2_r6": 3,
            "in2_back": 3,
            "eg2_back": 3,
        }
        assert answers(lab, "client", PVM3.ipv4) == 3
        assert sum(self.counted(lab).values()) == 12

    def test_between_the_machines_both_agents_judge(self, lab: Lab) -> None:
        with closing(Tap(lab, "punt1")) as first, closing(Tap(lab, "punt2")) as second:
            assert answers(lab, "pvm1", PVM2.ipv6) == 3
            # The request is not punted on its way out, and the answer not on its way in.
            assert (len(first.frames()), len(second.frames())) == (0, 6)
        assert self.counted(lab) == {
            "eg1_default": 3,
            "in2_r11": 3,
            "in2_back": 3,
            "eg2_r7": 3,
            "eg2_back": 3,
            "in1_default": 3,
        }

    def test_one_service_stops_and_the_other_goes_on(self, lab: Lab) -> None:
        assert command("service", "stop", "--agent", "2", "--name", lab.name).returncode == 0
        assert [answers(lab, "client", host.ipv4, 1) for host in (PVM1, PVM2)] == [1, 0]
        again = command("service", "stop", "--agent", "2", "--name", lab.name)
        assert (again.returncode, "no service" in again.stderr) == (1, True)
        started = command("service", "start", "forwarder", "--ttl", "9", "--agent", "2", "--name", lab.name)
        assert started.returncode == 0, started.stderr
        assert [answers(lab, "client", host.ipv4, 1) for host in (PVM1, PVM2)] == [1, 1]
        shown = json.loads(command("impair", "show", "--json", "--name", lab.name).stdout)
        assert [(one["kind"], one["agent"], one["counts"]["applied"]) for one in shown] == [("ttl", 2, 2)]
        swapped = command("service", "swap", "bridge", "--agent", "2", "--name", lab.name)
        assert swapped.returncode == 0, swapped.stderr
        assert answers(lab, "client", PVM2.ipv4, 1) == 1
        assert [(line["action"], line["kind"]) for line in journal(lab) if line["action"].startswith("service")] == [
            ("service stop", "bridge"),
            ("service start", "forwarder"),
            ("service stop", "forwarder"),
            ("service start", "bridge"),
        ]

    def test_known_losses_of_the_second_agent(self, lab: Lab) -> None:
        def opened() -> Any:
            import socket

            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

        codes = "abbcccdddd"
        with closing(inside(lab, "client", opened)) as client:
            for number, code in enumerate(codes):
                client.sendto(f"{code}PKTRI{number:08d}".encode(), (PVM2.ipv4, 53))
        lab.wait_until_quiet()
        found = report.counters(lab)
        assert (found["host"]["loss_in_punt2"], found["svm"]["loss_in_p2"], found["host"]["loss_in_ret2"]) == (2, 3, 4)
        assert found["host"]["loss_in_uplink"] == 1
        assert found["svm"]["loss_in_p1"] == 0

    def test_status_shows_it_all(self, lab: Lab) -> None:
        shown = command("status", "--name", lab.name)
        assert shown.returncode == 0, shown.stderr
        for words in (f"{lab.name}-pvm2", "punt2", "service of agent 2: bridge", "eg2_r8", "10.77.0.2 fd77::2"):
            assert words in shown.stdout
        found = json.loads(command("status", "--json", "--name", lab.name).stdout)
        assert (found["state"], found["agents"], found["offloads"]) == ("up", 2, False)
        assert len(found["namespaces"]) == 6

    def test_impairments_of_the_two_agents_do_not_mix(self, lab: Lab) -> None:
        at_work = Impairments(lab)
        for kind, stage in (("dup", "bypass"), ("dup", "filter"), ("every", "bypass")):
            for agent in (AGENT1, AGENT2):
                value = "2" if kind == "every" else "1"
                at_work.add(Impairment(0, kind, value, stage=stage, paths=("ingress",)), agent)
        assert answers(lab, "pvm1", PVM2.ipv4, 4) == 4
        counts = {(one["kind"], one["stage"], one["agent"]): one["counts"]["ingress"] for one in at_work.clear()}
        # Requests are punted at agent 2 (copied there), answers bypass the service of agent 1: halved, copied.
        assert counts["dup", "filter", 2] == {"seen": 4, "applied": 4}
        assert counts["dup", "filter", 1] == counts["dup", "bypass", 2] == {"seen": 0, "applied": 0}
        assert counts["every", "bypass", 1] == {"seen": 8, "applied": 4}
        assert counts["dup", "bypass", 1] == {"seen": 4, "applied": 4}


class TestRules:
    """As root."""

    pytestmark = needs_lab

    @pytest.fixture(autouse=True)
    def _as_before(self, lab: Lab) -> Iterator[None]:
        yield
        rule_faults.load_into(lab, AGENT1, RULES)

    def packets(self, lab: Lab, *names: str) -> list[int]:
        found = report.counters(lab)["host"]
        return [found[name] for name in names]

    def test_rules_are_loaded_and_shown(self, lab: Lab, tmp_path: Path) -> None:
        file = tmp_path / "other.toml"
        file.write_text(
            '[[rule]]\nid = "drop-4000"\npath = "ingress"\nprotocol = "udp"\ndport = 4000\naction = "drop"\n'
        )
        loaded = command("rules", "load", str(file), "--name", lab.name)
        assert loaded.returncode == 0, loaded.stderr
        with closing(Flow(lab, 4, FORWARDED)) as flow:
            assert flow.passed(numbered(4)) == []
        assert self.packets(lab, "in1_r1", "in1_default", "in2_r12") == [4, 0, 0]
        shown = command("rules", "show", "--agent", "1", "--name", lab.name).stdout
        assert re.search(r"ingress +drop-4000 +drop +in1_r1 +4\n", shown)
        intended = command("rules", "show", "--agent", "1", "--as", "toml", "--name", lab.name).stdout
        assert 'counter = "in1_r1"' in intended
        line = journal(lab)[-1]
        assert (line["action"], line["file"], line["rules"][0]["id"]) == ("rules load", "other.toml", "drop-4000")
        file.write_text("[[rule]]\nid = 1\n")
        refused = command("rules", "load", str(file), "--name", lab.name)
        assert (refused.returncode, "id must be" in refused.stderr) == (1, True)
        assert self.packets(lab, "in1_r1") == [4]  # what was there is still there

    def test_loading_loses_no_packet(self, lab: Lab) -> None:
        with closing(Flow(lab)) as flow:
            for _ in range(10):
                flow.send(numbered(20))
                rule_faults.load_into(lab, AGENT1, RULES)
            assert len(flow.received()) == 200

    @pytest.mark.parametrize(
        ("kind", "rule", "port", "punted", "arrives", "counter"),
        [
            ("false-punt", "forward-backup-network", 4000, True, True, None),
            ("false-forward", "punt-dns", 53, False, True, "in1_r8"),
            ("shadowed", "punt-dns", 53, False, True, "fault1_shadow"),
            ("never-reached", "punt-dns", 53, False, True, "in1_default"),
            ("drops-too-much", "drop-udp-games", 6700, False, False, "in1_r2"),
            ("missed-drop", "drop-udp-games", 6666, False, True, "in1_r2"),
        ],
    )
    def test_a_fault_is_installed_and_the_intention_kept(
        self, lab: Lab, kind: str, rule: str, port: int, punted: bool, arrives: bool, counter: str | None
    ) -> None:
        intended = lab.state.rules(1).read_text()
        if kind == "false-punt":  # a rule that the test's traffic hits
            table = {"id": rule, "path": "ingress", "protocol": "udp", "dport": 4000, "action": "forward"}
            rule_faults.load_into(lab, AGENT1, parse_rules({"rule": [table]}))
            intended, counter = lab.state.rules(1).read_text(), "in1_r1"
        done = command("fault", kind, "--rule", rule, "--name", lab.name)
        assert done.returncode == 0, done.stderr
        assert lab.state.rules(1).read_text() == intended
        with closing(Tap(lab, "punt1")) as tap, closing(Flow(lab, 4, port)) as flow:
            assert len(flow.passed(numbered(5))) == (5 if arrives else 0)
            assert len(tap.frames()) == (5 if punted else 0)
        assert counter is not None
        assert self.packets(lab, counter) == [5]
        line = journal(lab)[-1]
        assert (line["action"], line["kind"], line["rule"]) == ("fault", kind, rule)
        assert f"FAULT {kind}" in command("status", "--name", lab.name).stdout
        assert command("fault", "clear", "--name", lab.name).returncode == 0
        assert "FAULT" not in command("rules", "show", "--name", lab.name).stdout


class TestImpairCommand:
    """As root: the command line of what test_impairments.py tests from within."""

    pytestmark = needs_lab

    def test_impair_show_and_clear(self, lab: Lab) -> None:
        made = command("impair", "delivery", "every", "2", "--path", "ingress", "--protocol", "udp", "--name", lab.name)
        assert (made.returncode, "by nft" in made.stdout) == (0, True), made.stderr
        with closing(Flow(lab)) as flow:
            assert len(flow.passed(numbered(10))) == 5
        shown = command("impair", "show", "--name", lab.name).stdout
        assert re.search(r"delivery +ingress +every 2 protocol \['udp'\] +nft +10 +5\n", shown)
        (entry,) = json.loads(command("impair", "clear", "--json", "--name", lab.name).stdout)
        assert entry["counts"] == {"ingress": {"seen": 10, "applied": 5}}
        with closing(Flow(lab)) as flow:
            assert len(flow.passed(numbered(10))) == 10
        assert [line["action"] for line in journal(lab)[-2:]] == ["impair", "impair clear"]

    def test_what_only_the_forwarder_can_do_brings_it_in(self, lab: Lab) -> None:
        made = command("impair", "service", "delay", "1000", "--jitter", "500", "--name", lab.name)
        assert made.returncode == 0, made.stderr
        assert "is a forwarder now (it was: bridge)" in made.stderr
        assert answers(lab, "client", PVM1.ipv4) == 3
        (entry,) = json.loads(command("impair", "show", "--json", "--name", lab.name).stdout)
        assert (entry["by"], entry["counts"]["applied"]) == ("forwarder", 6)
        swap_service(lab, AGENT1, "bridge")
        assert Impairments(lab).listed() == []

    def test_the_kernel_splits_superpackets_at_any_stage(self, lab: Lab) -> None:
        lab.run_in("client", ["ethtool", "-K", "eth0", "tx", "on", "tso", "on", "gso", "on"])
        try:
            assert command("impair", "filter", "split", "--name", lab.name).returncode == 0
            lengths = []
            for _ in range(2):
                with closing(Tap(lab, "sp1")) as before, closing(Tap(lab, "punt1")) as after:
                    upload(lab)
                    lengths.append([max(len(frame.data) for frame in tap.frames()) for tap in (before, after)])
                assert command("impair", "clear", "--name", lab.name).returncode == 0
            assert lengths[0][0] > 3000 > 1514 >= lengths[0][1]
            assert lengths[1][1] > 3000
        finally:
            lab.run_in("client", ["ethtool", "-K", "eth0", "tso", "off", "gso", "off", "tx", "off"])

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["service", "loss", "2"], "within 0..1"),
            (["service", "melt", "2"], "melt"),
            (["service", "loss"], "say what to do"),
            (["delivery", "delay", "100"], "stage 'service'"),
            (["service", "delay", "100", "--by", "nft"], "cannot be done by nft"),
            (["clear", "99"], "no impairment 99"),
            (["service", "loss", "0.1", "--dport", "a"], "dport"),
        ],
    )
    def test_a_wrong_one_is_refused_in_a_line(self, lab: Lab, words: list[str], said: str) -> None:
        refused = command("impair", *words, "--name", lab.name)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
        assert said in refused.stderr
        assert Impairments(lab).listed() == []


def upload(lab: Lab, size: int = 200_000) -> None:
    script = str(ROOT / "capture_scripts" / "fixture" / "traffic.py")
    server = subprocess.Popen(
        ["ip", "netns", "exec", lab.namespace("pvm1"), sys.executable, script, "serve-tcp", "5201", "1"],
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    with server.stdout:
        assert server.stdout.readline() == b"ready\n"
    lab.run_in("client", [sys.executable, script, "upload-tcp", PVM1.ipv4, "5201", str(size)])
    assert server.wait(DEADLINE_S) == 0


def test_the_second_agent_is_like_the_first() -> None:
    first, second = (
        compile_filter(load_rules(topology.DEFAULT_RULES, agent.number), agent) for agent in (AGENT1, AGENT2)
    )
    renamed = re.sub(r"\b(agent|fi|vnic|punt|ret)1\b", r"\g<1>2", first)
    renamed = re.sub(r"\b(in|eg|back)1_", r"\g<1>2_", renamed).replace(PVM1.mac, PVM2.mac)
    assert renamed == second
    assert shutil.which("nft") is None or SCRIPT.stat().st_mode & 0o111
