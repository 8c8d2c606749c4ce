"""A client of Flower's simulation that trains one user with Opacus; Ray's workers import it by name."""

from __future__ import annotations

import warnings
from functools import cache
from os import environ
from pathlib import Path
from typing import Any, Final

import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from simulations.benchmarks.peers.models import build
from simulations.benchmarks.peers.task import PeerTask, read_task

TASK: Final = "PEER_TASK"  # the environment variable that tells Ray's workers where the task is
client_app = ClientApp()


class _Loss(nn.Module):
    """Opacus sees a module's forward; the models' is their loss, one value a row."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - any of the models
        super().__init__()
        self.model = model

    def forward(self, *data: torch.Tensor) -> torch.Tensor:
        """The loss, summed over rows."""
        return self.model.loss(*data)  # type: ignore[no-any-return]


@cache
def _task() -> PeerTask:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    return read_task(Path(environ[TASK]))


@cache
def _data_of(user: int) -> TensorDataset:
    return TensorDataset(*(torch.from_numpy(part[user]) for part in _task().data))


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One user's local steps by DP-SGD as in Flower's example of Opacus; answers the change."""
    task, user = _task(), int(context.node_config["partition-id"])
    start = message.content.array_records["parameters"].to_torch_state_dict()
    module = _Loss(build(task.terms.kind, {name: value.numpy() for name, value in start.items()}))
    data = _data_of(user)
    private, optimizer, loader = PrivacyEngine().make_private(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=task.terms.rate),
        data_loader=DataLoader(data, batch_size=task.terms.batch or len(data)),
        noise_multiplier=0.0,
        max_grad_norm=task.terms.clip / task.terms.rate,
        poisson_sampling=False,
        loss_reduction="sum",
    )
    for _ in range(task.terms.epochs):
        for rows in loader:
            optimizer.zero_grad()
            private(*rows).backward()
            optimizer.step()
    # The clip of a gradient is that of a change of one step.
    change = {name: value - start[name] for name, value in module.model.state_dict().items()}
    return Message(RecordDict({"change": ArrayRecord(change)}), reply_to=message)
