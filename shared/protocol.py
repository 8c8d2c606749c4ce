"""What crosses the wire: one frozen class a message. Tasks are data.

No code, pickle, module path, seed or file path is ever read from a task. Parsers raise :class:`ProtocolError` and nothing else
on hostile input. The encoding is one JSON text for public fields and one ArrayRecord for arrays (``np.save`` without pickle).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from shared.encoder.spec import EncoderSpec, Floats
from shared.errors import FedrecallError, ProtocolError
from shared.policy.recall_policy import RecallPolicy, policy_from_dict, policy_to_dict
from shared.privacy.plan import PrivacyPlan, Release, plan_from_dict

# Flower routes "<category>.<action>"; the release names the action.
MESSAGE_TYPES: Final[Mapping[Release, str]] = {
    "statistics": "query.statistics",
    "update": "train.update",
    "measurement": "evaluate.measurement",
}
_LARGEST: Final = 1 << 28  # array entries; more is hostile


@dataclass(frozen=True)
class Header:
    """What every task says of itself.

    Attributes:
        run: id of the run; a client's participations count per run.
        round: 0 for one-off statistics, else 1..rounds.
        attempt: 1, or more when a round is tried again (a new intent, a new charge).
        plan: the contract; a client pins the first one it accepts.
        catalogue: version of the public catalogue that item indices refer to.
        encoder: public sizes.
    """

    run: str
    round: int
    attempt: int
    plan: PrivacyPlan
    catalogue: str
    encoder: EncoderSpec


@dataclass(frozen=True)
class TrainingTerms:
    """Public settings of local training; see ``client/training.py``."""

    loss: str
    learning_rate: float
    context: int
    targets: int
    negatives: int


@dataclass(frozen=True)
class StatisticsTask:
    """Server -> client: how often each bucket's items occur, once per plan (private popularity)."""

    header: Header


@dataclass(frozen=True)
class TrainTask:
    """Server -> client: train this model under this policy, answer with an update."""

    header: Header
    policy: RecallPolicy
    training: TrainingTerms
    parameters: Floats
    prior: Floats


@dataclass(frozen=True)
class MeasureTask:
    """Server -> client: measure this model under this policy on held-out behaviour."""

    header: Header
    policy: RecallPolicy
    parameters: Floats
    prior: Floats


Task = StatisticsTask | TrainTask | MeasureTask
_RELEASE: Final[Mapping[type, Release]] = {
    StatisticsTask: "statistics",
    TrainTask: "update",
    MeasureTask: "measurement",
}


def release_of(task: Task) -> Release:
    """The kind of release that a task asks for."""
    return _RELEASE[type(task)]


def vector_length(task: Task) -> int:
    """Length of the sealed vector that answers a task; the same for every history."""
    encoder = task.header.encoder
    if isinstance(task, TrainTask):
        return encoder.size
    return encoder.buckets + (0 if isinstance(task, StatisticsTask) else len(MEASURED))


MEASURED: Final = ("recall", "ndcg", "users")


def task_record(task: Task) -> RecordDict:
    """A task on the wire. Build it once and send the same object to everybody."""
    fields: dict[str, Any] = {"release": release_of(task), "header": asdict(task.header)}
    arrays: dict[str, Floats] = {}
    if isinstance(task, TrainTask | MeasureTask):
        fields["policy"] = policy_to_dict(task.policy)
        arrays = {"parameters": task.parameters, "prior": task.prior}
    if isinstance(task, TrainTask):
        fields["training"] = asdict(task.training)
    text = json.dumps(fields, sort_keys=True, allow_nan=False)
    return RecordDict(
        {
            "task": ConfigRecord({"json": text}),
            "arrays": ArrayRecord({name: Array(value) for name, value in arrays.items()}),
        }
    )


def task_digest(record: RecordDict) -> str:
    """SHA-256 over all that a task says; ties ledger lines to it."""
    digest = hashlib.sha256(str(record.config_records["task"]["json"]).encode())
    for name, array in sorted(record.array_records["arrays"].items()):
        digest.update(name.encode() + array.data)
    return digest.hexdigest()


