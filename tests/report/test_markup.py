from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markupsafe import Markup

from eaves.report.markup import rendered
from eaves.report.verdicts import Row


class _Seen(HTMLParser):
    """All that a browser would see: elements in order, and their text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


# No carriage returns: HTML turns them into newlines.
PLAIN = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]), min_size=1)


def page(**values: object) -> Markup:
    """The page with nothing in it but ``values``."""
    empty = ("figures", "run_heads", "runs", "cost_heads", "costs", "sections")
    return rendered("page", **{**dict.fromkeys(empty, ()), **values})


@given(plain=PLAIN)
def test_text_stays_text_wherever_it_is_put(plain: str) -> None:
    seen, empty = (
        _Seen(page(figures=[(text, text)], run_heads=[text], runs=[Row(cells=(text,))]))
        for text in (plain, "")
    )
    image = {"src": plain, "alt": plain, "class": "figure"}
    assert [given for tag, given in seen.elements if tag == "img"] == [image]
    assert len(seen.elements) == len(empty.elements)
    assert "".join(seen.texts).count(plain) >= 3


def test_a_table_has_a_class_for_each_row() -> None:
    rows = [
        Row(cells=("1", "2"), best=True),
        Row(cells=("3", "&"), beside=True),
        Row(cells=("4", "5")),
    ]
    seen = _Seen(page(run_heads=["a", "<b>"], runs=rows))
    lines = [given for tag, given in seen.elements if tag == "tr"]
    assert lines == [{}, {"class": "best"}, {"class": "beside"}, {}, {}]  # the last: of the costs
    cells = [text for text in seen.texts if text in ("a", "<b>", "&") or text.isdigit()]
    assert cells == ["a", "<b>", "1", "2", "3", "&", "4", "5"]


def test_a_section_is_put_into_the_page_as_it_is_and_plain_text_never() -> None:
    section = Markup("<h2>One &amp; only</h2>")
    assert section in page(sections=[section])
    assert "<script>" not in page(sections=["<script>"])


def test_what_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="figures"):
        rendered("page", sections=())


def test_a_page_forbids_scripts_and_everything_from_elsewhere() -> None:
    made = page()
    policies = [given["content"] for _, given in _Seen(made).elements if "http-equiv" in given]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert made.startswith('<!doctype html>\n<html lang="en">')
    assert made.endswith("</html>\n")
