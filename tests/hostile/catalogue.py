"""All attacks, by area. An area is a module with a tuple `ATTACKS`."""

from __future__ import annotations

import importlib
import pkgutil

from tests import hostile
from tests.hostile.attack import Attack

_NO_AREAS = {"attack", "catalogue", "page", "__main__"}


def areas() -> dict[str, tuple[Attack, ...]]:
    """The attacks of each area, in order of the areas' names.

    Raises:
        ValueError: two attacks have one name.
    """
    found: dict[str, tuple[Attack, ...]] = {}
    for module in sorted(module.name for module in pkgutil.iter_modules(hostile.__path__)):
        if module not in _NO_AREAS and not module.startswith("test_"):
            found[module] = importlib.import_module(f"tests.hostile.{module}").ATTACKS
    names = [attack.name for attacks in found.values() for attack in attacks]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"two attacks are called {', '.join(sorted(twice))}")
    return found
