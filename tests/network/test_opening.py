"""What an edge sends is compared with what was agreed, and then decoded by threads of their own."""

import struct
import threading
import zlib
from contextlib import closing
from dataclasses import replace
from time import perf_counter

import pytest
import torch
from tests.network.test_register import Deaf

from eaves.codecs import base as base_module
from eaves.codecs.base import parse_codec
from eaves.codecs.contract import Layout
from eaves.codecs.payload import Payload
from eaves.codecs.upload import pack_upload
from eaves.errors import PayloadError
from eaves.network import opening as module
from eaves.network.half import Accepts, largest_message
from eaves.network.opening import Opener, open_query, open_upload
from eaves.network.workqueue import QueryWork, UploadWork, WorkQueue

IMAGES = Accepts(
    feature_shape=(1, 8, 8),
    dtype=torch.uint8,
    classes=10,
    max_batch=16,
    query_batch=32,
    codec="raw",
)
FEATURES = replace(IMAGES, feature_shape=(4, 2, 2), dtype=torch.float32, codec="int8+zstd")


def payload(codec: str, shape: tuple[int, ...], params: bytes = b"", body: bytes = b"") -> bytes:
    """Return a payload that says this of itself, whatever is in it; its checksum is right."""
    return b"".join(Payload(codec, Layout(shape), params, body).parts())


def labelled(content: bytes, count: int) -> bytes:
    head = b"EAVU" + struct.pack("<BBI", 1, 1, count) + bytes(count)
    return head + struct.pack("<I", zlib.crc32(head)) + content


LONG = struct.pack("<Q", 2**28) + bytes(4)  # range-coded: so many bytes, it says
FILES = 845_070
HOSTILE = {
    "a huge count": payload("raw+range", (2**28,), body=LONG),
    "a huge count in the right shape": payload("raw+range", (2**22, 1, 8, 8), body=LONG),
    "many images": payload("png", (FILES, 1, 1, 1), params=bytes(4 * FILES)),
    "many images of the right size": payload("png", (FILES, 1, 8, 8), params=bytes(4 * FILES)),
    "another codec": payload("raw+zstd:19", (2, 1, 8, 8), body=bytes(20)),
    "a codec that nobody knows": payload("x" * 64, (2, 1, 8, 8)),
    "too many dimensions": payload("raw", (2, 1, 8, 8, 1, 1, 1, 1)),
    "too few": payload("raw", (128,), body=bytes(128)),
    "a batch too large": payload("raw", (33, 1, 8, 8), body=bytes(33 * 64)),
    "a huge batch": payload("raw", (2**32 - 1, 1, 8, 8)),
}


