"""The peer: Flower's SecAgg+ (Bell et al. 2020, semi-honest variant), driven in memory.

Flower's own workflow and client mod run unchanged; what is left out is what neither side is measured for: network,
processes, Ray, serialisation of messages. A grid of a few lines carries each message from one to the other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common import recorddict_compat
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from shared.errors import RunError

CLIPPING: Final = 8.0  # Flower's default: values beyond it are clipped before quantisation
STAGES: Final = {
    "join": Stage.SETUP,
    "share": Stage.SHARE_KEYS,
    "upload": Stage.COLLECT_MASKED_VECTORS,
    "unmask": Stage.UNMASK,
}


@dataclass(frozen=True)
class PeerSum:
    """What one session of the peer gave and cost.

    Attributes:
        mean: (length,) float64 mean of the survivors' vectors, as Flower returns it.
        seconds_client, seconds_server: CPU seconds of all clients together, and of the rest.
        bytes_up, bytes_down: payload of all clients together.
    """

    mean: NDArray[np.float64]
    seconds_client: float
    seconds_server: float
    bytes_up: int
    bytes_down: int


@dataclass
class _Loopback:
    """Carries Flower's messages to Flower's mod and back; not frozen: it keeps each client's context and the counts."""

    vectors: Mapping[int, NDArray[np.float32]]
    drop: Mapping[str, Collection[int]]
    contexts: dict[int, Context] = field(default_factory=dict)
    seconds: float = 0.0
    inside: float = 0.0
    up: int = 0
    down: int = 0
    sent: int = 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:  # noqa: ARG002 - Flower's signature
        """Answers of those who are still there; what this grid does itself is nobody's cost."""
        entered = time.process_time()
        replies: list[Message] = []
        for message in messages:
            node = message.metadata.dst_node_id
            self.down += _size(message.content)
            if node in self._gone(cast(str, message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE])):
                continue
            self.sent += 1
            message.metadata.__dict__["_message_id"] = f"m{self.sent}"  # only a SuperLink numbers messages
            began = time.process_time()
            # Flower's runtime answers for a client that fails with an error, which its workflow takes for a dropout.
            with suppress(Exception):
                replies.append(secaggplus_mod(_own_copy(message), self.contexts[node], self._trained))
            self.seconds += time.process_time() - began
        self.up += sum(_size(reply.content) for reply in replies)
        self.inside += time.process_time() - entered
        return replies

    def _gone(self, stage: str) -> Collection[int]:
        return next((nodes for phase, nodes in self.drop.items() if STAGES[phase] == stage), ())

    def _trained(self, message: Message, context: Context) -> Message:  # noqa: ARG002 - Flower's signature
        parameters = ndarrays_to_parameters([self.vectors[message.metadata.dst_node_id]])
        fitted = FitRes(Status(Code.OK, ""), parameters, num_examples=1, metrics={})
        return Message(recorddict_compat.fitres_to_recorddict(fitted, keep_input=False), reply_to=message)


def flower_secagg_plus(
    vectors: Mapping[int, NDArray[np.float32]],
    *,
    neighbours: int,
    threshold: int,
    drop: Mapping[str, Collection[int]],
) -> PeerSum:
    """One session of Flower's SecAgg+ over everybody's vector.

    Args:
        vectors: node -> (length,) float32, all of one length, within Flower's clipping range.
        neighbours: neighbours of a client; Flower wants an even number, or all others.
        threshold: shares that recover a secret.
        drop: phase ("join", "share", "upload" or "unmask") -> nodes that vanish before they answer it.

    Raises:
        RunError: Flower gave up: too few clients were left.
    """
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    grid = _Loopback(vectors, drop, {node: _context() for node in vectors})
    session = _session(grid, vectors)
    workflow = SecAggPlusWorkflow(
        num_shares=neighbours + 1, reconstruction_threshold=threshold, max_weight=1.0, clipping_range=CLIPPING
    )
    began = time.process_time()
    with _quiet():
        workflow(cast(Grid, grid), session)
    spent = time.process_time() - began
    arrays = session.state.array_records[MAIN_PARAMS_RECORD].to_numpy_ndarrays()
    if arrays[0].shape != next(iter(vectors.values())).shape:
        raise RunError(f"Flower's SecAgg+ gave up: too few of {len(vectors)} clients were left for {threshold} shares")
    return PeerSum(np.asarray(arrays[0], np.float64), grid.seconds, spent - grid.inside, grid.up, grid.down)


def _session(grid: _Loopback, vectors: Mapping[int, NDArray[np.float32]]) -> LegacyContext:
    """What Flower's legacy server keeps beside a workflow: everybody is sampled, one round."""
    manager = SimpleClientManager()
    for node in vectors:
        proxy: ClientProxy = GridClientProxy(node_id=node, grid=cast(Grid, grid), run_id=1)
        manager.register(proxy)
    strategy = FedAvg(fraction_fit=1.0, min_fit_clients=len(vectors), min_available_clients=len(vectors))
    context = LegacyContext(_context(), strategy=strategy, client_manager=manager)
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    # An empty model goes down: the peer's downlink is then the protocol's alone, as ours is.
    context.state.array_records[MAIN_PARAMS_RECORD] = ArrayRecord([np.zeros(0, np.float32)])
    return context


def _context() -> Context:
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


def _own_copy(message: Message) -> Message:
    """Flower's workflow sends one record to everybody and its mod takes keys out of it: over a network all get one."""
    content = RecordDict()
    for name, record in message.content.items():
        content[name] = ConfigRecord(dict(record)) if isinstance(record, ConfigRecord) else record
    copy = Message(
        content,
        dst_node_id=message.metadata.dst_node_id,
        message_type=message.metadata.message_type,
        group_id=message.metadata.group_id,
    )
    copy.metadata.__dict__["_message_id"] = message.metadata.message_id
    return copy


def _size(content: RecordDict) -> int:
    """Bytes on the wire (``count_bytes`` of a record fails on empty strings and lists)."""
    return sum(len(record.deflate()) for record in content.values())


@contextmanager
def _quiet() -> Iterator[None]:
    """Flower tells of every stage; errors still show."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
