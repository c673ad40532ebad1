"""The service of one agent: a kernel bridge, a forwarder in user space, or nothing (punted packets are lost).

Frames of both directions arrive at p<agent> and leave by r<agent> of the service namespace.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..filter_rules import Agent
from ..forwarder.impairment import ForwarderPlan
from ..processes import LabError, in_namespace, python_script, run
from .state import LabState

KINDS = ("bridge", "forwarder")
# Deadlines guard against hanging: a forwarder that waits for a processor is slow, not dead.
_READY_S = 60.0
_ANSWER_S = 60.0
_STOP_S = 30.0


class Service:
    """The service of an agent. The state of the lab names its process, so any later command finds it."""

    def __init__(self, state: LabState, namespace: str, agent: Agent) -> None:
        self._state = state
        self._namespace = namespace
        self._agent = agent
        self._bridge = f"br{agent.number}"

    @property
    def log(self) -> Path:
        """The file for ``--log`` without a name: the truth about each impaired packet."""
        return self._state.folder / f"forwarder{self._agent.number}.jsonl"

    @property
    def plan_file(self) -> Path:
        return self._state.folder / f"forwarder{self._agent.number}-plan.json"

    @property
    def counts_file(self) -> Path:
        return self._state.folder / f"forwarder{self._agent.number}-counts.json"

    def described(self) -> Mapping[str, Any]:
        """``kind`` (``none`` without a service), and ``pid`` and ``running`` of a forwarder."""
        found = dict(self._state.read().get("services", {}).get(str(self._agent.number), {"kind": "none"}))
        if found["kind"] == "forwarder":
            found["running"] = _alive(found["pid"], found["started"])
        return found

    @property
    def kind(self) -> str:
        return str(self.described()["kind"])

    def plan(self) -> ForwarderPlan:
        """The last plan of the forwarder; an empty one without a forwarder."""
        if not self.plan_file.exists():
            return ForwarderPlan()
        return ForwarderPlan.from_table(json.loads(self.plan_file.read_text(encoding="utf-8")))

    def start(self, kind: str, plan: ForwarderPlan | None = None) -> None:
        """Start a service; LabError if there is one already."""
        if self.kind != "none":
            raise LabError(f"agent {self._agent.number} has a service ({self.kind}): stop it first, or swap it")
        if kind == "bridge":
            self._start_bridge()
            self._remember({"kind": "bridge"})
        elif kind == "forwarder":
            self._start_forwarder(plan or ForwarderPlan())
        else:
            raise LabError(f"service {kind!r}: known are {', '.join(KINDS)}")

    def stop(self) -> Mapping[str, Any]:
        """Stop the service; returns the last counts of a forwarder, else nothing."""
        found = self.described()
        if found["kind"] == "bridge":
            run(["ip", "-n", self._namespace, "link", "del", self._bridge])
        elif found["kind"] == "forwarder":
            _end(found["pid"], found["started"])
        self._remember({"kind": "none"})
        return self._read_counts() if found["kind"] == "forwarder" else {}

    def change(self, plan: ForwarderPlan) -> None:
        """Give a running forwarder another plan; LabError without a running forwarder."""
        self._need_forwarder()
        self._write_plan(plan)
        self._signal(signal.SIGHUP)
        self.counts()  # it answers only when it has read the plan

    def counts(self) -> Mapping[str, Any]:
        """The counts of a running forwarder."""
        self._need_forwarder()
        self.counts_file.unlink(missing_ok=True)
        self._signal(signal.SIGUSR1)
        deadline = time.monotonic() + _ANSWER_S
        while not self.counts_file.exists():
            self._need_forwarder()
            if time.monotonic() > deadline:
                raise LabError(f"the forwarder of agent {self._agent.number} does not answer: see {self._stderr}")
            time.sleep(0.005)
        return self._read_counts()

    def _need_forwarder(self) -> None:
        found = self.described()
        if found["kind"] != "forwarder":
            raise LabError(f"agent {self._agent.number} has no forwarder (its service: {found['kind']})")
        if not found["running"]:
            raise LabError(f"the forwarder of agent {self._agent.number} has died: see {self._stderr}")

    def _start_bridge(self) -> None:
        ports = (self._agent.service_in, self._agent.service_out)
        commands = [f"link add {self._bridge} type bridge mcast_snooping 0 stp_state 0 forward_delay 0"]
        commands += [f"link set {port} master {self._bridge}" for port in ports]
        run(["ip", "-n", self._namespace, "-batch", "-"], stdin="\n".join(commands) + "\n")
        # Both directions enter at p and leave at r. A learning bridge would find every machine behind p, the port
        # that the packet came from, and drop the packet. Learning is therefore off before the bridge is up.
        run(
            in_namespace(self._namespace, ["bridge", "-batch", "-"]),
            stdin="".join(f"link set dev {port} learning off\n" for port in ports),
        )
        run(["ip", "-n", self._namespace, "link", "set", self._bridge, "up"])

    def _start_forwarder(self, plan: ForwarderPlan) -> None:
        self._write_plan(plan)
        self.counts_file.unlink(missing_ok=True)
        agent = self._agent
        command = python_script("forwarder/forwarder.py", agent.service_in, agent.service_out)
        command += ["--protected-mac", agent.protected_mac]
        command += ["--config", str(self.plan_file), "--counts", str(self.counts_file)]
        with self._stderr.open("wb") as stderr:
            # A session of its own: the forwarder outlives this command, and no Ctrl-C of a terminal reaches it.
            process = subprocess.Popen(
                in_namespace(self._namespace, command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            assert process.stdout is not None
            with process.stdout as words:
                readable, _, _ = select.select([words], [], [], _READY_S)
                if not readable or words.readline() != b"ready\n":
                    said = self._stderr.read_text(encoding="utf-8", errors="replace").strip().replace("\n", "; ")
                    raise LabError(f"the forwarder did not start: {said or 'no message'}")
            self._remember({"kind": "forwarder", "pid": process.pid, "started": _start_time(process.pid)})
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = 0  # the forwarder runs on, on purpose: no warning when this object is freed

    @property
    def _stderr(self) -> Path:
        return self._state.folder / f"forwarder{self._agent.number}.log"

    def _write_plan(self, plan: ForwarderPlan) -> None:
        partial = self.plan_file.with_name(self.plan_file.name + ".partial")
        partial.write_text(json.dumps(plan.table(), indent=1) + "\n", encoding="utf-8")
        partial.replace(self.plan_file)

    def _read_counts(self) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = json.loads(self.counts_file.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}
        return found

    def _remember(self, service: Mapping[str, Any]) -> None:
        services = dict(self._state.read().get("services", {}))
        self._state.update(services={**services, str(self._agent.number): dict(service)})

    def _signal(self, number: int) -> None:
        os.kill(int(self.described()["pid"]), number)


def _start_time(pid: int) -> int:
    """The start of a process, in clock ticks since boot: with the id, it identifies one process for all time."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[19])


def _alive(pid: int, started: int) -> bool:
    """True if the process runs; False for another process with the same id, and for a dead one not yet reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(fields[19]) == started and fields[0] not in "ZX"


def _end(pid: int, started: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _alive(pid, started):
            break
        os.kill(pid, number)
        deadline = time.monotonic() + _STOP_S
        while _alive(pid, started) and time.monotonic() < deadline:
            time.sleep(0.01)
    try:
        os.waitpid(pid, os.WNOHANG)  # only a child of this process can be reaped
    except ChildProcessError:
        return
