"""Files that know their own checksum: damage on a disk is found when they are read."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

CHECKSUM: Final = "checksum"
# First, because a file that was cut short loses its end: it would look like one from before
# checksums existed.
_FIRST_LINE: Final = "# checksum: "  # a comment in TOML, so that people may go on editing it


def sealed_json(values: Mapping[str, Any]) -> bytes:
    r"""Return ``values`` as JSON, with the checksum of all of them as the last one.

    What is no JSON is a ``ValueError`` or ``TypeError``: NaN, an object.

    >>> sealed_json({"steps": 3})[:29]
    b'{\n "steps": 3,\n "checksum": "'
    """
    # As they will be read: tuples are lists by then, and keys are text.
    plain = json.loads(json.dumps(values))
    plain.pop(CHECKSUM, None)
    return json.dumps({**plain, CHECKSUM: _checksum(plain)}, indent=1, allow_nan=False).encode()


def unsealed_json(content: bytes) -> Any:
    """Return what :func:`sealed_json` was given; files from before it existed have no checksum.

    What is no JSON object is returned as it is: the caller knows what it expects.

    Raises:
        ValueError: it is no JSON, or has changed since it was written.

    >>> unsealed_json(sealed_json({"steps": 3}))
    {'steps': 3}
    >>> unsealed_json(sealed_json({"steps": 3}).replace(b"3", b"4", 1))
    Traceback (most recent call last):
    ValueError: the checksum does not fit: it has changed since it was written
    """
    values = json.loads(content)
    said = values.pop(CHECKSUM, None) if isinstance(values, dict) else None
    if said is not None and said != _checksum(values):
        raise ValueError("the checksum does not fit: it has changed since it was written")
    return values


def _checksum(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return _sha256(text)


def sealed_text(text: str) -> bytes:
    r"""Return ``text`` behind a comment that holds its checksum, as its first line.

    First, so that a file that is cut does not look like one from before there were checksums.

    >>> sealed_text("epochs = 3\n")[:20]
    b'# checksum: 4f9956dd'
    """
    return f"{_FIRST_LINE}{_sha256(text)}\n{text}".encode()


def unsealed_text(content: bytes) -> str:
    r"""Return what :func:`sealed_text` was given; files from before it existed have no checksum.

    Raises:
        ValueError: it is no UTF-8, or has changed since it was written.

    >>> unsealed_text(sealed_text("epochs = 3\n"))
    'epochs = 3\n'
    >>> unsealed_text(sealed_text("epochs = 3\n").replace(b"epochs = 3", b"epochs = 4", 1))
    Traceback (most recent call last):
    ValueError: the checksum does not fit: it has changed since it was written
    """
    found = content.decode()
    if found[: len(_FIRST_LINE)] != _FIRST_LINE[: len(found)]:
        return found
    said, _, text = found.removeprefix(_FIRST_LINE).partition("\n")
    if said != _sha256(text):
        raise ValueError("the checksum does not fit: it has changed since it was written")
    return text


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
