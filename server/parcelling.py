"""Flower's grid with small messages put together, so that a round takes less than half as many calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from shared.errors import ProtocolError
from shared.parcels import opened, parcel


@dataclass(frozen=True)
class ParcelGrid(Grid):
    """What is pushed is put together, what is pulled is taken apart; all else is as with the grid inside.

    Attributes:
        inner: Flower's grid.
    """

    inner: Grid

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
        """As inside."""
        return self.inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Put together and send."""
        return self.inner.push_messages(_together(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Fetch and take apart."""
        return _apart(self.inner.pull_messages(list(message_ids)))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Both."""
        return _apart(self.inner.send_and_receive(_together(messages), timeout=timeout))


def _together(messages: Iterable[Message]) -> list[Message]:
    made = list(messages)
    for message in made:
        message.content = parcel(message.content)
    return made


def _apart(replies: Iterable[Message]) -> list[Message]:
    """What cannot be taken apart is left for whoever reads it, to whom it is no answer."""
    made = list(replies)
    for reply in made:
        with contextlib.suppress(ProtocolError):
            if reply.has_content():
                reply.content = opened(reply.content)
    return made
