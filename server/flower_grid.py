"""Flower's grid, made fit for devices that are slow, gone or hostile. Its private names are used here alone.

Flower's own waits up to two hours, and in practice three minutes, for the parts of one answer whose sender went away in
between, while everybody else waits; and what a device sends can raise anything in it. Here an answer is complete or is
looked at again at the next pull; one that makes no sense is an error like that of a node that is gone. Small messages
travel put together (``shared/parcels.py``), so that a round takes half as many calls.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from flwr.app import Message, RecordDict
from flwr.app.error import Error
from flwr.app.message.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.message_pb2 import Metadata as ProtoMetadata
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid import HttpGrid
from httpx import HTTPError

from shared.errors import ProtocolError
from shared.parcels import opened, parcel
from shared.wire import content_of, is_part, message_of, worth_pulling

LARGEST: Final = 1 << 28  # bytes of one answer: a vector of 64 million numbers
PACE: Final = 0.15  # seconds between two looks for answers: each is work for the SuperLink, whose time a round is
STOCK: Final = 2.0  # seconds without an answer after which a device may be a stock SuperNode, which wants every object
KEPT: Final = 600.0  # seconds after which nobody asks for an answer any more


@dataclass
class Arriving:
    """An answer that is on its way. Not frozen: its parts come one by one.

    Attributes:
        letter: what the SuperLink says of it; nothing that the answer says of itself counts.
        tree: of all its objects.
        root: of the objects that are fetched: a parcel's one part, or the whole answer.
        since: when it was heard of.
        objects: those that are here.
    """

    letter: ProtoMetadata
    tree: ObjectTree
    root: ObjectTree
    since: float
    objects: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Shells:
    """What of a message was not sent yet: all but a parcel's one part, in which everything is.

    Attributes:
        session: Flower's, of the sending.
        since: when the rest was sent.
        objects: by id.
    """

    session: str
    since: float
    objects: Mapping[str, InflatableObject]


@dataclass
class FlowerGrid(Grid):
    """See the module. Not frozen: answers are on their way.

    Attributes:
        inner: Flower's grid, which knows the SuperLink.
        clock: seconds that never go back.
        sleep: as ``time.sleep``.
    """

    inner: HttpGrid
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    arriving: dict[str, Arriving] = field(default_factory=dict)  # by the message that is answered
    shells: dict[str, Shells] = field(default_factory=dict)  # by message
    pulled: float = -PACE

    def set_run(self, run: Run) -> None:
        """As inside."""
        self.inner.set_run(run)

    @property
    def run(self) -> Run:
        """As inside."""
        return self.inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """As Flower's."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Nodes that were heard of lately."""
        return self.inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Put together and send; the shells of a parcel, which an agent does not ask for, only when no answer comes."""
        made = list(messages)
        for message in made:
            message.content = parcel(message.content)
            message.metadata.__dict__["_message_id"] = message.object_id
        letters = [message_to_proto(remove_content_from_message(message)) for message in made]
        trees = [get_object_tree(message) for message in made]
        said = self._client.PushMessages(PushAppMessagesRequest(messages_list=letters, message_object_trees=trees))
        missing, now = set(said.objects_to_push), self.clock()
        for message, tree, number in zip(made, trees, said.message_ids, strict=True):
            objects = get_all_nested_objects(message)
            core = [each.object_id for each in iterate_object_tree(worth_pulling(tree))]
            self._push(said.session_id, {name: objects[name] for name in core if name in missing})
            missing.difference_update(core)
            shells = {name: content for name, content in objects.items() if name in missing}
            if number and shells:
                self.shells[number] = Shells(said.session_id, now, shells)
        return list(said.message_ids)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers to these messages that are here whole; each once. Waits for none."""
        self.sleep(max(0.0, self.pulled + PACE - self.clock()))
        self.pulled = now = self.clock()
        wanted = set(message_ids)
        self.arriving = {asked: one for asked, one in self.arriving.items() if now - one.since < KEPT}
        self.shells = {asked: one for asked, one in self.shells.items() if now - one.since < KEPT}
        ask = sorted(wanted - set(self.arriving))
        if ask:
            pulled = self._client.PullMessages(PullAppMessagesRequest(message_ids=ask))
            for message, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True):
                letter = message.metadata
                self.arriving[letter.reply_to_message_id] = Arriving(letter, tree, worth_pulling(tree), now)
                self.shells.pop(letter.reply_to_message_id, None)
        for asked in [asked for asked in wanted & set(self.shells) if now - self.shells[asked].since > STOCK]:
            late = self.shells.pop(asked)
            self._push(late.session, late.objects)
        return [reply for asked in wanted & set(self.arriving) if (reply := self._complete(asked)) is not None]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send, and pull until all have answered or time is up."""
        pending, replies = set(self.push_messages(messages)), list[Message]()
        end = self.clock() + (float("inf") if timeout is None else timeout)
        while pending and self.clock() < end:
            arrived = list(self.pull_messages(pending))
            pending -= {reply.metadata.reply_to_message_id for reply in arrived}
            replies += arrived
        return replies

    def _push(self, session: str, objects: Mapping[str, InflatableObject]) -> None:
        """Push objects; that the SuperLink takes one no more says that a device has its message already."""
        for name, content in objects.items():
            self._client.PushObject(
                PushObjectRequest(
                    node=self.inner.node,
                    run_id=self.inner.run.run_id,
                    session_id=session,
                    object_id=name,
                    object_content=content.deflate(),
                )
            )

    @property
    def _client(self) -> RuntimeHttpClient:
        return self.inner._runtime_client  # noqa: SLF001 - the name that is leaned on

    def _complete(self, asked: str) -> Message | None:
        """The answer to a message, once all of it is here; an error where it never will be, or makes no sense."""
        one = self.arriving[asked]
        metadata = metadata_from_proto(one.letter)
        try:
            if not self._fetch(one):
                return None
            message = _read(one, metadata)
        except ProtocolError as error:
            if one.root.object_id != one.tree.object_id and one.objects:
                one.root = one.tree  # no parcel, but a small answer of one part: the whole says what it is
                return self._complete(asked)
            message = make_message(metadata, error=Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason=str(error)))
        del self.arriving[asked]
        done = ConfirmMessageReceivedRequest(
            node=self.inner.node, run_id=self.inner.run.run_id, message_object_id=one.letter.message_id
        )
        with contextlib.suppress(HTTPError):  # only frees the SuperLink's memory
            self._client.ConfirmMessageReceived(done)
        return message

    def _fetch(self, one: Arriving) -> bool:
        """Fetch the parts that are missing; whether all are here."""
        size = sum(map(len, one.objects.values()))
        for name in dict.fromkeys(each.object_id for each in iterate_object_tree(one.root)):
            if name in one.objects:
                continue
            request = PullObjectRequest(node=self.inner.node, run_id=self.inner.run.run_id, object_id=name)
            said = self._client.PullObject(request)
            if not said.object_found:
                raise ProtocolError("its sender went away before all of it was here")
            if not said.object_available:
                return False
            one.objects[name] = bytes(said.object_content)
            size += len(said.object_content)
            if size > LARGEST:
                raise ProtocolError(f"an answer of more than {LARGEST} bytes")
        return True


def _read(one: Arriving, metadata: Metadata) -> Message:
    root = one.root.object_id
    if is_part(one.objects[root]):
        return make_message(metadata, content=content_of(root, one.objects, LARGEST))
    message = message_of(root, one.objects, LARGEST)
    if message.has_error():
        return make_message(metadata, error=message.error)
    return make_message(metadata, content=opened(message.content))
