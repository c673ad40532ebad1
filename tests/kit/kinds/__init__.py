"""Kinds of traffic with known truth: what boxes do to packets on their way, and what a matcher makes of it.

Each family has a module; `KINDS` names them all.
"""

from __future__ import annotations

from tests.kit.kinds.clocks import CLOCKS
from tests.kit.kinds.connections import CONNECTIONS
from tests.kit.kinds.detours import DETOURS
from tests.kit.kinds.generators import GENERATORS
from tests.kit.kinds.looks import LOOKS
from tests.kit.kinds.model import Kind
from tests.kit.kinds.proxies import PROXIES
from tests.kit.kinds.tags import TAGS
from tests.kit.kinds.translations import TRANSLATIONS

KINDS: dict[str, Kind] = GENERATORS | DETOURS | TRANSLATIONS | CONNECTIONS | TAGS | PROXIES | CLOCKS | LOOKS
