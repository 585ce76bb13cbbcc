"""The bytes of the wire against protobuf's own, and the terms that both halves must share."""

import json
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc._cython import cygrpc
from grpc_tools import protoc
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eaves.errors import ConfigError, PayloadError
from eaves.network import eaves_pb2
from eaves.network.eaves_pb2 import CloudMessage, EdgeMessage, Finish, Hello, Query
from eaves.network.wire import (
    MAX_MESSAGE_BYTES,
    PROTOCOL,
    SERVICE,
    Uploaded,
    channel_options,
    expect_same_terms,
    pack,
    pack_edge_message,
    pack_terms,
    server_options,
    unpack,
    unpack_edge_message,
    unpack_terms,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
TERMS = st.dictionaries(st.text(), VALUES, max_size=4)
EDGES_OF_VARINTS = [0, 1, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21, 2**32, 2**63, 2**64 - 1]


def as_protobuf(seq: int, follows: int, payload: bytes) -> bytes:
    message = EdgeMessage()
    message.upload.SetInParent()
    message.upload.seq, message.upload.follows, message.upload.payload = seq, follows, payload
    return message.SerializeToString()


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=300))
@example(0, 0, b"")
def test_an_upload_packs_as_protobuf_would(seq: int, follows: int, payload: bytes) -> None:
    assert pack_edge_message((seq, follows, payload)) == as_protobuf(seq, follows, payload)


@pytest.mark.parametrize("number", EDGES_OF_VARINTS)
def test_an_upload_packs_as_protobuf_would_at_every_length_of_a_number(number: int) -> None:
    for size in (0, 126, 127, 128, 16_370, 16_383, 16_384, 2**21 - 9, 2**21):
        payload = bytes(size)
        assert pack_edge_message((number, 3, payload)) == as_protobuf(number, 3, payload), size
        assert pack_edge_message((3, number, payload)) == as_protobuf(3, number, payload), size


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.one_of(st.just(b""), st.binary(max_size=300)),
)
def test_an_upload_is_read_as_protobuf_would(seq: int, follows: int, payload: bytes) -> None:
    content = pack_edge_message((seq, follows, payload))
    found = unpack_edge_message(content)
    if not isinstance(found, Uploaded):  # left to protobuf, as where a field is not written
        assert isinstance(found, EdgeMessage)
        assert not seq or not payload or max(seq, follows) >= 2**63
        found = Uploaded(found.upload.seq, found.upload.follows, memoryview(found.upload.payload))
    assert (found.seq, found.follows, bytes(found.payload)) == (seq, follows, payload)


@given(st.data())
def test_whatever_is_changed_in_an_upload_protobuf_agrees(data: st.DataObject) -> None:
    content = bytearray(pack_edge_message((300, 299, b"payload" * 30)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 15))] = data.draw(st.integers(0, 255))
    found, theirs = unpack_edge_message(bytes(content)), unpack(EdgeMessage)(bytes(content))
    if isinstance(found, Uploaded):
        assert isinstance(theirs, EdgeMessage)
        upload = theirs.upload
        assert (found.seq, found.follows) == (upload.seq, upload.follows)
        assert bytes(found.payload) == upload.payload
    else:
        assert found == theirs


def test_other_messages_of_an_edge_pack_as_they_are() -> None:
    for message in (EdgeMessage(hello=Hello(run="a", steps=3)), EdgeMessage(finish=Finish(seq=9))):
        assert unpack(EdgeMessage)(pack_edge_message(message)) == message
        assert pack(message) == pack_edge_message(message)


@settings(max_examples=300)
@given(st.binary(max_size=60))
@example(b"\xff")
@example(b"\x12\x05ab")  # an upload of 5 bytes, of which two are there
@example(b"\x0a\x03\x12\x01\xff")  # a hello whose version is no UTF-8
def test_bytes_that_are_no_message_are_none_and_never_an_error(content: bytes) -> None:
    for kind in (EdgeMessage, CloudMessage, Query):
        found = unpack(kind)(content)
        assert found is None or isinstance(found, kind)


