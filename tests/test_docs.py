"""Docs: files and names on the design page and in the decisions exist, links lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "eaves"
DOCS = ROOT / "docs"
DESIGN = DOCS / "design.md"
DECISIONS = sorted(DOCS.glob("decisions/[0-9]*.md"))
INDEX = DOCS / "decisions" / "README.md"
PAGES = [DESIGN, INDEX, *DECISIONS]
LINKED = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("decisions/*.md")]

DESIGN_LINES = 170
DECISION_LINES = 45
SECTIONS = ["Context", "Decision", "Consequences", "Code"]

_CODE = re.compile(r"`([^`]+)`")
_PATH = re.compile(r"(?:[\w.-]+/)*[\w-]+\.(?:py|pyi|md|proto)|(?:[\w.-]+/)+(?:[\w-]+(?:\.\w+)?)?")
_OURS = re.compile(r"eaves(?:\.\w+)+")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_FOR_EXAMPLE = {"FILE.py", "tests/LAYER/test_MODULE.py", "methods/NAME.py"}


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def paths_in(text: str) -> list[str]:
    """Return what is written as code and looks like a path of the repository."""
    quoted = (code for code in _CODE.findall(text) if code not in _FOR_EXAMPLE)
    return [code for code in quoted if _PATH.fullmatch(code)]


def found(path: str, within: str = "") -> Path | None:
    """Return the file or folder: from the root, from the package, or within one of its layers."""
    places = (ROOT / path, SOURCE / path, SOURCE / within / path)
    return next((place for place in places if place.exists()), None)


def layered_paths(text: str) -> Iterator[tuple[str, str]]:
    """Yield (path, layer); an item or table row that begins with a layer names files in it."""
    for item in re.split(r"\n\n|\n(?=[|-] )", text):
        begins = re.match(r"[|-] `(\w+)/?`", item)
        layer = begins[1] if begins else ""
        for path in paths_in(item):
            yield path, layer


def missing_modules(text: str) -> list[str]:
    """Return the dotted names of ours, in code, that are neither a module nor a name in one."""
    dotted = (code for code in _CODE.findall(text) if _OURS.fullmatch(code))
    return [name for name in dotted if not _is_ours(name)]


def _is_ours(dotted: str) -> bool:
    place = SOURCE.joinpath(*dotted.split(".")[1:])
    if place.is_dir() or place.with_suffix(".py").is_file():
        return True
    module = place.parent.with_suffix(".py")
    return module.is_file() and re.search(rf"\b{place.name}\b", _text(module)) is not None


def missing_names(text: str) -> list[str]:
    """Return ``path: name`` for each name under Code that is not in the files beside it."""
    missing = []
    for item in re.split(r"\n(?=- )", text.partition("## Code")[2].strip()):
        codes = _CODE.findall(item)
        files = [file for code in codes if (file := found(code)) is not None and file.is_file()]
        for name in (code for code in codes if code.isidentifier()):
            pattern = re.compile(rf"\b{name}\b")
            if not any(pattern.search(_text(file)) for file in files):
                missing.append(f"{codes[0]}: {name}")
    return missing


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", _text(page)), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


def broken_links(page: Path) -> list[str]:
    """Return the links of a page, to files of ours, that lead to no file or to no heading."""
    broken = []
    for link in _LINK.findall(_FENCE.sub("", _text(page))):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def test_the_design_page_is_a_map() -> None:
    assert len(_text(DESIGN).splitlines()) <= DESIGN_LINES


def test_decisions_are_numbered_without_gaps() -> None:
    assert len(DECISIONS) > 25
    assert [page.name[:4] for page in DECISIONS] == [f"{i + 1:04d}" for i in range(len(DECISIONS))]


def test_the_table_lists_every_decision_by_its_title() -> None:
    listed = re.findall(r"^\| \[(\d{4})\]\(([\w.-]+)\) \| (.+?) \|", _text(INDEX), re.MULTILINE)
    titles = [_text(page).splitlines()[0] for page in DECISIONS]
    assert [file for _, file, _ in listed] == [page.name for page in DECISIONS]
    assert [f"# {number}. {title}" for number, _, title in listed] == titles


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_is_one_page_of_four_sections(page: Path) -> None:
    text = _text(page)
    assert len(text.splitlines()) <= DECISION_LINES
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert paths_in(text.partition("## Code")[2])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    text = _text(page)
    assert [path for path, layer in layered_paths(text) if found(path, layer) is None] == []
    assert missing_modules(text) == []


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_names_that_are_given_for_a_file_are_in_it(page: Path) -> None:
    assert missing_names(_text(page)) == []


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_what_does_not_exist_is_found(tmp_path: Path) -> None:
    text = "- `core/nothing.py`, `core/net.py`, `eaves.core.nothing` and `eaves.core.net.split_at`"
    assert [path for path in paths_in(text) if found(path) is None] == ["core/nothing.py"]
    assert missing_modules(text) == ["eaves.core.nothing"]
    assert found("net.py") is None
    assert found("net.py", "core") == SOURCE / "core" / "net.py"
    assert list(layered_paths("| `core/` | `net.py` |")) == [("core/", "core"), ("net.py", "core")]
    assert missing_names("## Code\n\n- `core/net.py`: `split_at`, `split_by`") == [
        "core/net.py: split_by"
    ]
    page = tmp_path / "page.md"
    page.write_text("# A b\n[x](#a-b) [y](#b) [z](page.md#a-b) [w](no.md) [v](https://x.y/)")
    assert broken_links(page) == ["#b", "no.md"]
