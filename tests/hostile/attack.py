"""An attack, and the count of how often it was tried and how often pktrace held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """Attempts of one attack: `held` of `tried` did no harm; `broken` says what the first others did."""

    tried: int
    held: int
    broken: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attack:
    """One attack.

    `sentence` says what the attacker does and wants. `attempt(folder, number)` tries it once in an empty folder of its
    own and returns None if pktrace held, else one sentence that says what went wrong; `number` counts the attempts and
    seeds whatever is random. `fast` attempts run in `make test`, `full` in `make hostile`. `lab` attacks need root.
    """

    name: str
    sentence: str
    attempt: Callable[[Path, int], str | None]
    fast: int = 1
    full: int = 1
    lab: bool = False

    def run(self, folder: Path, attempts: int) -> Outcome:
        """Try it `attempts` times, each in a fresh folder below `folder`."""
        broken = []
        for number in range(attempts):
            place = folder / f"{self.name}-{number}"
            place.mkdir(parents=True)
            said = self.attempt(place, number)
            if said is not None:
                broken.append(f"attempt {number}: {said}")
        return Outcome(attempts, attempts - len(broken), tuple(broken))
