"""Valid inputs made invalid: by bytes, by fields, and with checksums made right again.

A mutation is a pure function of the bytes and a generator of random numbers, so that a seed says
what it does.
"""

import base64
import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Final

Mutation = Callable[[random.Random, bytes], bytes]

_EXTREMES: Final = (0, 1, 2, 127, 128, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
_WIDE: Final = (*_EXTREMES, 2**48, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
_WIDTHS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_VALUES: Final[Sequence[Any]] = (
    *(None, True, False, 0, 1, -1, 1.5, 2**31, 2**63, 2**64, -(2**63), 10**400),
    *(float("inf"), float("-inf"), float("nan"), 1e308, "", "x", "\0", "\ud800", "x" * 5000),
    *("../../../etc/passwd", "1970-01-01", "0" * 64, [], {}, [[]], [0], {"": 0}, ["a", "b"]),
)
_DEEP: Final = "[" * 3000
_TOKENS: Final = (
    *("[", "]", "{", "}", '"', "'", "=", ",", ":", "\n", "\0", "#", "\\", '"""', "\ufeff", "[["),
    *("null", "true", "nan", "inf", "-1", "1e999", "0x", "1979-05-27", "\\ud800", "\\u0000"),
    *("9" * 5000, _DEEP, '{"a":' * 3000, "é", "\u2028", "= 1\n", "~", "/dev/zero"),
)


def any_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip, cut, repeat, insert or overwrite, once to four times."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice((_flip, _cut, _repeat, _insert, _overwrite, _number, _remove))(rng, data)
    return data


def _flip(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return data
    out, at = bytearray(data), _place(rng, len(data))
    out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


def _place(rng: random.Random, size: int) -> int:
    """Return a place that is more often near the beginning, where headers are."""
    return min(size - 1, rng.randrange(min(size, rng.choice((16, 64, 256, size)))))


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randint(0, len(data))
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 32, 256, len(data))))


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    times = rng.choice((1, 2, 16)) if end - start > 256 else rng.choice((1, 2, 16, 300))
    return data[:end] + data[start:end] * times + data[end:]


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.randbytes(rng.choice((1, 4, 16, 200))) + data[at:]


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    new = rng.choice((bytes(end - start), b"\xff" * (end - start), rng.randbytes(end - start)))
    return data[:start] + new + data[end:]


def _number(rng: random.Random, data: bytes) -> bytes:
    """Set a field of 1 to 8 bytes to an extreme, or near to what it was."""
    width = rng.choice(tuple(_WIDTHS))
    if len(data) < width:
        return data
    at, code = _place(rng, len(data) - width + 1), rng.choice("<>") + _WIDTHS[width]
    old = int(struct.unpack_from(code, data, at)[0])
    value = rng.choice((*_WIDE, old + 1, old - 1, old * 2)) % 256**width
    return data[:at] + struct.pack(code, value) + data[at + width :]


