from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EdgeMessage(_message.Message):
    __slots__ = ("hello", "upload", "finish")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    upload: Upload
    finish: Finish
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., upload: _Optional[_Union[Upload, _Mapping]] = ..., finish: _Optional[_Union[Finish, _Mapping]] = ...) -> None: ...

class CloudMessage(_message.Message):
    __slots__ = ("welcome", "receipt")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    receipt: Receipt
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "version", "terms", "run", "session", "steps", "memory_bytes")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    terms: str
    run: str
    session: str
    steps: int
    memory_bytes: int
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., terms: _Optional[str] = ..., run: _Optional[str] = ..., session: _Optional[str] = ..., steps: _Optional[int] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session", "applied", "max_message_bytes", "port_offset")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PORT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    session: str
    applied: int
    max_message_bytes: int
    port_offset: int
    def __init__(self, session: _Optional[str] = ..., applied: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., port_offset: _Optional[int] = ...) -> None: ...

class Upload(_message.Message):
    __slots__ = ("seq", "follows", "payload")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    seq: int
    follows: int
    payload: bytes
    def __init__(self, seq: _Optional[int] = ..., follows: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Finish(_message.Message):
    __slots__ = ("seq",)
    SEQ_FIELD_NUMBER: _ClassVar[int]
    seq: int
    def __init__(self, seq: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("applied", "durable", "reply")
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    applied: int
    durable: int
    reply: bytes
    def __init__(self, applied: _Optional[int] = ..., durable: _Optional[int] = ..., reply: _Optional[bytes] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("protocol", "session", "payload", "ticket")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    session: str
    payload: bytes
    ticket: bytes
    def __init__(self, protocol: _Optional[int] = ..., session: _Optional[str] = ..., payload: _Optional[bytes] = ..., ticket: _Optional[bytes] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("payload", "ticket")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    ticket: bytes
    def __init__(self, payload: _Optional[bytes] = ..., ticket: _Optional[bytes] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("protocol", "version", "session", "terms", "steps", "edges", "steps_left")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    STEPS_LEFT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    session: str
    terms: str
    steps: int
    edges: _containers.RepeatedCompositeFieldContainer[EdgeStatus]
    steps_left: int
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., session: _Optional[str] = ..., terms: _Optional[str] = ..., steps: _Optional[int] = ..., edges: _Optional[_Iterable[_Union[EdgeStatus, _Mapping]]] = ..., steps_left: _Optional[int] = ...) -> None: ...

class EdgeStatus(_message.Message):
    __slots__ = ("name", "applied", "durable", "connected", "finished")
    NAME_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    name: str
    applied: int
    durable: int
    connected: bool
    finished: bool
    def __init__(self, name: _Optional[str] = ..., applied: _Optional[int] = ..., durable: _Optional[int] = ..., connected: bool = ..., finished: bool = ...) -> None: ...
