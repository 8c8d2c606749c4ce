"""The model that a run gives out: ``model.safetensors``, all that recommending needs beside the catalogue."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from server.checkpoint import State
from server.job import Job
from shared.encoder.encode import item_vectors
from shared.encoder.spec import Floats, bucket_of, unpack
from shared.errors import FedrecallError, RunError
from shared.files import write_atomically
from shared.policy.recall_policy import RecallPolicy, policy_from_dict, policy_to_dict
from simulations.world import World


@dataclass(frozen=True)
class Model:
    """What a list is made with.

    Attributes:
        round: after which the parameters were as they are.
        parameters: the encoder's.
        prior: log private popularity.
        policy: frozen once the run has ended.
    """

    round: int
    parameters: Floats
    prior: Floats
    policy: RecallPolicy


def model_of(state: State) -> Model:
    """A state's model."""
    return Model(max(0, state.round), state.parameters, state.prior, state.policy)


def write_model(path: Path, job: Job, model: Model, world: World) -> None:
    """The model as clients need it: encoder parts, item vectors, prior, and the policy in the metadata."""
    arrays = {name: np.ascontiguousarray(part) for name, part in unpack(job.encoder, model.parameters).items()}
    arrays["prior"] = model.prior
    arrays["parameters"] = model.parameters
    bucket = bucket_of(world.catalogue.ids, job.encoder.buckets)
    arrays["items"] = item_vectors(job.encoder, model.parameters, world.catalogue.groups["text"], bucket)
    public = {
        "catalogue": job.catalogue,
        "rank": job.encoder.rank,
        "buckets": job.encoder.buckets,
        "round": model.round,
        "policy": policy_to_dict(model.policy),
    }
    # One metadata entry: safetensors writes several in an order that changes from run to run.
    write_atomically(path, save(arrays, metadata={"fedrecall": json.dumps(public, sort_keys=True)}))


def read_model(path: Path) -> Model:
    """Inverse of :func:`write_model`.

    Raises:
        RunError: there is none, or it is broken.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            public = json.loads(file.metadata()["fedrecall"])
            parameters, prior = file.get_tensor("parameters"), file.get_tensor("prior")
        return Model(int(public["round"]), parameters, prior, policy_from_dict(public["policy"]))
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, FedrecallError) as error:
        raise RunError(f"{path}: no readable model ({error})") from error