def _remove(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def spliced(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Return the beginning of one input and the end of another."""
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


# Payloads and uploads


def payload(rng: random.Random, data: bytes) -> bytes:
    """Change the header, the parameters or the body of a payload under a right checksum."""
    parts = _taken_apart(data)
    if parts is None or rng.random() < 0.15:
        return any_bytes(rng, data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice((_header, _name, _shape, _params, _body, _body, _body))(rng, parts)
    fixed, name, shape, params_bytes, params, body = parts
    sizes = b"".join(struct.pack("<I", n % 2**32) for n in (*shape, params_bytes))
    content: bytes = bytes(fixed) + name + sizes + params + body
    return content + struct.pack("<I", zlib.crc32(content))


def _taken_apart(data: bytes) -> list[Any] | None:
    """Return fixed part, name, shape, length of the parameters, parameters, body."""
    try:
        _, _, _, dims, length = struct.unpack_from("<4s4B", data)
        name, at = data[8 : 8 + length], 8 + length
        *shape, params_bytes = struct.unpack_from(f"<{dims + 1}I", data, at)
    except struct.error:
        return None
    at += 4 * (dims + 1)
    body = data[at + params_bytes : -4]
    return [bytearray(data[:8]), name, shape, params_bytes, data[at : at + params_bytes], body]


def _header(rng: random.Random, parts: list[Any]) -> None:
    parts[0][rng.randrange(4, 8)] = rng.choice((0, 1, 2, 3, 4, 5, 8, 9, 64, 65, 255))


def _name(rng: random.Random, parts: list[Any]) -> None:
    stages = (
        b"fp32 fp16 fp16:scaled bf16 int8 int8:channel int4 int2 int2:tensor int1 raw png jpeg "
        b"jpeg:1"
    )
    more = b"zstd zstd:19 range zstd:99 range:x"
    names = (b"+".join((rng.choice(stages.split()), rng.choice(more.split()))), parts[1].upper())
    parts[1] = rng.choice((*names, rng.choice(stages.split()), any_bytes(rng, parts[1])))[:255]
    if rng.random() < 0.9:
        parts[0][7] = len(parts[1])


def _shape(rng: random.Random, parts: list[Any]) -> None:
    shape: list[int] = parts[2]
    if shape and rng.random() < 0.7:
        i = rng.randrange(len(shape))
        shape[i] = rng.choice((*_EXTREMES, shape[i] + 1, shape[i] * 2))
    else:
        parts[2] = rng.choice((shape[1:], [*shape, 1], shape[::-1], [1, *shape], [1] * 8))
    if rng.random() < 0.9:
        parts[0][6] = len(parts[2]) % 256


def _params(rng: random.Random, parts: list[Any]) -> None:
    floats = struct.pack("<f", rng.choice((0.0, -1.0, 1e38, 3e38, float("inf"), float("nan"))))
    at = rng.randint(0, len(parts[4]))
    changed = (any_bytes(rng, parts[4]), parts[4][:at] + floats + parts[4][at + 4 :], b"")
    parts[4] = rng.choice(changed)
    parts[3] = len(parts[4]) if rng.random() < 0.8 else rng.choice(_EXTREMES)


def _body(rng: random.Random, parts: list[Any]) -> None:
    chunked = parts[5][:8] == b"\x89PNG\r\n\x1a\n"
    of_its_kind = _png if chunked else rng.choice((_floats, _flip, _overwrite, _number))
    parts[5] = (of_its_kind if rng.random() < 0.8 else any_bytes)(rng, parts[5])


def _floats(rng: random.Random, data: bytes) -> bytes:
    """Set some of what may be float32 to values that are hard to compute with."""
    out, value = bytearray(data), rng.choice((-1.0, 1e-45, 1e10, 1e15, 1e20, -3e38, float("nan")))
    for _ in range(rng.choice((1, 2, len(data) // 4))):
        at = 4 * rng.randrange(max(1, len(data) // 4))
        out[at : at + 4] = struct.pack("<f", value)[: max(0, len(out) - at)]
    return bytes(out)


def _png(rng: random.Random, data: bytes) -> bytes:
    """Change chunks of a PNG file; each gets a right checksum (PNG specification, 5.3)."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    i = rng.randrange(len(chunks) or 1)
    if chunks:
        kind, content = chunks[i]
        kinds = (kind, b"tEXt", b"zTXt", b"iCCP", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL")
        chunks[i : i + 1] = rng.choice(
            ([(kind, any_bytes(rng, content))], [(rng.choice(kinds), content)], [chunks[i]] * 2, [])
        )
    made = [
        len(content).to_bytes(4, "big")
        + kind
        + content
        + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in chunks
    ]
    return data[:8] + b"".join(made) + data[at:]


def upload(rng: random.Random, data: bytes) -> bytes:
    """Change the labels' header, the labels or the payload of an upload; checksums are right."""
    if len(data) < 10 or rng.random() < 0.1:
        return any_bytes(rng, data)
    width, count = data[5], int.from_bytes(data[6:10], "little")
    end = 10 + width * count
    head, rest = bytearray(data[:end]), data[end + 4 :]
    if rng.random() < 0.6:
        rest = payload(rng, rest)
    else:
        at = _place(rng, len(head)) if rng.random() < 0.5 else rng.randrange(4, 10)
        head[at : at + 1] = bytes([rng.choice((0, 1, 2, 4, 8, 127, 255, head[at] ^ 1))])
    return bytes(head) + struct.pack("<I", zlib.crc32(head)) + rest


# Protobuf


def protobuf(nested: Mutation) -> Mutation:
    """Return a mutation of a message's fields; ``nested`` changes what is in fields of bytes."""

    def mutate(rng: random.Random, data: bytes) -> bytes:
        fields = _fields(data)
        if not fields or rng.random() < 0.15:
            return any_bytes(rng, data)
        for _ in range(rng.randint(1, 2)):
            i = rng.randrange(len(fields))
            number, kind, value = fields[i]
            if isinstance(value, bytes) and rng.random() < 0.8:
                inner = mutate if _fields(value) and rng.random() < 0.7 else nested
                fields[i] = (number, kind, inner(rng, value))
            elif isinstance(value, int) and rng.random() < 0.8:
                fields[i] = (number, kind, rng.choice((*_WIDE, value + 1, max(0, value - 1))))
            else:
                number = rng.choice((0, 1, 2, 3, 4, 15, 16, 2**29 - 1))
                fields[i : i + 1] = rng.choice(([], [fields[i]] * 2, [(number, kind, value)]))
                fields = fields or [(1, 0, 0)]
        return b"".join(map(_field, fields))

    return mutate


def _fields(data: bytes) -> list[tuple[int, int, int | bytes]]:
    """Return (number, wire type, value) of each field; nothing where it is no message."""
    found: list[tuple[int, int, int | bytes]] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value, at = _varint(data, at)
            found.append((tag >> 3, 0, value))
        elif tag & 7 == 2:
            length, at = _varint(data, at)
            if at < 0 or at + length > len(data):
                return []
            found.append((tag >> 3, 2, data[at : at + length]))
            at += length
        else:
            return []
        if at < 0:
            return []
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while 0 <= at < len(data) and shift < 70:
        value |= (data[at] & 0x7F) << shift
        if data[at] < 0x80:
            return value, at + 1
        at, shift = at + 1, shift + 7
    return 0, -(2**62)


def _field(field: tuple[int, int, int | bytes]) -> bytes:
    number, kind, value = field
    if isinstance(value, bytes):
        return _written(number << 3 | kind) + _written(len(value)) + value
    return _written(number << 3 | kind) + _written(value)


def _written(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


# Text


def text(rng: random.Random, data: bytes) -> bytes:
    """Insert or replace by what parsers stumble over; values after ``=`` become others."""
    if rng.random() < 0.2:
        return any_bytes(rng, data)
    written = data.decode(errors="replace")
    values = list(re.finditer(r"(?<=[=:]) *[^\n,}\]]+", written))
    if values and rng.random() < 0.6:
        place = rng.choice(values)
        new = f" {_short(rng)}"
        written = written[: place.start()] + new + written[place.end() :]
    else:
        at = rng.randint(0, len(written))
        end = rng.choice((at, at, rng.randint(at, len(written))))
        written = written[:at] + rng.choice(_TOKENS) + written[end:]
    return written.encode(errors="replace")


def _short(rng: random.Random) -> str:
    numbers = (*map(str, _WIDE), "-1", "-0.0", "inf", "nan", "1e308", "9" * 400, "9" * 5000)
    others = ('""', '"\\u0000"', "[]", "{}", "true", '"x"', "1979-05-27", f'"{"a" * 300}"', "[1]")
    addresses = ('"[::1]:7"', '"a:99999"', '":"', '"0:0"', '"1.2.3.4.5:1"', '"é:1"', '"[:1"')
    return rng.choice((*numbers, *others, *addresses, _DEEP))


def json_values(rng: random.Random, data: bytes) -> bytes:
    """Replace, remove or add values anywhere in a JSON text."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return text(rng, data)
    if rng.random() < 0.25:
        return text(rng, data)
    for _ in range(rng.randint(1, 2)):
        places = list(_places(found))
        if not places:
            return json.dumps(rng.choice(_VALUES)).encode()
        holder, key = rng.choice(places)
        if rng.random() < 0.2:
            del holder[key]
        elif isinstance(holder, dict) and rng.random() < 0.2:
            holder[rng.choice(("", "\ud800", "steps", "x" * 3000, *map(str, holder)))] = 1
        else:
            new = rng.choice((*_VALUES, holder[key], str(holder[key]), [holder[key]]))
            holder[key] = deepcopy(new)
    return json.dumps(found).encode(errors="replace")


def _places(value: Any) -> Sequence[tuple[Any, Any]]:
    keys: Sequence[Any] = ()
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = range(len(value))
    return [(value, key) for key in keys] + [p for key in keys for p in _places(value[key])]


def pem(rng: random.Random, data: bytes) -> bytes:
    """Change the bytes within a PEM block, or the text around it."""
    lines = data.splitlines()
    if len(lines) < 3 or rng.random() < 0.2:
        return any_bytes(rng, data)
    try:
        der = base64.b64decode(b"".join(lines[1:-1]))
    except ValueError:
        return any_bytes(rng, data)
    body = base64.encodebytes(any_bytes(rng, der))
    return lines[0] + b"\n" + body + lines[-1] + b"\n"