@pytest.mark.parametrize("codec", ["raw", "png", "raw+range"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_was_not_agreed_is_refused_before_anything_is_decoded(
    monkeypatch: pytest.MonkeyPatch, kind: str, codec: str
) -> None:
    monkeypatch.setattr(base_module.Codec, "_decode", _never)
    accepts, content = replace(IMAGES, codec=codec), HOSTILE[kind]
    for attempt in (
        lambda: open_query(accepts, content),
        lambda: open_upload(accepts, labelled(content, 2)),
        lambda: open_upload(accepts, labelled(content, 33)),
    ):
        started = perf_counter()
        with pytest.raises(PayloadError):
            attempt()
        assert perf_counter() - started < 0.2


def _never(*_: object) -> None:
    raise AssertionError("it is decoded")


def test_the_bounds_of_uploads_and_of_queries_are_their_own() -> None:
    x_BCHW = torch.zeros(32, 1, 8, 8, dtype=torch.uint8)
    codec = parse_codec("raw")
    assert open_query(IMAGES, codec.encode(x_BCHW)).shape == x_BCHW.shape
    labels_B = torch.zeros(32, dtype=torch.int64)
    with pytest.raises(PayloadError, match="32 examples at once are above the limit of 16"):
        open_upload(IMAGES, pack_upload(x_BCHW, labels_B, codec))
    good = pack_upload(x_BCHW[:16], labels_B[:16], codec)
    assert len(open_upload(IMAGES, good).labels) == 16


@pytest.mark.parametrize(
    "codec",
    ["fp32", "fp16", "int8", "int8+zstd", "int8:channel", "int2", "int1:tensor", "fp32+range"],
)
def test_no_message_that_was_agreed_is_above_the_largest(codec: str) -> None:
    accepts, made = replace(FEATURES, codec=codec), parse_codec(codec)
    noise = torch.randn(32, 4, 2, 2) * 1e3
    assert len(made.encode(noise)) + 200 < largest_message(made, accepts)
    assert largest_message(made, accepts) < 2 * 2**20


@pytest.mark.parametrize("codec", ["raw", "png", "jpeg:100", "raw+zstd"])
def test_nor_is_one_of_images(codec: str) -> None:
    accepts = replace(IMAGES, feature_shape=(3, 32, 32), codec=codec)
    made = parse_codec(codec)
    noise = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8)
    hello = 2**20
    assert len(made.encode(noise)) + hello < largest_message(made, accepts)


# The threads


def opened(work: WorkQueue, count: int) -> list[UploadWork]:
    found: list[UploadWork] = []
    for _ in range(200):
        work.wait(0.05)
        found += work.take_uploads(1)
        if len(found) == count:
            break
    return found


def test_uploads_are_opened_in_the_order_of_their_edge_and_bad_ones_say_why() -> None:
    work = WorkQueue(opens=True)
    codec, line = parse_codec("int8+zstd"), Deaf("a", "r")
    good = pack_upload(torch.ones(2, 4, 2, 2), torch.tensor([1, 2]), codec)
    for seq, content in enumerate((good, b"bad", good), 1):
        work.put(UploadWork(line, seq, seq - 1, content))
    with closing(Opener(FEATURES, work)) as opener:
        opener.start()
        first, bad, last = opened(work, 3)
    assert [first.seq, bad.seq, last.seq] == [1, 2, 3]
    assert first.opened.value is not None
    assert first.opened.value.labels.tolist() == [1, 2]
    assert "expected an upload" in str(bad.opened.error)
    assert last.opened.done


def test_decoders_that_fail_in_any_way_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(module, "decode", fail)
    monkeypatch.setattr(module, "unpack_upload", fail)
    work = WorkQueue(opens=True)
    query, upload = QueryWork(b"x", edge="a"), UploadWork(Deaf("b", "r"), 1, 0, b"x")
    work.put(query)
    work.put(upload)
    with closing(Opener(FEATURES, work)) as opener:
        opener.start()
        with pytest.raises(PayloadError, match="cannot be decoded: MemoryError"):
            query.answer.result(timeout=10)
        assert "MemoryError" in str(opened(work, 1)[0].opened.error)


def test_one_edge_that_takes_long_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a slow edge sends holds one thread; the others' queries and uploads go on."""
    go = threading.Event()
    real = base_module.decode

    def slow(content: bytes, **rest: object) -> torch.Tensor:
        if content == b"slow":
            go.wait(20)
        return real(content, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "decode", slow)
    work = WorkQueue(opens=True)
    bad = [QueryWork(b"slow", edge="evil") for _ in range(20)]
    good = QueryWork(parse_codec("int8+zstd").encode(torch.ones(1, 4, 2, 2)), edge="honest")
    for query in (*bad, good):
        work.put(query)
    with closing(Opener(FEATURES, work)) as opener:
        opener.start()
        started = perf_counter()
        work.wait(10)
        assert work.take_queries(9) == [good]
        assert perf_counter() - started < 5
        go.set()
        for query in bad:
            with pytest.raises(PayloadError):
                query.answer.result(timeout=10)


def test_a_query_that_nobody_waits_for_is_not_decoded() -> None:
    work = WorkQueue(opens=True)
    gone = QueryWork(b"x", edge="a")
    assert gone.answer.cancel()
    work.put(gone)
    with closing(Opener(FEATURES, work)) as opener:
        opener.start()
        for _ in range(100):
            if not len(work):
                break
            threading.Event().wait(0.02)
    assert len(work) == 0
    assert work.take_queries(9) == []


@pytest.mark.parametrize(
    ("codec", "rows", "at_once"),
    [
        ("int8+zstd", 1, True),
        ("fp32", 4, True),
        ("int8+zstd", 1500, False),
        ("fp32+range", 1, False),
    ],
)
def test_small_queries_are_ready_as_they_come_and_others_go_to_the_threads(
    codec: str, rows: int, at_once: bool
) -> None:
    work = WorkQueue(opens=True)
    opener = Opener(replace(FEATURES, codec=codec, query_batch=2000), work)  # no thread has begun
    query = QueryWork(parse_codec(codec).encode(torch.zeros(rows, 4, 2, 2)), edge="a")
    assert len(query.payload) < 2**16  # also where what it holds is not
    opener.ask(query)
    assert work.take_queries(9) == ([query] if at_once else [])
    bad = QueryWork(b"bad", edge="a")
    opener.ask(bad)
    # Whoever answers it refuses it, but where its codec can take long.
    assert work.take_queries(9) == ([] if codec == "fp32+range" else [bad])
