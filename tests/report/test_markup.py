from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from eaves.report.markup import document, element, picture, table, text, words


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


@given(plain=PLAIN)
def test_text_stays_text_wherever_it_is_put(plain: str) -> None:
    seen = _Seen(element("p", text(plain), {"title": plain}))
    assert seen.elements == [("p", {"title": plain})]
    assert "".join(seen.texts) == plain


def test_a_table_has_a_class_for_each_row() -> None:
    seen = _Seen(table(["a", "<b>"], [("best", ["1", "2"]), ("", ["3", "&"])]))
    assert [tag for tag, _ in seen.elements] == [
        *("div", "table", "thead", "tr", "th", "th", "tbody"),
        *("tr", "td", "td", "tr", "td", "td"),
    ]
    assert [given for tag, given in seen.elements if tag == "tr"] == [{}, {"class": "best"}, {}]
    assert seen.texts == ["a", "<b>", "1", "2", "3", "&"]


def test_a_page_forbids_scripts_and_everything_from_elsewhere() -> None:
    page = document(
        "<title>", "p { margin: 0 }", [words("p", "hello"), picture(b"x", "image/png", "y")]
    )
    seen = _Seen(page.decode())
    policies = [given["content"] for _, given in seen.elements if "http-equiv" in given]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert ("img", {"src": "data:image/png;base64,eA==", "alt": "y", "class": ""}) in seen.elements
    assert "<title>" in seen.texts
    assert page.startswith(b'<!doctype html>\n<html lang="en">')
