import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from eaves.errors import ConfigError, StateError, StorageError
from eaves.report.page import page, write_page
from eaves.report.runs import read_runs

Folder = Callable[..., Path]
Json = dict[str, Any]
_VOID = {"img", "meta"}


class _Page(HTMLParser):
    """A page as a browser would read it; every element must be closed where it belongs."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


@pytest.fixture(autouse=True)
def one_attribute(audit_json: Json) -> None:
    """Leave one private attribute: a figure for each takes its time."""
    del audit_json["attributes"]["Hat"]


def read(folders: list[Path], *, gallery: bool = True) -> _Page:
    return _Page(page(read_runs(folders), gallery=gallery))


def test_the_page_has_every_figure(run_folder: Folder) -> None:
    text = read([run_folder("a"), run_folder("b", audited=False)]).text
    for figure in (
        *("89.3 ±1.9", "88.0 ±2.0", "Male 65.1 ±2.9", "64.0 ±3.0", "57.1 ±3.1", "93.4 ±1.5"),
        *("61.4, 50.0", "14,945", "240 s", "0.400 ±0.010", "0.620 ±0.010", "0.330 ±0.010"),
        *("1.25, 2.5", "77.12, infinite", "102 B", "8.7 MB", "30 s", "25 %"),
        "limit 70 %: holds (its interval's upper end does too)",
        "Labels < are > sent & seen.",
    ):
        assert figure in text, figure


def test_nothing_is_fetched_and_nothing_runs(run_folder: Folder) -> None:
    content = page(read_runs([run_folder()]), gallery=True)
    found = _Page(content)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in found.elements}
    pointing = [
        value or ""
        for _, given in found.elements
        for name, value in given.items()
        if name in ("src", "href", "srcset", "style") or name.startswith("on")
    ]
    assert len(pointing) == 13  # a figure, twelve images
    assert all(re.match(r"data:image/(png|svg\+xml);base64,", value) for value in pointing)
    assert not re.search(rb"url\(|@import|https?:", content.partition(b"</style>")[0])


def test_without_the_gallery_no_example_is_shown(run_folder: Folder) -> None:
    folder = run_folder()
    whole, without = read([folder]), read([folder], gallery=False)
    kinds = [(given.get("src") or "")[:14] for tag, given in without.elements if tag == "img"]
    assert kinds == ["data:image/svg"]
    assert "Do not publish this page" in whole.text
    assert "Do not publish this page" not in without.text


def test_names_are_text_whatever_they_hold(
    run_folder: Folder, run_json: Json, audit_json: Json
) -> None:
    hostile = '<img src=x onerror="alert(1)">&amp;$x$\N{SNOWMAN}'
    run_json["net"] = hostile
    audit_json["attributes"] = {hostile: audit_json["attributes"]["Male"]}
    audit_json["subject"]["privacy"]["statement"] = [hostile]
    found = read([run_folder(hostile)])
    assert found.text.count(hostile) >= 4
    assert not any("onerror" in given for _, given in found.elements)
    assert {given["src"] for tag, given in found.elements if tag == "img"} != {"x"}


@pytest.mark.parametrize("part", ["record", "audit"])
def test_a_run_with_parts_missing_is_named(
    run_folder: Folder, run_json: Json, audit_json: Json, part: str
) -> None:
    if part == "record":
        del run_json["accuracy"]
    else:
        audit_json["attributes"]["Male"]["findings"] = [{"attack": 3}]
    with pytest.raises(StateError, match=r"record or audit in .*torn is damaged"):
        read([run_folder("torn")])


def test_a_gallery_of_other_classes_is_damage(run_folder: Folder, audit_json: Json) -> None:
    audit_json["subject"]["classes"] = ["one"]
    with pytest.raises(StateError, match="damaged: IndexError"):
        read([run_folder()])


def test_runs_that_nobody_attacked_have_a_page(run_folder: Folder) -> None:
    found = read([run_folder(audited=False)])
    assert "None of these runs was audited" in found.text
    assert not [tag for tag, _ in found.elements if tag == "img"]


def test_the_page_is_written_or_not_at_all(
    run_folder: Folder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, out = run_folder(), tmp_path / "new" / "page.html"
    assert write_page([folder], out, gallery=True) == 0
    assert f"Page is in {out}; runs: 1, audited: 1" in capsys.readouterr().out
    before = out.read_bytes()
    (folder / "record.json").write_text(json.dumps({}))
    with pytest.raises(StateError):
        write_page([folder], out, gallery=True)
    assert out.read_bytes() == before
    with pytest.raises(ConfigError):
        write_page([], out, gallery=True)
    with pytest.raises(StorageError):
        write_page([run_folder("other")], out / "under a file.html", gallery=True)
