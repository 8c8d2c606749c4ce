"""The in-process Grid: the same ClientApp logic as a deployment, without processes, sockets or serialisation.

Messages of the same task are answered as one batch, a chunk at a time, when they are pulled; so memory
holds a chunk of answers, not a cohort's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.host import Host, answer_all
from shared.proofs import same_task

CHUNK = 128  # clients answered per pull


class InProcessGrid(Grid):
    """Flower's Grid over the clients of one host.

    A class because Flower's Grid is one; client "1" is node 1, and so on: nothing is kept of who is not asked.
    """

    def __init__(self, host: Host, clients: int) -> None:
        self._host = host
        self._nodes = range(1, clients + 1)
        self._waiting: deque[Message] = deque()
        self._sent = 0
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1

    def set_run(self, run: Run) -> None:
        """There is one run."""

    @property
    def run(self) -> Run:
        """There is no SuperLink, and so no run that it would know of."""
        raise RuntimeError("the in-process grid has no SuperLink run")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """As Flower's."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes."""
        return self._nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue; nothing runs before it is pulled."""
        ids = []
        for message in messages:
            self._sent += 1
            # Flower lets only a SuperLink number messages; this grid stands in for it.
            message.metadata.__dict__["_message_id"] = f"m{self._sent}"
            self._waiting.append(message)
            ids.append(f"m{self._sent}")
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer the next chunk of queued messages of one task.

        Raises:
            OSError, LedgerError: the clients' ledger cannot be written.
        """
        wanted = message_ids if isinstance(message_ids, AbstractSet) else set(message_ids)
        batch: list[Message] = []
        while self._waiting and len(batch) < CHUNK:
            if batch and not same_task(self._waiting[0].content, batch[0].content):
                break
            message = self._waiting.popleft()
            if message.metadata.message_id in wanted:
                batch.append(message)
        if not batch:
            return []
        clients = [str(message.metadata.dst_node_id) for message in batch]
        answers = answer_all(self._host, {c: message.content for c, message in zip(clients, batch, strict=True)})
        if self._host.broken is not None:  # one disk holds everybody's ledger: nobody would answer for the whole run
            raise self._host.broken
        return [Message(answers[client], reply_to=message) for client, message in zip(clients, batch, strict=True)]

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002 - Flower's signature; answers are computed here, nothing is waited for
    ) -> Iterable[Message]:
        """Push and pull until all are answered; ``timeout`` cannot pass, answers are computed here."""
        pending = set(self.push_messages(messages))
        replies: list[Message] = []
        while pending:
            for reply in self.pull_messages(pending):
                pending.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies
