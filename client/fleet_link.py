"""The one adapter to Flower's Fleet API: a device's line to the SuperLink, without Flower's SuperNode around it.

Flower's own connection ends the process it runs in when it is refused, and runs what the server delivers. This one
speaks the same protocol (protobuf over HTTPS, each call signed by the node key) and nothing more: it never asks for a
bundle of code. Private names of Flower are imported here and nowhere else in ``client/``; what is leaned on is held by
``tests/client/test_fleet_link.py`` against a real SuperLink. The bytes go over :mod:`client.https_line`, what is in
them is :mod:`shared.wire`'s.

What a server sends is bounded before it is kept: bytes, parts and seconds. A message is pulled into a file without a
name, so that the agent stays small however large the message.

Formal guarantees: none; what crosses was released by ``client/release.py`` or is a constant.
"""

from __future__ import annotations

import json
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeVar, cast

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import RecordDict
from flwr.app.message.message import Message, make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, TIMESTAMP_HEADER
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    DeactivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.message_pb2 import Metadata as ProtoMetadata
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.protobuf.message import Message as Proto

from client.https_line import LONGEST_CALL, Line, LinkError, line, pause_until, post
from client.parts import Parts
from shared import wire
from shared.parcels import parcel

VERSIONS: Final = ("1.41", "1.42")
LARGEST: Final = 1 << 29  # bytes of one message; a catalogue of a million items with 64 numbers each fits
LONGEST: Final = 3600.0  # seconds that one message is pulled or answered for, whatever its server says
_LARGEST_PART: Final = 1 << 24  # bytes; Flower cuts arrays into pieces of a third of that
_LARGEST_LETTER: Final = 1 << 18  # bytes of a response that carries no content: a tree of some thousand parts
_BEAT: Final = HEARTBEAT_DEFAULT_INTERVAL / 2  # seconds; a SuperLink forgets a node after two intervals
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0  # seconds between tries of one call
_NOT_ACTIVATED, _NOT_RUNNING = 2004, 2007  # Flower's codes: an unknown or present node; a run that has ended
_MEDIA: Final = "application/protobuf"
Response = TypeVar("Response", bound=Proto)
Result = TypeVar("Result")


class RefusedError(LinkError):
    """The server does not know this device: not approved yet, revoked, or another server."""


class OverError(LinkError):
    """The run that a message belongs to has ended; nobody waits for its answer."""


@dataclass(frozen=True)
class Incoming:
    """A message as it was pulled; nothing in it has been looked into.

    Attributes:
        raw: its metadata, protobuf; enough to answer it.
        root: id of the object that is the whole message, or the parcel in it.
        objects: object id -> bytes.
    """

    raw: bytes
    root: str = ""
    objects: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The route that the server named, for the log."""
        return str(ProtoMetadata.FromString(self.raw).message_type)

    def close(self) -> None:
        """Let its parts go, once they were handed on."""
        if isinstance(self.objects, Parts):
            self.objects.close()


@dataclass
class Link:
    """One connection. Not frozen: it learns its node's number.

    Attributes:
        line: to the server.
        key: the node key.
        stop: set when the agent is to end; waiting ends with it.
        folder: where large messages are kept while they are read; None = where this system keeps such files.
        node: the SuperLink's number for this device; 0 before it is known.
    """

    line: Line
    key: EllipticCurvePrivateKey
    stop: threading.Event
    folder: Path | None = None
    node: int = 0

    @property
    def ahead(self) -> float:
        """Seconds that the server's clock is ahead of this one."""
        return self.line.ahead

    def receive(self) -> Incoming | None:
        """The next message that waits for this device, whole; None = none waits.

        Raises:
            LinkError: see :class:`LinkError`; a message that was begun may be lost then, and the server sees it lost.
            OSError: the disk refuses a message that is too large for memory.
        """
        pulled = _call(self, "pull-messages", PullMessagesRequest(node=_node(self)), PullMessagesResponse)
        if not pulled.messages_list:
            return None
        if not pulled.message_object_trees:
            raise LinkError("a message without parts")
        metadata = pulled.messages_list[0].metadata
        metadata.message_id = metadata.message_id or pulled.message_object_trees[0].object_id
        root = wire.worth_pulling(pulled.message_object_trees[0])
        objects = _pull(self, metadata, root)
        done = ConfirmMessageReceivedRequest(
            node=_node(self), run_id=metadata.run_id, message_object_id=metadata.message_id
        )
        with suppress(LinkError):  # only frees the server's memory
            _call(self, "confirm-message-received", done, ConfirmMessageReceivedResponse)
        return Incoming(metadata.SerializeToString(), root.object_id, objects)

    def reply(self, incoming: Incoming, record: RecordDict) -> bool:
        """Send an answer, and try again until it is there, or nobody waits for it any more.

        Returns:
            Whether the server took it; it does not if it asked in a way that cannot be answered.

        Raises:
            LinkError: the server was gone for as long as the answer was good for.
        """
        asked = ProtoMetadata.FromString(incoming.raw)
        now = self.line.now()
        ttl = min(asked.created_at + asked.ttl - now, LONGEST)
        if not ttl > 0:  # late, or no number at all
            return False
        try:
            message = _answer(asked, parcel(record), now, ttl)
        except wire.HOSTILE:
            return False
        try:
            _patiently(self, lambda: _push(self, message, asked.run_id), time.monotonic() + ttl)
        except OverError:
            return False
        return True


