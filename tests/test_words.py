"""Words: those that the docs and the package do not use, each with what to write instead."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "eaves").rglob("*.py"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if not page.name.startswith("faults")),
]
UNUSED = (
    ("nobody", "no device, no thread, no person: say which"),
    ("anew", "again"),
    ("besides", "also, beside"),
    ("made up", "synthetic, generated"),
    ("let in", "authenticated, admitted"),
    ("world is in the way", "a runtime error"),
    ("belong to nobody", "shuffled labels"),
    ("by themselves", "generated automatically, on their own"),
    ("know each other by", "certificates and tokens of edges and clouds"),
)


def prose_of(source: str) -> str:
    """Return all strings and comments of Python code, one after the other."""
    strings = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return "\n".join([*strings, *comments])


def unused_in(text: str) -> list[str]:
    """Return what to change: each word that is found, and what to write instead."""
    return [
        f"{word!r}: write {instead}"
        for word, instead in UNUSED
        if re.search(r"\b" + word.replace(" ", r"\s+") + r"\b", text, re.IGNORECASE)
    ]


def test_plain_words_are_used() -> None:
    texts = {path: prose_of(path.read_text(encoding="utf-8")) for path in SOURCES}
    texts |= {page: page.read_text(encoding="utf-8") for page in PAGES}
    assert len(SOURCES) > 100
    assert len(PAGES) > 5

    found = {str(path.relative_to(ROOT)): unused_in(text) for path, text in texts.items()}

    assert {path: words for path, words in found.items() if words} == {}


@pytest.mark.parametrize(
    "planted",
    ['"""It is made\nup."""', "x = 1  # Nobody waits", 'raise ValueError(f"{x} starts anew")'],
)
def test_a_planted_word_is_found(planted: str) -> None:
    assert len(unused_in(prose_of(planted))) == 1


def test_names_in_code_are_not_prose() -> None:
    assert unused_in(prose_of("nobody = 1")) == []
