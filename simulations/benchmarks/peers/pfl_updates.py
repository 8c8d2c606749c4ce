"""Client updates by pfl: FederatedAveraging on its simulated backend, central Gaussian mechanism.

``python -m simulations.benchmarks.peers.pfl_updates TASK SUM``, in pfl's own environment. What is timed is
``SimulatedBackend.gather_results``: local training, clipping, sum and noise; no evaluation, no central optimizer, no
callbacks, no metrics platform. Users' tensors are made, and their batches cut, before the clock starts.
"""

# mypy: disable-error-code="import-not-found"
# pfl lives in an environment of its own.
from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from functools import partial
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.common_types import Population
from pfl.context import CentralContext
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel
from pfl.privacy.gaussian_mechanism import GaussianMechanism
from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism, NormClippingOnly

from simulations.benchmarks.peers.models import build
from simulations.benchmarks.peers.task import PeerTask, read_task

# Of torch's SGD; the fastest of them counts.
_FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"foreach": True},
    {"fused": True},
)


def rounds_of(task: PeerTask, mechanism: Any, form: dict[str, Any]) -> Any:  # noqa: ANN401 - pfl's types are its own
    """A function that runs one round and returns its statistics, summed over the cohort."""
    terms = task.terms
    module = build(terms.kind, task.parameters)
    model = PyTorchModel(module, partial(torch.optim.SGD, **form), torch.optim.SGD(module.parameters(), 1.0))
    tensors = [torch.from_numpy(part) for part in task.data]
    users = [Dataset([part[user] for part in tensors]) for user in range(len(tensors[0]))]
    order = cycle(range(len(users)))
    data = FederatedDataset(users.__getitem__, lambda: next(order))
    backend = SimulatedBackend(data, data, postprocessors=[CentrallyAppliedPrivacyMechanism(mechanism)])
    context = CentralContext(
        current_central_iteration=1,
        do_evaluation=False,
        cohort_size=terms.cohort,
        population=Population.TRAIN,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=terms.epochs, local_learning_rate=terms.rate, local_batch_size=terms.batch or None
        ),
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=1, evaluation_frequency=1, train_cohort_size=terms.cohort, val_cohort_size=0
        ),
        seed=1,
    )
    algorithm = FederatedAveraging()

    def one_round() -> Any:  # noqa: ANN401 - see above
        statistics, _ = backend.gather_results(model, algorithm, central_context=context)
        return statistics

    return one_round


def _rates(task: PeerTask, form: dict[str, Any]) -> list[float]:
    """Updates a second of processor time; the first measurement warms up."""
    terms, rates = task.terms, []
    one_round = rounds_of(task, GaussianMechanism(terms.clip, 1.0), form)
    for repeat in range(terms.repeats + 1):
        gc.collect()
        began, users = time.process_time(), 0
        while (taken := time.process_time() - began) < terms.seconds:
            one_round()
            users += terms.cohort
        if repeat:
            rates.append(users / taken)
    return rates


def main(task_path: str, sum_path: str) -> None:
    """Measure, write the sum of the first cohort without noise, and print the rest as JSON."""
    torch.set_num_threads(1)
    task = read_task(Path(task_path))
    terms = task.terms
    plain = rounds_of(task, NormClippingOnly(2, terms.clip), {})()
    found: dict[str, Any] = {name: np.asarray(value) for name, value in plain.items()}
    np.savez(sum_path, **found)
    rates = max((_rates(task, form) for form in _FORMS), key=statistics.median)
    versions = {name: version(name) for name in ("pfl", "torch", "numpy")}
    print(json.dumps({"rates": rates, "versions": versions}))  # noqa: T201 - the result, on standard output


if __name__ == "__main__":
    main(*sys.argv[1:])