def test_some_bytes_are_no_message() -> None:
    assert unpack(EdgeMessage)(b"\x12\x05ab") is None
    assert unpack(EdgeMessage)(b"\x0a\x03\x12\x01\xff") is None
    whole = as_protobuf(7, 6, b"payload")
    cut = [unpack(EdgeMessage)(whole[:end]) for end in range(1, len(whole))]
    assert cut == [None] * len(cut)


def test_the_python_of_the_messages_is_that_of_the_proto_file(tmp_path: Path) -> None:
    folder = Path(eaves_pb2.__file__).parent
    out = tmp_path / "messages"
    words = [f"-I{folder}", f"--descriptor_set_out={out}", str(folder / "eaves.proto")]
    assert protoc.main(["protoc", *words]) == 0
    (compiled,) = FileDescriptorSet.FromString(out.read_bytes()).file
    ours = FileDescriptorProto.FromString(eaves_pb2.DESCRIPTOR.serialized_pb)
    for file in (compiled, ours):
        file.name = "eaves.proto"  # protoc writes the path that it was called with
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")
    assert ours == compiled
    assert f"{compiled.package}.{compiled.service[0].name}" == SERVICE
    assert {method.name for method in compiled.service[0].method} == {"Train", "Infer", "Status"}


def test_grpc_knows_every_option() -> None:
    # It ignores a name that it does not know, and says nothing.
    library = Path(cygrpc.__file__).read_bytes()
    names = [name for name, _ in (*channel_options(), *server_options())]
    assert [name for name in names if name.encode() not in library] == []


def test_both_ends_agree_on_the_largest_message() -> None:
    for most in (1000, MAX_MESSAGE_BYTES):
        sides = [dict(channel_options(most)), dict(server_options(most))]
        names = ("grpc.max_send_message_length", "grpc.max_receive_message_length")
        sizes = {side[name] for side in sides for name in names}
        (size,) = sizes
        assert size >= len(as_protobuf(2**64 - 1, 2**64 - 1, bytes(most)))
    # A server ends connections that ping more often than it permits.
    ping_ms = dict(channel_options())["grpc.keepalive_time_ms"]
    assert ping_ms > dict(server_options())["grpc.http2.min_ping_interval_without_data_ms"]
    assert PROTOCOL == 1


# Terms


@given(TERMS)
def test_terms_are_read_as_they_were_written(terms: dict[str, object]) -> None:
    text = pack_terms(terms)
    assert unpack_terms(text) == terms
    assert pack_terms(dict(reversed(terms.items()))) == text
    expect_same_terms(unpack_terms(text), terms)


@given(TERMS, TERMS)
def test_terms_fit_only_where_they_are_the_same(
    edge: dict[str, object], cloud: dict[str, object]
) -> None:
    missing_is_none = {name: edge.get(name) for name in {*edge, *cloud}}
    if missing_is_none == {name: cloud.get(name) for name in {*edge, *cloud}}:
        expect_same_terms(edge, cloud)
    else:
        with pytest.raises(ConfigError, match="edge and cloud do not fit"):
            expect_same_terms(edge, cloud)


def test_terms_that_differ_are_all_named_with_both_values() -> None:
    edge = {"cut": "layer1", "net": "vgg16", "classes": ["cat"] * 50, "stem": "cifar"}
    cloud = {"cut": "layer2", "net": "vgg16", "classes": ["dog"] * 50, "method": "split"}
    with pytest.raises(ConfigError) as found:
        expect_same_terms(edge, cloud)
    words = str(found.value)
    assert "cut is 'layer1' on the edge, 'layer2' in the cloud" in words
    assert "stem is 'cifar' on the edge, None in the cloud" in words
    assert "method is None on the edge, 'split' in the cloud" in words
    assert "net is" not in words
    assert "..." in words
    assert len(words) < 500  # a list of a thousand classes is cut short


@pytest.mark.parametrize("text", ["", "{", "[]", '"net"', "3", "null", "[" * 100_000, "1" * 5000])
def test_terms_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(PayloadError, match="the terms are"):
        unpack_terms(text)


def test_terms_travel_as_json() -> None:
    assert json.loads(pack_terms({"cut": "layer3"})) == {"cut": "layer3"}
