"""Sending one task to a cohort over Flower's Grid, and collecting answers until quorum and deadline.

``Strategy.start`` waits for ever for its nodes; this does not. Answers are summed as they come, so that memory does
not grow with the cohort; the sum is over integers, so that its value does not depend on their order.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.protocol import parse_sealed

SUPERLINK = 1  # node id under which Flower's SuperLink says that a node is gone
PAUSE = 0.05  # seconds between polls while nothing arrives


@dataclass(frozen=True)
class Answers:
    """What came back.

    Attributes:
        total: (length,) int64 sum of the sealed vectors.
        survivors: clients in the sum.
        declined: clients that refused.
        failed: clients that answered with something else, or not in time.
        up, down: bytes of payload received and sent.
        enough: whether the plan's smallest cohort answered; if not, the sum must not be used.
    """

    total: NDArray[np.int64]
    survivors: tuple[str, ...]
    declined: tuple[str, ...]
    failed: tuple[str, ...]
    up: int
    down: int
    enough: bool


def exchange(
    grid: Grid,
    nodes: Mapping[str, int],
    cohort: Sequence[str],
    record: RecordDict,
    message_type: str,
    *,
    length: int,
    largest: float,
    group: str,
    deadline: float,
    smallest: int,
) -> Answers:
    """Ask every client of the cohort once.

    Args:
        grid: Flower's grid.
        nodes: client -> node id.
        cohort: whom to ask.
        record: the task; the same object goes to everybody.
        message_type: Flower's route.
        length: expected length of a sealed vector.
        largest: entries beyond this, either side of zero, cannot come from an honest client: such a vector is left out.
        group: Flower's group id, the round.
        deadline: seconds until the rest counts as failed.
        smallest: survivors below which the round is to be aborted.
    """
    messages = [
        Message(record, dst_node_id=nodes[client], message_type=message_type, group_id=group, ttl=deadline)
        for client in cohort
    ]
    # The message that a reply answers says whose it is; a node may answer only what it was asked itself.
    # Flower keeps the order; it has no id for what it could not send, and no ids at all when the task is too large.
    asked = {number: client for number, client in zip(grid.push_messages(messages), cohort, strict=False) if number}
    pending = set(asked)
    total = np.zeros(length, np.int64)
    fate: dict[str, str] = {}
    up, end = 0, time.monotonic() + deadline
    while pending and time.monotonic() < end:
        replies = list(grid.pull_messages(pending))
        for reply in replies:
            number = reply.metadata.reply_to_message_id
            if number not in pending or not _from(reply, nodes[asked[number]]):
                continue
            pending.discard(number)
            client = asked[number]
            vector, fate[client] = _read(reply, length, largest)
            if vector is not None:
                total += vector
                up += vector.nbytes
        if not replies:
            time.sleep(PAUSE)
    down = len(cohort) * sum(a.count_bytes() for a in record.array_records.values())

    def those(what: str) -> tuple[str, ...]:
        return tuple(client for client in cohort if fate.get(client, "failed") == what)

    survivors = those("answered")
    return Answers(total, survivors, those("declined"), those("failed"), up, down, len(survivors) >= smallest)


def _from(reply: Message, node: int) -> bool:
    """Whether a reply comes from a node; what the SuperLink says of a node that is gone counts as its own."""
    return reply.metadata.src_node_id == node or (reply.has_error() and reply.metadata.src_node_id == SUPERLINK)


def _read(reply: Message, length: int, largest: float) -> tuple[NDArray[np.int32] | None, str]:
    """The vector of one reply and what became of its client."""
    if reply.has_error():
        return None, "failed"
    try:
        vector = parse_sealed(reply.content, length)
    except ProtocolError:
        return None, "failed"
    if vector is None:
        return None, "declined"
    if np.abs(vector.astype(np.int64)).max(initial=0) > largest:
        return None, "failed"
    return vector, "answered"
