"""The model that a run gives out: ``model.safetensors``, all that recommending needs beside the catalogue."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from client.recommending import Shelf, shelf_of
from server.checkpoint import State
from server.job import Job
from server.posterior import given_out
from shared.catalogue import Catalogue
from shared.encoder.spec import EncoderSpec, Floats, unpack
from shared.errors import FedrecallError, RunError
from shared.files import write_atomically
from shared.policy.recall_policy import RecallPolicy, policy_from_dict, policy_to_dict
from shared.recall.item_rules import ItemRules, rules_from_dict, rules_to_dict


@dataclass(frozen=True)
class Model:
    """What a list is made with.

    Attributes:
        round: after which the parameters were as they are.
        catalogue: version of the catalogue that it was trained with.
        encoder: public sizes.
        parameters: the encoder's.
        prior: log private popularity.
        policy: frozen once the run has ended.
        rules: what may never be shown.
    """

    round: int
    catalogue: str
    encoder: EncoderSpec
    parameters: Floats
    prior: Floats
    policy: RecallPolicy
    rules: ItemRules


def model_of(state: State, job: Job) -> Model:
    """A state's model, as people recommend with it."""
    parameters = given_out(job.encoder, state)
    return Model(max(0, state.round), job.catalogue, job.encoder, parameters, state.prior, state.policy, job.rules)


def shelf_for(model: Model, catalogue: Catalogue) -> Shelf:
    """A model made ready for recommending from the catalogue that it was trained with.

    Raises:
        RunError: it was trained with another one.
    """
    if catalogue.version() != model.catalogue:
        raise RunError(
            f"the model was trained with catalogue {model.catalogue[:12]}…, this is {catalogue.version()[:12]}…: its "
            "rows would stand for other items"
        )
    return shelf_of(model.encoder, model.parameters, model.prior, catalogue, rules=model.rules)


def write_model(path: Path, model: Model, catalogue: Catalogue) -> None:
    """The model as clients need it: encoder parts, item vectors, prior; sizes, policy and rules in the metadata."""
    arrays = {name: np.ascontiguousarray(part) for name, part in unpack(model.encoder, model.parameters).items()}
    arrays["prior"] = model.prior
    arrays["parameters"] = model.parameters
    arrays["items"] = shelf_for(model, catalogue).items["text"]
    public = {
        "catalogue": model.catalogue,
        "encoder": asdict(model.encoder),
        "round": model.round,
        "policy": policy_to_dict(model.policy),
        "rules": rules_to_dict(model.rules),
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
        encoder = EncoderSpec(**public["encoder"])
        unpack(encoder, parameters)  # of another length = broken
        policy, rules = policy_from_dict(public["policy"]), rules_from_dict(public["rules"])
        return Model(int(public["round"]), str(public["catalogue"]), encoder, parameters, prior, policy, rules)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, FedrecallError) as error:
        raise RunError(f"{path}: no readable model ({error})") from error
