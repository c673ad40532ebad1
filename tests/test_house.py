"""How the code reads: sentences, sizes of functions, arguments of kernels, names that nothing uses."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pktrace", "capture_scripts")
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md")),
)
KERNEL = {"kernel", "inlined", "unfolded"}
MOST_LINES, MOST_KERNEL_ARGUMENTS, LONGEST_MODULE = 70, 10, 500
# Sentences that hide their subject, and phrases that hide a noun; both are rare in prose that reads well.
HIDDEN_SUBJECT = re.compile(r"^(What|Whether|Which|Where|Of|That|So)\b")
RIDDLE = re.compile(r"\b(of which|of it|is of|that of|what is|told|tells|no matter of)\b", re.IGNORECASE)
MOST_OF_THEM = 0.02

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of every module of the project's packages, by path."""
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in files}


def functions() -> Iterator[tuple[str, Function]]:
    """Every function, with its place."""
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{path}:{node.lineno} {node.name}", node


def is_kernel(function: Function) -> bool:
    return any(isinstance(one, ast.Name) and one.id in KERNEL for one in function.decorator_list)


def body_lines(function: Function) -> int:
    """Lines of the body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def sentences(text: str) -> list[str]:
    """Sentences of four words and more."""
    flat = re.sub(r"\s+", " ", text)
    return [part.strip() for part in re.split(r"(?<=[.!?:])\s+", flat) if len(part.split()) >= 4]


def docstrings() -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = (node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, kinds))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def documents() -> list[str]:
    """Documents without code, tables, and marks of what is generated."""
    hidden = re.compile(r"```.*?```|^\|[^\n]*$|<!--.*?-->", re.DOTALL | re.MULTILINE)
    return [hidden.sub("", (ROOT / name).read_text(encoding="utf-8")) for name in DOCUMENTS]


@pytest.mark.parametrize("texts", [docstrings, documents])
@pytest.mark.parametrize("pattern", [HIDDEN_SUBJECT, RIDDLE])
def test_sentences_name_their_subject(texts: object, pattern: re.Pattern[str]) -> None:
    """False before: one docstring sentence in ten began with What, Where or Of, and as many held a riddle."""
    every = [sentence for text in texts() for sentence in sentences(text)]  # type: ignore[operator]
    found = [sentence for sentence in every if pattern.search(sentence)]
    assert len(found) < MOST_OF_THEM * len(every), "\n".join(found[:20])


def test_functions_are_short() -> None:
    long = {name: body_lines(node) for name, node in functions() if not is_kernel(node)}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}


def test_kernels_take_few_arguments() -> None:
    """False before: a kernel took 23 arrays by position."""
    many = {name: len(node.args.args) for name, node in functions() if is_kernel(node)}
    assert {name: count for name, count in many.items() if count > MOST_KERNEL_ARGUMENTS} == {}


def test_modules_are_short() -> None:
    lines = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in trees()}
    assert {path: count for path, count in lines.items() if count > LONGEST_MODULE} == {}


def test_imports_make_no_circle() -> None:
    """False before: two pairs of modules imported each other, one of them inside a function."""
    names = {
        path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): tree for path, tree in trees().items()
    }
    imports: dict[str, set[str]] = {}
    for name, tree in names.items():
        found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level]
        wanted = {f"{node.module}.{alias.name}" for node in found for alias in node.names}
        wanted |= {node.module or "" for node in found if f"{node.module}.{node.names[0].name}" not in names}
        imports[name] = {other for other in wanted if other in names and other != name}
    assert list(TopologicalSorter(imports).static_order())


def test_every_name_is_used() -> None:
    """False before: constants and functions stayed behind when their last use went."""
    words = Counter(
        word
        for pattern in (
            "pktrace/**/*.py",
            "capture_scripts/**/*",
            "tests/**/*.py",
            "fixtures/**/*.py",
            "pyproject.toml",
        )
        for path in ROOT.glob(pattern)
        if path.is_file() and path.suffix in ("", ".py", ".toml")
        for word in re.findall(r"\w+", path.read_text(encoding="utf-8", errors="replace"))
    )
    unused = [
        f"{path}:{node.lineno} {name}"
        for path, tree in trees().items()
        for node in tree.body
        for name in defined(node)
        if words[name] == 1 and not name.startswith("EXIT_")  # the exit codes are a closed list
    ]
    assert unused == []


def defined(node: ast.stmt) -> list[str]:
    """Names that a statement of a module defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [] if node.name.startswith("__") else [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return [name.id for name in names if not name.id.startswith("__")]
