"""The list of attacks in docs/security.md: `python -m tests.hostile.page docs/security.md` writes it anew."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.hostile.catalogue import areas

_LIST = re.compile(r"(?<=<!-- attacks -->\n).*?(?=^<!-- end of attacks -->$)", re.DOTALL | re.MULTILINE)


def with_all_attacks(text: str) -> str:
    """The text with a row per attack, in the catalogue's order, between the two comments."""
    rows = ["| area | attack | the attacker | attempts |", "|---|---|---|---|"]
    for area, attacks in areas().items():
        for attack in attacks:
            root = ", as root" if attack.lab else ""
            rows.append(f"| {area} | `{attack.name}` | {attack.sentence} | {attack.full}{root} |")
    return _LIST.sub(lambda _: "\n".join(["", *rows, "", ""]), text)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(with_all_attacks(page.read_text(encoding="utf-8")), encoding="utf-8")
