"""The documents say what is so: generated pages are up to date, links lead somewhere, examples are real."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner

from pktrace import errors
from pktrace.cli.main import _COMMANDS, pktrace
from pktrace.report.tables_page import tables_page
from pktrace.run.runfile import load_run
from tests.hostile.page import with_all_attacks
from tests.kit.shown_output import output_of, with_new_output

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "capture_scripts/**/*.md", "fixtures/*/README.md")
    for path in ROOT.glob(pattern)
)


def test_the_tables_page_is_up_to_date() -> None:
    committed = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert committed == tables_page(), "run `make docs`"


def test_the_readme_shows_what_the_program_prints() -> None:
    assert README.count("<!-- shown: ") >= 3
    assert with_new_output(README, cache(output_of)) == README, "run `make docs`"


def test_the_security_page_lists_every_attack() -> None:
    committed = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert "<!-- attacks -->" in committed
    assert with_all_attacks(committed) == committed, "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, heading = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name}: {target}"
        if heading:
            assert heading in headings(there), f"{page.name}: {target}"


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as code hosts make them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def test_the_readme_names_every_command_and_no_other() -> None:
    named = set(re.findall(r"`pktrace (\w+)", README))
    assert named == set(_COMMANDS)


def test_every_command_line_in_the_documents_is_understood() -> None:
    texts = [README, *(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))]
    fence = re.compile(r"^```(?:sh|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    blocks = [block for text in texts for block in fence.findall(text)]
    lines = [line for block in blocks for line in re.findall(r"^(?:\$ )?pktrace .*$", block, re.MULTILINE)]
    assert lines
    for line in lines:
        command, *arguments = line.removeprefix("$ ").split("  #")[0].split()[1:]
        options = [argument for argument in arguments if argument.startswith("-")]
        told = CliRunner().invoke(pktrace, [command, "--help"]).output
        for option in options:
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", told), f"{line}: {option}"


def test_the_readme_lists_the_exit_codes() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)}
    assert listed == {value for name, value in vars(errors).items() if name.startswith("EXIT_")}


def test_the_run_toml_of_the_readme_is_a_run(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert example
    (tmp_path / "captures").mkdir()
    for point in tomllib.loads(example[1])["point"]:
        for capture in point["captures"]:
            (tmp_path / capture.replace("*", "1")).touch()
    (tmp_path / "run.toml").write_text(example[1], encoding="utf-8")
    run = load_run(tmp_path)
    assert [path.name for path in run.paths] == ["ingress", "egress"]
    assert {rule.action for rule in run.rules} == {"punt", "drop"}


def test_decisions_are_all_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    pages = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert pages
    assert sorted(re.findall(r"\((\d{4}-[^)]+\.md)\)", index)) == pages
    assert [name[:4] for name in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]


def test_make_help_names_the_targets() -> None:
    told = subprocess.run(
        ["make", "-s", "help"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
    ).stdout
    for target in ("demo", "test", "check", "bench", "clean", "help"):
        assert f"make {target}" in told


def test_the_changelog_has_the_current_version() -> None:
    from pktrace import __version__

    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{__version__}]" in changelog


def test_no_page_names_a_machine_path() -> None:
    for page in PAGES:
        found = re.findall(r"(?<![\w.])/(?:root|home|tmp|work)/\S*", page.read_text(encoding="utf-8"))
        assert not found, f"{page.name}: {found}"
