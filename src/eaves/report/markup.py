"""HTML of the page, by the templates beside this file. Whatever is put into one is escaped."""

from base64 import b64encode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_TEMPLATES = Environment(
    loader=PackageLoader("eaves.report"),
    autoescape=True,
    undefined=StrictUndefined,  # what a template lacks is an error, not an empty place
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def rendered(template: str, **values: object) -> Markup:
    """Return what the template of that name makes of ``values``.

    Raises:
        jinja2.UndefinedError: a value lacks what the template asks it for.
    """
    return Markup(_TEMPLATES.get_template(f"{template}.html").render(values))


def data_url(content: bytes, kind: str) -> str:
    """Return an image that the page holds itself; ``kind`` is its type, as in image/png.

    >>> data_url(b"x", "image/png")
    'data:image/png;base64,eA=='
    """
    return f"data:{kind};base64,{b64encode(content).decode()}"
