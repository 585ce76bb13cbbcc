"""JSON that knows its own checksum: damage on a disk is found when it is read."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

CHECKSUM: Final = "checksum"


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
    return hashlib.sha256(text.encode()).hexdigest()
