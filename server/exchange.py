"""Sending messages to a cohort over Flower's Grid, and collecting answers until the deadline.

``Strategy.start`` waits for ever for its nodes; this does not. Answers are summed as they come, so that memory does
not grow with the cohort; the sum is over integers, so that its value does not depend on their order.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.privacy.ledger import Receipt
from shared.protocol import parse_sealed

SUPERLINK = 1  # node id under which Flower's SuperLink says that a node is gone
PAUSE = 0.05  # seconds between polls while nothing arrives


class RunningSum:
    """The sum of integer vectors as they come, in 32 bits for as long as these hold it: a long sum is bound by memory.

    A class because it is two arrays and a count that change together.
    """

    def __init__(self, length: int, largest: float) -> None:
        """Nothing yet.

        Args:
            length: of the vectors.
            largest: no entry of a vector is beyond it, either side of zero.
        """
        self._near, self._far = np.zeros(length, np.int32), np.zeros(length, np.int64)
        self._room = int((2**31 - 1) // max(largest, 1.0))
        self._held = 0

    def add(self, vector: NDArray[np.int32]) -> None:
        """One more vector, within the bound."""
        if self._held >= self._room:
            self._flush()
        self._near += vector
        self._held += 1

    def total(self) -> NDArray[np.int64]:
        """(length,) int64 sum of all so far."""
        self._flush()
        return self._far

    def _flush(self) -> None:
        self._far += self._near
        self._near[:] = 0
        self._held = 0


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
        receipts: of the survivors, verified.
        why: what was missing when not enough answered.
    """

    total: NDArray[np.int64]
    survivors: tuple[str, ...]
    declined: tuple[str, ...]
    failed: tuple[str, ...]
    up: int
    down: int
    enough: bool
    receipts: Mapping[str, Receipt]
    why: str = ""


@dataclass(frozen=True)
class Post:
    """How messages get to clients.

    Attributes:
        grid: Flower's grid.
        nodes: client -> node id.
        group: Flower's group id, the round.
        deadline: seconds until those who did not answer count as failed, for each step that asks.
    """

    grid: Grid
    nodes: Mapping[str, int]
    group: str
    deadline: float


def exchange(
    post: Post,
    tasks: Mapping[str, RecordDict],
    message_type: str,
    *,
    receipt_of: Callable[[str, RecordDict], Receipt],
    length: int,
    largest: float,
    smallest: int,
) -> Answers:
    """Ask every client of the cohort once, for a vector that needs no mask.

    Args:
        post: Flower's grid, the nodes, how long to wait.
        tasks: whom to ask -> the task, with that client's last receipt.
        message_type: Flower's route.
        receipt_of: (client, answer) -> its receipt; raises ProtocolError for one that must not count.
        length: expected length of a sealed vector.
        largest: entries beyond this, either side of zero, cannot come from an honest client: such a vector is left out.
        smallest: survivors below which the round is to be aborted.
    """
    total = RunningSum(length, largest)
    fate: dict[str, str] = {}
    receipts: dict[str, Receipt] = {}
    up = 0
    for client, reply in replies(post, tasks, message_type):
        fate[client], vector, receipt = _read(reply, length, largest, partial(receipt_of, client))
        if vector is not None and receipt is not None:
            total.add(vector)
            up += vector.nbytes
            receipts[client] = receipt

    def those(what: str) -> tuple[str, ...]:
        return tuple(client for client in tasks if fate.get(client, "failed") == what)

    survivors, down = those("answered"), payloads(tasks)
    why = "" if len(survivors) >= smallest else f"{len(survivors)} answered, at least {smallest} must"
    return Answers(total.total(), survivors, those("declined"), those("failed"), up, down, not why, receipts, why)


def nobody(length: int) -> Answers:
    """What comes of an empty cohort, which a plan with Poisson sampling allows: a sum of zeros."""
    return Answers(np.zeros(length, np.int64), (), (), (), 0, 0, enough=True, receipts={})


def replies(post: Post, records: Mapping[str, RecordDict], message_type: str) -> Iterator[tuple[str, Message]]:
    """Send each client its record; yield (client, reply) as they come, each once, until all did or time is up."""
    messages = [
        Message(record, dst_node_id=post.nodes[c], message_type=message_type, group_id=post.group, ttl=post.deadline)
        for c, record in records.items()
    ]
    # The message that a reply answers says whose it is; a node may answer only what it was asked itself.
    # Flower keeps the order; it has no id for what it could not send, and no ids at all when a message is too large.
    sent = zip(post.grid.push_messages(messages), records, strict=False)
    asked = {number: client for number, client in sent if number}
    pending, end = set(asked), time.monotonic() + post.deadline
    while pending and time.monotonic() < end:
        arrived = list(post.grid.pull_messages(pending))
        for reply in arrived:
            number = reply.metadata.reply_to_message_id
            if number in pending and _from(reply, post.nodes[asked[number]]):
                pending.discard(number)
                yield asked[number], reply
        if not arrived:
            time.sleep(PAUSE)


def payloads(records: Mapping[str, RecordDict]) -> int:
    """Bytes of arrays and raw parts in messages; many of them may be one record, which is looked at once."""
    distinct = {id(record): record for record in records.values()}
    times = Counter(map(id, records.values()))
    return sum(times[number] * payload(record) for number, record in distinct.items())


def payload(record: RecordDict) -> int:
    """Bytes of arrays and raw parts in a message."""
    arrays = sum(part.count_bytes() for part in record.values() if isinstance(part, ArrayRecord))
    raw = (part.get("raw") for part in record.values() if isinstance(part, ConfigRecord))
    return arrays + sum(len(value) for value in raw if isinstance(value, bytes))


def _from(reply: Message, node: int) -> bool:
    """Whether a reply comes from a node; what the SuperLink says of a node that is gone counts as its own."""
    return reply.metadata.src_node_id == node or (reply.has_error() and reply.metadata.src_node_id == SUPERLINK)


def _read(
    reply: Message, length: int, largest: float, receipt_of: Callable[[RecordDict], Receipt]
) -> tuple[str, NDArray[np.int32] | None, Receipt | None]:
    """What became of the client of one reply; with a vector that counts, and its receipt, if it answered."""
    if reply.has_error():
        return "failed", None, None
    try:
        vector = parse_sealed(reply.content, length)
        if vector is None:
            return "declined", None, None
        receipt = receipt_of(reply.content)
    except ProtocolError:
        return "failed", None, None
    if max(int(vector.max(initial=0)), -int(vector.min(initial=0))) > largest:
        return "failed", None, None
    return "answered", vector, receipt