@contextmanager
def link(
    address: str,
    authority: str,
    key: EllipticCurvePrivateKey,
    *,
    known: int = 0,
    stop: threading.Event | None = None,
    folder: Path | None = None,
    clock: Callable[[], float] = time.time,
) -> Iterator[Link]:
    """Be there for a server, until the block ends.

    Args:
        address: host:port.
        authority: PEM certificate that the server's is signed with; no other is believed.
        key: the node key, EC P-384.
        known: this device's number from an earlier link: after a crash the server takes it for present, and would
            refuse to have it activated again (305 in Flower's words); a heartbeat says as much.
        stop: ends waiting.
        folder: see :class:`Link`.
        clock: seconds since 1970.

    Raises:
        LinkError: see :class:`LinkError`; :class:`RefusedError` where the server does not know the key.
    """
    check_version(version("flwr"))
    with line(address, authority, partial(_headers, key), clock) as under:
        made = Link(under, key, stop or threading.Event(), folder)
        made.node = _present(made, known)
        left = threading.Event()
        beats = threading.Thread(target=_beats, args=(made, left), daemon=True)
        beats.start()
        try:
            yield made
        finally:
            left.set()
            with suppress(LinkError):
                _call(made, "deactivate-node", DeactivateNodeRequest(node_id=made.node), DeactivateNodeResponse)
            beats.join(timeout=1.0)


def check_version(installed: str) -> None:
    """That Flower is one that this adapter was tried with.

    Raises:
        LinkError: it is another.
    """
    if ".".join(installed.split(".")[:2]) not in VERSIONS:
        raise LinkError(f"flwr {installed}: this device speaks to servers by flwr {' or '.join(VERSIONS)}")


def content_of(incoming: Incoming) -> RecordDict:
    """What a message holds. Only the worker looks inside: whatever comes of it, the agent lives.

    Raises:
        ProtocolError: the objects are no message, or would grow beyond :data:`LARGEST` bytes when put together.
    """
    return wire.content_of(incoming.root, incoming.objects, LARGEST)


def _present(made: Link, known: int) -> int:
    """Tell the server that this device is there; its number."""
    if known:
        made.node = known
        with suppress(LinkError):
            if _beat(made):
                return known
    request = ActivateNodeRequest(
        public_key=public_key_to_bytes(made.key.public_key()), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
    )
    return int(_call(made, "activate-node", request, ActivateNodeResponse).node_id)


