"""From the sum of sealed vectors to the next model: the server's optimizers.

FedAvg (McMahan et al. 2017), FedAdam and FedAdagrad (Reddi et al. 2021, Algorithm 2). Each is a function on a frozen
state. Everything here is post-processing of released sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.encoder.spec import Floats

BETA1, BETA2, TAU = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class OptimizerState:
    """Moments of the mean update.

    Attributes:
        step: updates applied so far.
        first, second: (size,) float32 moments; zeros at the start.
    """

    step: int
    first: Floats
    second: Floats


def initial_optimizer(size: int) -> OptimizerState:
    """Nothing seen yet."""
    return OptimizerState(0, np.zeros(size, np.float32), np.zeros(size, np.float32))


def apply(
    kind: str, learning_rate: float, warmup: int, state: OptimizerState, parameters: Floats, mean: Floats
) -> tuple[Floats, OptimizerState]:
    """One server step along the mean update.

    Args:
        kind: "fedavg", "fedadam" or "fedadagrad".
        learning_rate: after warm-up; during it, it rises linearly over ``warmup`` steps.
        warmup: number of steps, 0 for none.
        state, parameters: before.
        mean: (size,) sum of the sealed updates over a *public* normaliser.

    Returns:
        Parameters and state after; the inputs are left as they are.
    """
    step = state.step + 1
    rate = learning_rate * (min(1.0, step / warmup) if warmup else 1.0)
    if kind == "fedavg":
        return np.asarray(parameters + rate * mean, np.float32), OptimizerState(step, state.first, state.second)
    # As in Adam (Kingma and Ba 2015), moments are freed of their bias towards zero, which Reddi et al. leave in.
    first = np.asarray(BETA1 * state.first + (1.0 - BETA1) * mean, np.float32)
    if kind == "fedadam":
        second = np.asarray(BETA2 * state.second + (1.0 - BETA2) * np.square(mean), np.float32)
        scale = np.sqrt(second / (1.0 - BETA2**step))
    else:
        second = np.asarray(state.second + np.square(mean), np.float32)
        scale = np.sqrt(second)
    moved = parameters + rate * (first / (1.0 - BETA1**step)) / (scale + TAU)
    return np.asarray(moved, np.float32), OptimizerState(step, first, second)


def mean_update(total: np.ndarray, clip: float, steps: int, units: int) -> Floats:
    """Grid sum -> mean change of the parameters over a public number of units."""
    return np.asarray(total * (clip / steps / units), np.float32)


def log_popularity(total: np.ndarray, steps: int, sigma: float) -> Floats:
    """Log private popularity from the noisy grid sum; centred, (buckets,) float32.

    Below the noise's standard deviation counts say nothing, so they are floored there (at 0.1 users without noise),
    which keeps rare items apart from unknown ones by about as much as the data can tell.
    """
    counts = np.maximum(total / steps, 0.0) + max(sigma / steps, 0.1)
    log = np.log(counts)
    return np.asarray(log - log.mean(), np.float32)
