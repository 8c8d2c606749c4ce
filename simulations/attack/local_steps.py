"""Canaries under trust local: what a client's own optimizer makes of rows that are given instead of computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.training import _PrivateSgd, one_thread
from shared.privacy.noise import NoiseSource
from shared.privacy.plan import Mechanism


@one_thread()
def private_change(
    chunks: Callable[[], Iterable[NDArray[np.floating]]], dimension: int, mechanism: Mechanism, noise: NoiseSource
) -> NDArray[np.float64]:
    """The change that ``client.training.fit_locally_private`` would return, of the units' wishes themselves.

    The optimizer is the client's own: it clips each unit and adds all the noise, at every local step. The learning rate
    is one: it scales wishes and noise alike.

    Args:
        chunks: the (units, d) wishes, a chunk at a time; called once a step.
        dimension: d.
        mechanism: clip, noise and inner steps.
        noise: where it comes from.

    Returns:
        (1, d), private already.
    """
    model = nn.ParameterList([nn.Parameter(torch.zeros(dimension))])
    parameter = model[0]
    optimizer = _PrivateSgd(model, 1.0, mechanism.clip, mechanism.noise_multiplier, noise)
    for _ in range(mechanism.inner_steps):
        for rows in chunks():
            # A gradient points away from the wish.
            parameter.grad_sample = torch.from_numpy(np.asarray(-rows, np.float32))
            optimizer.signal_skip_step(do_skip=True)
            optimizer.step()
            optimizer.zero_grad()
        parameter.grad_sample = torch.zeros(1, dimension)  # a unit without a wish closes the step
        optimizer.signal_skip_step(do_skip=False)
        optimizer.step()
        optimizer.zero_grad()
    return np.asarray(parameter.detach().numpy(), np.float64)[None]