def _beat(made: Link) -> bool:
    request = SendNodeHeartbeatRequest(node=_node(made), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
    return bool(_call(made, "send-node-heartbeat", request, SendNodeHeartbeatResponse).success)


def _beats(made: Link, left: threading.Event) -> None:
    """A worker may be busy for minutes; the server must not take this device for lost meanwhile."""
    while not left.wait(_BEAT):
        with suppress(LinkError, RuntimeError):  # the main loop hears of it; a closed client is a RuntimeError
            _beat(made)


def _pull(made: Link, metadata: ProtoMetadata, tree: ObjectTree) -> Parts:
    left = min(metadata.created_at + metadata.ttl - made.line.now(), LONGEST)
    until = time.monotonic() + (left if left > 0 else 0.0)
    parts = Parts(made.folder)
    try:
        _fill(made, parts, metadata.run_id, tree, until)
    except BaseException:
        parts.close()
        raise
    return parts


def _fill(made: Link, parts: Parts, run: int, tree: ObjectTree, until: float) -> None:
    room = LARGEST
    for name in dict.fromkeys(each.object_id for each in iterate_object_tree(tree)):
        request = PullObjectRequest(node=_node(made), run_id=run, object_id=name)
        content = _patiently(made, partial(_pull_one, made, request), until)
        room -= len(content)
        if room < 0:
            raise LinkError(f"a message of more than {LARGEST} bytes")
        if time.monotonic() > until + LONGEST_CALL:
            raise LinkError("a message that does not come to an end")
        parts.add(name, content)


def _pull_one(made: Link, request: PullObjectRequest) -> bytes:
    response = _call(made, "pull-object", request, PullObjectResponse, _LARGEST_PART)
    if not response.object_found:
        raise OverError("the server has forgotten a part of its message")
    if not response.object_available:
        raise LinkError("a part of a message is not there yet")
    return bytes(response.object_content)


def _answer(asked: ProtoMetadata, record: RecordDict, now: float, ttl: float) -> Message:
    """The message that answers; times are the server's."""
    metadata = Metadata(
        run_id=asked.run_id,
        message_id="",
        src_node_id=asked.dst_node_id,
        dst_node_id=asked.src_node_id,
        reply_to_message_id=asked.message_id,
        group_id=asked.group_id,
        created_at=now,
        ttl=ttl,
        message_type=asked.message_type,
        src_task_id=asked.dst_task_id if asked.HasField("dst_task_id") else None,
        dst_task_id=asked.src_task_id if asked.HasField("src_task_id") else None,
    )
    metadata.delivered_at = ""
    message = make_message(metadata, content=record)
    metadata.__dict__["_message_id"] = message.object_id
    return message


def _push(made: Link, message: Message, run: int) -> None:
    """Push an answer and its objects; pushing the same one twice is one answer.

    Of a parcel its one part: the server reads no other object (``server/flower_grid.py``), and forgets the answer as
    soon as it has that one.
    """
    objects = {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
    tree = get_object_tree(message)
    core = {each.object_id for each in iterate_object_tree(wire.worth_pulling(tree))}
    request = PushMessagesRequest(
        node=_node(made),
        messages_list=[message_to_proto(remove_content_from_message(message))],
        message_object_trees=[tree],
        clientapp_runtime_list=[0.0],  # how long it took is nobody's business
    )
    response = _call(made, "push-messages", request, PushMessagesResponse)
    for name in dict.fromkeys(response.objects_to_push):
        if name not in objects:
            raise LinkError("the server asks for an object that the answer does not have")
        if name not in core:
            continue
        part = PushObjectRequest(
            node=_node(made),
            run_id=run,
            session_id=response.session_id,
            object_id=name,
            object_content=objects[name],
        )
        if not _call(made, "push-object", part, PushObjectResponse).stored:
            raise LinkError("the server did not keep a part of an answer")


def _patiently(made: Link, call: Callable[[], Result], until: float) -> Result:
    """Try again until ``until``, by the monotonic clock.

    Raises:
        LinkError: the last one.
    """
    wait = _FIRST_WAIT
    while True:
        try:
            return call()
        except (OverError, RefusedError):
            raise
        except LinkError:
            if not pause_until(made.stop, wait, until):
                raise
            wait = min(2 * wait, _LONGEST_WAIT)


def _call(made: Link, path: str, request: Proto, response: type[Response], most: int = _LARGEST_LETTER) -> Response:
    """One call; a second try only when the first told what time it is.

    Raises:
        LinkError: no answer, or none that is understood.
        RefusedError: this node is not known.
        OverError: the run has ended.
    """
    content = request.SerializeToString(deterministic=True)
    status, body, told = post(made.line, f"v1/fleet/{path}", content, most)
    if status == httpx.codes.UNAUTHORIZED and told:
        status, body, _ = post(made.line, f"v1/fleet/{path}", content, most)
    if status != httpx.codes.OK:
        raise _error(path, status, body)
    try:
        return cast("Response", response.FromString(body))
    except DecodeError as error:
        raise LinkError(f"{path}: the answer is not one of Flower's") from error


def _headers(key: EllipticCurvePrivateKey, now: datetime) -> dict[str, str]:
    """Flower refuses a time that is 5 s ahead or 305 s behind."""
    said = now.isoformat()
    return {
        "content-type": _MEDIA,
        "accept": _MEDIA,
        TIMESTAMP_HEADER: said,
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, said.encode("ascii"))).decode(),
    }


def _error(path: str, status: int, body: bytes) -> LinkError:
    if status == httpx.codes.UNAUTHORIZED:
        return RefusedError("the server does not know this device: revoked, or the server lost its memory")
    try:
        code = json.loads(body)["code"]
    except (ValueError, LookupError, TypeError, RecursionError):
        code = None
    if code == _NOT_ACTIVATED:
        return RefusedError(
            "the server does not let this device in: not approved yet, revoked, or still thought present"
        )
    if code == _NOT_RUNNING:
        return OverError(f"{path}: the run has ended")
    return LinkError(f"{path}: status {status}" + ("" if code is None else f", code {code}"))


def _node(made: Link) -> Node:
    return Node(node_id=made.node)
