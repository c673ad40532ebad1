"""Apply a chain of impairments to frames, each with its counts, its own random generator, and its log.

Every line of the log is the truth about one impaired packet, with its fields before the impairment.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..filter_rules import Rule
from .frames import TCP, Frame
from .impairment import DROPPING, NAT_FIELDS, REORDER_HOLD_US, Impairment, in_order
from .segments import Merge, split

Note = Callable[[dict[str, Any]], None]
_INGRESS, _EGRESS = "ingress", "egress"


def fits(rule: Rule, frame: Frame) -> bool:
    """True if the rule fits the headers of this frame. Ports and types never fit a frame without them."""
    if not frame.version:
        return False
    if rule.protocols and frame.protocol not in rule.protocols:
        return False
    for networks, which in ((rule.sources, "source"), (rule.destinations, "destination")):
        if networks:
            address = frame.address(which)
            if not any(address in network for network in networks if network.version == frame.version):
                return False
    for ranges, value in ((rule.sports, frame.sport), (rule.dports, frame.dport), (rule.icmp_types, frame.icmp_type)):
        if ranges and not (value is not None and any(low <= value <= high for low, high in ranges)):
            return False
    return True


class Alteration:
    """One active impairment. ``apply`` gets one frame and returns the frames to pass on now."""

    def __init__(self, impairment: Impairment, seed: int, note: Note | None) -> None:
        self.impairment = impairment
        # A generator for each: its choices do not depend on the other impairments.
        self._chance = random.Random(f"{seed}/{impairment.number}/{impairment.kind}")
        self._rule = impairment.rule() if impairment.match else None
        self._note = note
        self.seen = 0
        self.applied = 0

    def concerns(self, frame: Frame, path: str) -> bool:
        return bool(frame.version and path in self.impairment.paths and (self._rule is None or fits(self._rule, frame)))

    def apply(self, frame: Frame, path: str, now_ns: int) -> list[Frame]:
        raise NotImplementedError

    def due(self, now_ns: int) -> list[Frame]:
        """Held frames that are due."""
        return []

    def next_due_ns(self) -> int | None:
        return None

    @property
    def held(self) -> int:
        return 0

    def note(self, frame: Frame, path: str, **details: Any) -> None:
        """Count the impairment as applied, and log the frame."""
        self.applied += 1
        if self._note is not None:
            self._note(
                {
                    "impairment": self.impairment.number,
                    "kind": self.impairment.kind,
                    "path": path,
                    **details,
                    "packet": frame.identity(),
                }
            )

    def counts(self) -> dict[str, Any]:
        return {
            "number": self.impairment.number,
            "kind": self.impairment.kind,
            "seen": self.seen,
            "applied": self.applied,
            "held": self.held,
        }


class Drop(Alteration):
    """loss, every, marked"""

    def apply(self, frame: Frame, path: str, now_ns: int) -> list[Frame]:
        if self.impairment.kind == "loss":
            hit = self._chance.random() < self.impairment.probability
        elif self.impairment.kind == "every":
            hit = self.seen % self.impairment.integer == 0
        else:
            hit = frame.marked()[:1] == self.impairment.value.encode()
        if not hit:
            return [frame]
        self.note(frame, path)
        return []


class Rewrite(Alteration):
    """nat, ttl, dscp, payload: the same packet with another value in one field."""

    def apply(self, frame: Frame, path: str, now_ns: int) -> list[Frame]:
        change = {"nat": self._nat, "ttl": self._ttl, "dscp": self._dscp, "payload": self._payload}
        found = change[self.impairment.kind](frame, path)
        if found is not None:
            at, new, name, before, after, pseudo = found
            if bytes(frame.data[at : at + len(new)]) != new:
                self.note(frame, path, field=name, before=before, after=after)
                frame.replace(at, new, pseudo=pseudo)
        return [frame]

    def _nat(self, frame: Frame, path: str) -> tuple[int, bytes, str, Any, Any, bool] | None:
        which, old, new = self.impairment.nat()
        if path != self.impairment.paths[0]:  # the other direction
            if self.impairment.one_way:
                return None
            which, old, new = NAT_FIELDS[which], new, old
        if which in ("sport", "dport"):
            if not frame.ported or getattr(frame, which) != int(old):
                return None
            at = frame.layer4 + (0 if which == "sport" else 2)
            return at, int(new).to_bytes(2, "big"), which, int(old), int(new), False
        at, length = frame.address_at(which)
        before, after = ipaddress.ip_address(old).packed, ipaddress.ip_address(new).packed
        if bytes(frame.data[at : at + length]) != before:
            return None
        return at, after, which, old, new, True

    def _ttl(self, frame: Frame, path: str) -> tuple[int, bytes, str, Any, Any, bool]:
        at = 22 if frame.version == 4 else 21
        before, wanted = frame.data[at], self.impairment.integer
        after = max(0, before + wanted) if wanted < 0 else wanted
        return at, bytes([after]), "ttl", before, after, False

    def _dscp(self, frame: Frame, path: str) -> tuple[int, bytes, str, Any, Any, bool]:
        wanted = self.impairment.integer
        if frame.version == 4:
            field = frame.data[15]
            return 15, bytes([wanted << 2 | field & 3]), "dscp", field >> 2, wanted, False
        word = frame.word(14)
        new = word & 0xF03F | wanted << 6
        return 14, new.to_bytes(2, "big"), "dscp", word >> 6 & 63, wanted, False

    def _payload(self, frame: Frame, path: str) -> tuple[int, bytes, str, Any, Any, bool] | None:
        if frame.payload is None or frame.payload + self.impairment.offset >= frame.end:
            return None
        at = frame.payload + self.impairment.offset
        new = self.impairment.integer
        return at, bytes([new]), f"payload[{self.impairment.offset}]", frame.data[at], new, False


class Duplicate(Alteration):
    def apply(self, frame: Frame, path: str, now_ns: int) -> list[Frame]:
        if self._chance.random() >= self.impairment.probability:
            return [frame]
        self.note(frame, path)
        return [frame, frame.copy()]


class Split(Alteration):
    def apply(self, frame: Frame, path: str, now_ns: int) -> list[Frame]:
        segments = split(frame, self.impairment.integer)
        if len(segments) > 1:
            self.note(frame, path, segments=len(segments), payload=[s.end - (s.payload or 0) for s in segments])
        return segments


class MergeSegments(Alteration):
    """Holds segments of a flow until a segment does not follow, or the time is over."""

    def __init__(self, impairment: Impairment, seed: int, note: Note | None) -> None:
        super().__init__(impairment, seed, note)
        self._growing: dict[tuple[str, bytes, int, int], Merge] = {}

    def apply(self, frame: Frame, path: str, now_ns: int) -> list[Frame]:
        if frame.protocol != TCP or frame.fragment:
            return [frame]
        key = (path, *Merge.flow(frame))
        ready: list[Frame] = []
        merge = self._growing.get(key)
        if merge is not None:
            if Merge.possible(frame) and merge.takes(frame):
                merge.add(frame)
                return self._finish(key) if merge.closed else []
            ready = self._finish(key)  # earlier segments go first
        if not Merge.possible(frame):
            return [*ready, frame]
        self._growing[key] = Merge(frame, now_ns + self.impairment.integer * 1000)
        if self._growing[key].closed:
            ready += self._finish(key)
        return ready

    def _finish(self, key: tuple[str, bytes, int, int]) -> list[Frame]:
        merge = self._growing.pop(key)
        whole = merge.superpacket()
        if len(merge.frames) > 1:
            self.note(merge.frames[0], key[0], merged=[frame.identity() for frame in merge.frames])
        return [whole]

    def due(self, now_ns: int) -> list[Frame]:
        over = [key for key, merge in self._growing.items() if merge.due_ns <= now_ns]
        return [frame for key in over for frame in self._finish(key)]

    def next_due_ns(self) -> int | None:
        return min((merge.due_ns for merge in self._growing.values()), default=None)

    @property
    def held(self) -> int:
        return sum(len(merge.frames) for merge in self._growing.values())


class Reorder(Alteration):
    """Holds a packet until the next one of its direction has passed, or for 20 ms."""

    def __init__(self, impairment: Impairment, seed: int, note: Note | None) -> None:
        super().__init__(impairment, seed, note)
        self._waiting: dict[str, tuple[int, Frame]] = {}

    def apply(self, frame: Frame, path: str, now_ns: int) -> list[Frame]:
        if path in self._waiting:
            _, waited = self._waiting.pop(path)
            self.note(waited, path, overtaken_by=frame.identity())
            return [frame, waited]
        if self._chance.random() < self.impairment.probability:
            self._waiting[path] = (now_ns + REORDER_HOLD_US * 1000, frame)
            return []
        return [frame]

    def due(self, now_ns: int) -> list[Frame]:
        over = [path for path, (due_ns, _) in self._waiting.items() if due_ns <= now_ns]
        return [self._waiting.pop(path)[1] for path in over]

    def next_due_ns(self) -> int | None:
        return min((due_ns for due_ns, _ in self._waiting.values()), default=None)

    @property
    def held(self) -> int:
        return len(self._waiting)


class Delay(Alteration):
    def __init__(self, impairment: Impairment, seed: int, note: Note | None) -> None:
        super().__init__(impairment, seed, note)
        self._waiting: deque[tuple[int, Frame]] = deque()

    def apply(self, frame: Frame, path: str, now_ns: int) -> list[Frame]:
        wait_ns = self.impairment.integer * 1000 + round(self._chance.uniform(0, self.impairment.jitter_us) * 1000)
        due_ns = now_ns + wait_ns
        if self._waiting:  # jitter alone does not reorder
            due_ns = max(due_ns, self._waiting[-1][0])
        self.note(frame, path, delay_ns=due_ns - now_ns)
        self._waiting.append((due_ns, frame))
        return []

    def due(self, now_ns: int) -> list[Frame]:
        ready = []
        while self._waiting and self._waiting[0][0] <= now_ns:
            ready.append(self._waiting.popleft()[1])
        return ready

    def next_due_ns(self) -> int | None:
        return self._waiting[0][0] if self._waiting else None

    @property
    def held(self) -> int:
        return len(self._waiting)


_CLASSES: dict[str, type[Alteration]] = {
    **dict.fromkeys(DROPPING, Drop),
    **dict.fromkeys(("nat", "ttl", "dscp", "payload"), Rewrite),
    "merge": MergeSegments,
    "split": Split,
    "dup": Duplicate,
    "reorder": Reorder,
    "delay": Delay,
}


class Chain:
    """All impairments of a forwarder, in order. Each one gets the frames that leave the one before."""

    def __init__(self, impairments: Sequence[Impairment], protected_mac: str, seed: int, note: Note | None) -> None:
        self._mac = bytes.fromhex(protected_mac.replace(":", ""))
        self._steps = [_CLASSES[one.kind](one, seed, note) for one in in_order(impairments)]
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self._steps)

    def path(self, frame: Frame) -> str:
        """The path of a frame by its MAC addresses, as in the filter; without a path no impairment applies."""
        return _INGRESS if frame.data[:6] == self._mac else _EGRESS if frame.data[6:12] == self._mac else ""

    def push(self, frame: Frame, now_ns: int) -> list[Frame]:
        return self._run([frame], 0, now_ns)

    def due(self, now_ns: int) -> list[Frame]:
        """Frames that the impairments have held and release now."""
        ready: list[Frame] = []
        for number, step in enumerate(self._steps):
            frames = step.due(now_ns)
            if frames:
                ready += self._run(frames, number + 1, now_ns)
        return ready

    def next_due_ns(self) -> int | None:
        times = (step.next_due_ns() for step in self._steps)
        return min((time for time in times if time is not None), default=None)

    def counts(self) -> list[dict[str, Any]]:
        return [step.counts() for step in sorted(self._steps, key=lambda step: step.impairment.number)]

    @property
    def held(self) -> int:
        return sum(step.held for step in self._steps)

    def _run(self, frames: list[Frame], start: int, now_ns: int) -> list[Frame]:
        for step in itertools.islice(self._steps, start, None):
            following: list[Frame] = []
            for frame in frames:
                path = self.path(frame)
                if not step.concerns(frame, path):
                    following.append(frame)
                    continue
                step.seen += 1
                done = step.apply(frame, path, now_ns)
                if not done and isinstance(step, Drop):
                    self.dropped += 1
                following += done
            frames = following
            if not frames:
                break
        return frames


def json_line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, separators=(",", ":")) + "\n"
