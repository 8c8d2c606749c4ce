"""Flower's grid, made fit for devices that are slow, gone or hostile. Its private names are used here alone.

Flower's own waits up to two hours, and in practice three minutes, for the parts of one answer whose sender went away in
between, while everybody else waits; and what a device sends can raise anything in it. Here an answer is complete or is
looked at again at the next pull; one that makes no sense is an error like that of a node that is gone. Small messages
travel put together (``shared/parcels.py``), so that a round takes half as many calls.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from flwr.app import Message, RecordDict
from flwr.app.error import Error
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.run import Run
from flwr.superlink.grid import HttpGrid

from shared.errors import ProtocolError
from shared.parcels import opened, parcel
from shared.wire import message_of

LARGEST: Final = 1 << 28  # bytes of one answer: a vector of 64 million numbers
KEPT: Final = 600.0  # seconds after which nobody asks for an answer any more


@dataclass
class Arriving:
    """An answer that is on its way. Not frozen: its parts come one by one.

    Attributes:
        sender: the node that the SuperLink had it from.
        root: id of the object that is the whole answer.
        parts: ids of all its objects.
        since: when it was heard of.
        objects: those that are here.
    """

    sender: int
    root: str
    parts: Sequence[str]
    since: float
    objects: dict[str, bytes] = field(default_factory=dict)


@dataclass
class FlowerGrid(Grid):
    """See the module. Not frozen: answers are on their way.

    Attributes:
        inner: Flower's grid, which knows the SuperLink.
        clock: seconds that never go back.
    """

    inner: HttpGrid
    clock: Callable[[], float] = time.monotonic
    arriving: dict[str, Arriving] = field(default_factory=dict)  # by the message that is answered

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
        """Put together and send."""
        made = list(messages)
        for message in made:
            message.content = parcel(message.content)
        return self.inner.push_messages(made)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers to these messages that are here whole; each once. Waits for none."""
        wanted, now = set(message_ids), self.clock()
        self.arriving = {asked: one for asked, one in self.arriving.items() if now - one.since < KEPT}
        ask = sorted(wanted - set(self.arriving))
        if ask:
            pulled = self.inner._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=ask))  # noqa: SLF001
            for letter, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True):
                parts = tuple(dict.fromkeys(each.object_id for each in iterate_object_tree(tree)))
                asked = letter.metadata.reply_to_message_id
                self.arriving[asked] = Arriving(letter.metadata.src_node_id, letter.metadata.message_id, parts, now)
        return [reply for asked in wanted & set(self.arriving) if (reply := self._complete(asked)) is not None]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send, and pull until all have answered or time is up."""
        pending, replies = set(self.push_messages(messages)), list[Message]()
        end = self.clock() + (float("inf") if timeout is None else timeout)
        while pending and self.clock() < end:
            arrived = list(self.pull_messages(pending))
            pending -= {reply.metadata.reply_to_message_id for reply in arrived}
            replies += arrived
            if not arrived:
                time.sleep(0.1)
        return replies

    def _complete(self, asked: str) -> Message | None:
        """The answer to a message, once all of it is here; an error where it never will be, or makes no sense."""
        one = self.arriving[asked]
        try:
            if not self._fetch(one):
                return None
            message = _read(one, asked)
        except ProtocolError as error:
            message = self._error(asked, str(error))
        del self.arriving[asked]
        return message

    def _fetch(self, one: Arriving) -> bool:
        """Fetch the parts that are missing; whether all are here."""
        client, node, run = self.inner._runtime_client, self.inner.node, self.inner.run.run_id  # noqa: SLF001
        size = sum(map(len, one.objects.values()))
        for name in one.parts:
            if name in one.objects:
                continue
            said = client.PullObject(PullObjectRequest(node=node, run_id=run, object_id=name))
            if not said.object_found:
                raise ProtocolError("its sender went away before all of it was here")
            if not said.object_available:
                return False
            one.objects[name] = bytes(said.object_content)
            size += len(said.object_content)
            if size > LARGEST:
                raise ProtocolError(f"an answer of more than {LARGEST} bytes")
        done = ConfirmMessageReceivedRequest(node=node, run_id=run, message_object_id=one.root)
        with contextlib.suppress(Exception):  # only frees the SuperLink's memory
            client.ConfirmMessageReceived(done)
        return True

    def _error(self, asked: str, why: str) -> Message:
        """What Flower says of a node that is gone."""
        here: Any = self.inner.node.node_id
        metadata = Metadata(
            run_id=self.inner.run.run_id,
            message_id="",
            src_node_id=here,
            dst_node_id=here,
            message_type="system",
            group_id="",
            ttl=0,
            reply_to_message_id=asked,
            created_at=0.0,
        )
        return make_message(metadata=metadata, error=Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason=why))


def _read(one: Arriving, asked: str) -> Message:
    """An answer that is here. What it says of itself must be what the SuperLink said of it."""
    message = message_of(one.root, one.objects, LARGEST)
    if (message.metadata.reply_to_message_id, message.metadata.src_node_id) != (asked, one.sender):
        raise ProtocolError("an answer that claims to be another, or of another")
    if message.has_content():
        message.content = opened(message.content)
    message.metadata.__dict__["_message_id"] = one.root
    return message