def parse_task(record: RecordDict) -> Task:
    """A task from the wire, every field checked.

    Raises:
        ProtocolError: anything at all is missing, of another type, out of range or of another shape.
    """
    try:
        fields = json.loads(str(record.config_records["task"]["json"]))
        header = _header(fields["header"])
        arrays = {name: _floats(array, name) for name, array in record.array_records["arrays"].items()}
        release = fields["release"]
        if release == "statistics":
            return StatisticsTask(header)
        policy = policy_from_dict(fields["policy"])
        model = {"parameters": (header.encoder.size,), "prior": (header.encoder.buckets,)}
        for name, shape in model.items():
            if arrays[name].shape != shape:
                raise ProtocolError(f"{name}: shape {arrays[name].shape}, expected {shape}")
        if release == "measurement":
            return MeasureTask(header, policy, arrays["parameters"], arrays["prior"])
        if release == "update":
            return TrainTask(header, policy, _training(fields["training"]), arrays["parameters"], arrays["prior"])
        raise ProtocolError(f"release {release!r} is none of {tuple(MESSAGE_TYPES)}")
    except ProtocolError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError, FedrecallError) as error:
        raise ProtocolError(f"malformed task: {type(error).__name__}: {error}") from error


def sealed_record(vector: NDArray[np.int32]) -> RecordDict:
    """Client -> server: one sealed vector; the same size whatever the history."""
    return RecordDict({"sealed": ArrayRecord({"vector": Array(vector)})})


def declined_record() -> RecordDict:
    """Client -> server: no. The clause stays in the client's ledger."""
    return RecordDict({"status": ConfigRecord({"code": "declined"})})


def parse_sealed(record: RecordDict, length: int) -> NDArray[np.int32] | None:
    """The sealed vector of an answer; None = declined.

    Raises:
        ProtocolError: neither a refusal nor an int32 vector of the right length.
    """
    if record.config_records.get("status", {}).get("code") == "declined":
        return None
    try:
        array = record.array_records["sealed"]["vector"]
        if array.dtype != "int32" or tuple(array.shape) != (length,):
            raise ProtocolError(f"sealed vector of {array.dtype} {tuple(array.shape)}, expected int32 ({length},)")
        vector = array.numpy()
    except (KeyError, TypeError, ValueError, AttributeError, EOFError) as error:
        raise ProtocolError("an answer holds neither a sealed vector nor a refusal") from error
    if vector.dtype != np.int32 or vector.shape != (length,):
        raise ProtocolError(f"sealed vector of {vector.dtype} {vector.shape}, expected int32 ({length},)")
    return cast("NDArray[np.int32]", vector)


def _header(raw: Mapping[str, Any]) -> Header:
    for name, kind in (("run", str), ("round", int), ("attempt", int), ("catalogue", str)):
        if type(raw[name]) is not kind:
            raise ProtocolError(f"header.{name}: {raw[name]!r}, expected {kind.__name__}")
    if raw["round"] < 0 or raw["attempt"] < 1:
        raise ProtocolError(f"header: round {raw['round']}, attempt {raw['attempt']} are out of range")
    sizes = raw["encoder"]
    if set(sizes) != {"text_width", "rank", "buckets"} or any(
        type(n) is not int or not 0 < n < _LARGEST for n in sizes.values()
    ):
        raise ProtocolError(f"header.encoder: {sizes}, expected whole text_width, rank and buckets above 0")
    spec = EncoderSpec(**sizes)
    if spec.size > _LARGEST:
        raise ProtocolError(f"header.encoder: {spec.size} parameters, more than {_LARGEST}")
    return Header(raw["run"], raw["round"], raw["attempt"], plan_from_dict(raw["plan"]), raw["catalogue"], spec)


def _training(raw: Mapping[str, Any]) -> TrainingTerms:
    terms = TrainingTerms(**raw)
    if terms.loss not in ("softmax", "bpr", "squared"):
        raise ProtocolError(f"training.loss: {terms.loss!r}, expected softmax, bpr or squared")
    if not 0 < float(terms.learning_rate) <= 100:
        raise ProtocolError(f"training.learning_rate: {terms.learning_rate}, must be above 0 and at most 100")
    for name, most in (("context", 4096), ("targets", 1024), ("negatives", 65_536)):
        value = getattr(terms, name)
        if type(value) is not int or not 1 <= value <= most:
            raise ProtocolError(f"training.{name}: {value!r}, expected a whole number from 1 to {most}")
    return terms


def _floats(array: Array, name: str) -> Floats:
    size = int(np.prod([int(n) for n in array.shape], dtype=np.float64))
    if array.dtype != "float32" or size > _LARGEST:
        raise ProtocolError(f"{name}: {array.dtype} {tuple(array.shape)}, expected float32 of a sensible size")
    value = np.asarray(array.numpy())
    if value.dtype != np.float32 or not np.isfinite(value).all():
        raise ProtocolError(f"{name}: holds values that are not finite float32")
    return value
