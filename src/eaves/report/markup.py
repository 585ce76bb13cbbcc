"""HTML in pieces. Text becomes :data:`Html` by :func:`text` alone, which escapes it."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NewType

Html = NewType("Html", str)
"""Markup that is safe to put into a page; a type of its own, so that no plain text gets there."""

_VOID = ("img", "meta")  # elements without an end
# Nothing is fetched and no script runs, whatever might get into the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def text(words: str) -> Html:
    """Return plain text as HTML shows it.

    >>> text("<b> & 'c'")
    '&lt;b&gt; &amp; &#x27;c&#x27;'
    """
    return Html(escape(words, quote=True))


def element(
    name: str, inside: Html | Iterable[Html] = (), attributes: Mapping[str, str] | None = None
) -> Html:
    """Return an element around what is ``inside``, one after the other.

    >>> element("p", text("a < b"), {"class": "note"})
    '<p class="note">a &lt; b</p>'
    """
    given = "".join(f' {key}="{text(value)}"' for key, value in (attributes or {}).items())
    if name in _VOID:
        return Html(f"<{name}{given}>")
    content = inside if isinstance(inside, str) else "".join(inside)
    return Html(f"<{name}{given}>{content}</{name}>")


def words(name: str, plain: str, kind: str = "") -> Html:
    """Return an element of one class with plain text in it."""
    return element(name, text(plain), {"class": kind} if kind else None)


def table(heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> Html:
    """Return a table of plain text that scrolls by itself; each row has a class and its cells."""
    top = element("tr", [words("th", head) for head in heads])
    body = [
        element("tr", [words("td", cell) for cell in cells], {"class": kind} if kind else None)
        for kind, cells in rows
    ]
    whole = element("table", [element("thead", top), element("tbody", body)])
    return element("div", whole, {"class": "scroll"})


def listed(sentences: Iterable[str]) -> Html:
    """Return sentences as a list."""
    return element("ul", [words("li", sentence) for sentence in sentences])


def picture(content: bytes, kind: str, about: str, style: str = "") -> Html:
    """Return an image that the page holds itself; ``kind`` is its type, as in image/png."""
    source = f"data:{kind};base64,{b64encode(content).decode()}"
    return element("img", (), {"src": source, "alt": about, "class": style})


def document(title: str, style: str, body: Iterable[Html]) -> bytes:
    """Return a whole page, which needs nothing but itself."""
    head = [
        element("meta", (), {"charset": "utf-8"}),
        element("meta", (), {"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        element("meta", (), {"name": "viewport", "content": "width=device-width"}),
        words("title", title),
        element("style", Html(style)),
    ]
    parts = [element("head", head), element("body", element("main", body))]
    return f"<!doctype html>\n{element('html', parts, {'lang': 'en'})}\n".encode()
