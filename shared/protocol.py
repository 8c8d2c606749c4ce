"""What crosses the wire: one frozen class a message. Tasks are data.

No code, pickle, module path, seed or file path is ever read from a task. Parsers raise :class:`ProtocolError` and
nothing else on hostile input. The encoding is one JSON text for public fields and one ArrayRecord for arrays
(``np.save`` without pickle).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Final, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from shared.config import LONGEST_WINDOW
from shared.encoder.profile import profile_length
from shared.encoder.spec import KINDS_OF_ENCODER, EncoderSpec, Floats
from shared.errors import FedrecallError, ProtocolError
from shared.policy.recall_policy import RecallPolicy, check_prices, policy_from_dict, policy_to_dict
from shared.privacy.calibration import plan_from_dict
from shared.privacy.ledger import Receipt
from shared.privacy.plan import PrivacyPlan, Release, plan_to_dict
from shared.recall.item_rules import ItemRules, rules_from_dict, rules_to_dict
from shared.recall.report import ACTIVITY, HISTORY_BINS, LARGEST_SHADOWS, ReportLayout

# Flower routes "<category>.<action>"; the release names the action.
MESSAGE_TYPES: Final[Mapping[Release, str]] = {
    "statistics": "query.statistics",
    "profile": "query.profile",
    "update": "train.update",
    "measurement": "evaluate.measurement",
    "trending": "query.trending",
}
_LARGEST: Final = 1 << 28  # array entries, rounds; more is hostile
# What looking into hostile JSON can raise.
MALFORMED: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    RecursionError,
    FedrecallError,
)
LONGEST_TEXT: Final = 1 << 20  # characters of a task without its arrays
_LONGEST_NAME: Final = 200  # characters


@dataclass(frozen=True)
class Header:
    """What every task says of itself.

    Attributes:
        run: id of the run; a client's participations count per run.
        round: 0 for what is asked once, else 1..rounds.
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
class ProfileTask:
    """Server -> client: how people differ in a few public features, once per plan (a private second moment).

    Attributes:
        width: popular items that are features of their own.
        typical: public length of a typical history.
        prior: (buckets,) log private popularity.
    """

    header: Header
    width: int
    typical: int
    prior: Floats

    @property
    def features(self) -> int:
        """Numbers in a profile."""
        return self.width + self.header.encoder.text_width


@dataclass(frozen=True)
class TrainTask:
    """Server -> client: train this model under this policy, answer with an update; what the rules bar is no target."""

    header: Header
    policy: RecallPolicy
    training: TrainingTerms
    rules: ItemRules
    parameters: Floats
    prior: Floats


@dataclass(frozen=True)
class MeasureTask:
    """Server -> client: measure this model under this policy on held-out behaviour.

    Attributes:
        shadows: neighbouring policies whose recall is reported beside; as many in every report of a run.
        activity: visible history lengths at which the middle and the high activity group begin; (0, 0) = unknown.
        rules: what is barred.
    """

    header: Header
    policy: RecallPolicy
    shadows: tuple[RecallPolicy, ...]
    activity: tuple[int, int]
    rules: ItemRules
    parameters: Floats
    prior: Floats


@dataclass(frozen=True)
class TrendingTask:
    """Server -> client: which items its users came to lately.

    Attributes:
        window: days, today included, by the client's own clock.
        items: of the catalogue; each has a number of its own in the answer.
    """

    header: Header
    window: int
    items: int


Task = StatisticsTask | ProfileTask | TrainTask | MeasureTask | TrendingTask
_RELEASE: Final[Mapping[type, Release]] = {
    StatisticsTask: "statistics",
    ProfileTask: "profile",
    TrainTask: "update",
    MeasureTask: "measurement",
    TrendingTask: "trending",
}


def release_of(task: Task) -> Release:
    """The kind of release that a task asks for."""
    return _RELEASE[type(task)]


def layout_of(task: MeasureTask) -> ReportLayout:
    """How the answer to a measurement is laid out and weighed."""
    header = task.header
    return ReportLayout(task.policy.k, header.encoder.buckets, len(task.shadows), header.plan.trust == "central")


def vector_length(task: Task) -> int:
    """Length of the sealed vector that answers a task; the same for every history."""
    encoder = task.header.encoder
    if isinstance(task, TrainTask):
        return encoder.trained
    if isinstance(task, ProfileTask):
        return profile_length(task.features)
    if isinstance(task, TrendingTask):
        return task.items
    return encoder.buckets + HISTORY_BINS if isinstance(task, StatisticsTask) else layout_of(task).length


_FIELDS: Final[Mapping[str, set[str]]] = {
    "statistics": {"release", "header"},
    "profile": {"release", "header", "width", "typical"},
    "measurement": {"release", "header", "policy", "shadows", "activity", "rules"},
    "update": {"release", "header", "policy", "training", "rules"},
    "trending": {"release", "header", "window", "items"},
}
_ARRAYS: Final[Mapping[str, set[str]]] = {
    "statistics": set(),
    "profile": {"prior"},
    "measurement": {"parameters", "prior"},
    "update": {"parameters", "prior"},
    "trending": set(),
}


def task_record(task: Task) -> RecordDict:
    """A task on the wire. Build it once and send the same object to everybody."""
    said: dict[str, Any] = {"release": release_of(task), "header": header_to_dict(task.header)}
    arrays: dict[str, Floats] = {}
    if isinstance(task, TrainTask | MeasureTask):
        said["policy"] = policy_to_dict(task.policy)
        said["rules"] = rules_to_dict(task.rules)
        arrays = {"parameters": task.parameters, "prior": task.prior}
    if isinstance(task, MeasureTask):
        said["shadows"] = [policy_to_dict(policy) for policy in task.shadows]
        said["activity"] = list(task.activity)
    if isinstance(task, TrainTask):
        said["training"] = asdict(task.training)
    if isinstance(task, ProfileTask):
        said |= {"width": task.width, "typical": task.typical}
        arrays = {"prior": task.prior}
    if isinstance(task, TrendingTask):
        said |= {"window": task.window, "items": task.items}
    text = json.dumps(said, sort_keys=True, allow_nan=False)
    return RecordDict(
        {
            "task": ConfigRecord({"json": text}),
            "arrays": ArrayRecord({name: Array(value) for name, value in arrays.items()}),
        }
    )


def task_digest(record: RecordDict) -> str:
    """SHA-256 over all that a task says; ties ledger lines and the server's signature to it."""
    digest = hashlib.sha256(str(record.config_records["task"]["json"]).encode())
    for name, array in sorted(record.array_records["arrays"].items()):
        digest.update(name.encode() + array.data)
    return digest.hexdigest()


def parse_task(record: RecordDict) -> Task:
    """A task from the wire, every field checked, nothing unknown.

    Raises:
        ProtocolError: anything at all is missing, unknown, of another type, out of range or of another shape.
    """
    try:
        return _task(record)
    except ProtocolError:
        raise
    except MALFORMED as error:
        raise ProtocolError(f"malformed task: {type(error).__name__}: {error}") from error


def receipt_part(receipt: Receipt) -> ConfigRecord:
    """A receipt as an answer carries it. Clients of one process share a receipt: make it once for all of them."""
    return ConfigRecord(dict(vars(receipt)))


def vector_part(vector: NDArray[Any]) -> ArrayRecord:
    """A vector as a message carries it, under the name ``vector``: byte for byte as Flower's own ``Array(vector)``."""
    part = ArrayRecord()
    name, header = _form(vector.dtype, vector.shape)
    part["vector"] = Array(name, vector.shape, "numpy.ndarray", b"".join((header, np.ascontiguousarray(vector).data)))
    return part


def sealed_record(vector: NDArray[np.int32], receipt: ConfigRecord) -> RecordDict:
    """Client -> server: one sealed vector and the client's receipt for it; the same size whatever the history."""
    return RecordDict({"sealed": vector_part(vector), "receipt": receipt})


def declined_record() -> RecordDict:
    """Client -> server: no. The clause stays in the client's ledger."""
    return RecordDict({"status": ConfigRecord({"code": "declined"})})


def is_declined(record: RecordDict) -> bool:
    """Whether an answer is a refusal."""
    status = record.get("status")
    return isinstance(status, ConfigRecord) and status.get("code") == "declined"


def parse_sealed(record: RecordDict, length: int) -> NDArray[np.int32] | None:
    """The sealed vector of an answer; None = declined.

    Raises:
        ProtocolError: neither a refusal nor an int32 vector of the right length.
    """
    if is_declined(record):
        return None
    sealed = record.get("sealed")
    if not isinstance(sealed, ArrayRecord) or "vector" not in sealed:
        raise ProtocolError("an answer holds neither a sealed vector nor a refusal")
    return cast("NDArray[np.int32]", vector_of(sealed["vector"], "sealed vector", "int32", length))


def _task(record: RecordDict) -> Task:
    text = record.config_records["task"]["json"]
    if type(text) is not str or len(text) > LONGEST_TEXT:
        raise ProtocolError(f"task: expected one JSON text of at most {LONGEST_TEXT} characters")
    said = json.loads(text)
    release = said["release"]
    if release not in _FIELDS or set(said) != _FIELDS[release]:
        raise ProtocolError(f"task: fields {sorted(said)}, expected those of one of {tuple(_FIELDS)}")
    header = parse_header(said["header"])
    arrays = record.array_records["arrays"]
    expected = _ARRAYS[release]
    if set(arrays) != expected:
        raise ProtocolError(f"arrays {sorted(arrays)}, expected exactly {sorted(expected)}")
    if release == "statistics":
        return StatisticsTask(header)
    if release == "profile":
        return _profile(header, said["width"], said["typical"], arrays["prior"])
    if release == "trending":
        return _trending(header, said["window"], said["items"])
    parameters = finite_vector(arrays["parameters"], "parameters", header.encoder.size)
    prior = finite_vector(arrays["prior"], "prior", header.encoder.buckets)
    policy = policy_from_dict(said["policy"])
    check_prices(policy, header.encoder.buckets)
    if release == "measurement":
        shadows, activity = _shadows(said["shadows"], policy, header.encoder.buckets), _activity(said["activity"])
        return MeasureTask(header, policy, shadows, activity, rules_from_dict(said["rules"]), parameters, prior)
    rules = rules_from_dict(said["rules"])
    return TrainTask(header, policy, _training(said["training"]), rules, parameters, prior)


def _profile(header: Header, width: object, typical: object, prior: Array) -> ProfileTask:
    if type(width) is not int or not 1 <= width <= header.encoder.buckets:
        raise ProtocolError(f"width: {width!r}, expected a whole number from 1 to {header.encoder.buckets}")
    if type(typical) is not int or not 1 <= typical <= _LARGEST:
        raise ProtocolError(f"typical: {typical!r}, expected a whole number of at least 1")
    task = ProfileTask(header, width, typical, finite_vector(prior, "prior", header.encoder.buckets))
    if vector_length(task) > _LARGEST:
        raise ProtocolError(f"width: {task.features} features make {vector_length(task)} numbers, more than {_LARGEST}")
    return task


def _trending(header: Header, window: object, items: object) -> TrendingTask:
    for name, value, most in (("window", window, LONGEST_WINDOW), ("items", items, _LARGEST)):
        if type(value) is not int or not 1 <= value <= most:
            raise ProtocolError(f"{name}: {value!r}, expected a whole number from 1 to {most}")
    return TrendingTask(header, cast(int, window), cast(int, items))


def header_to_dict(header: Header) -> dict[str, Any]:
    """A header in plain JSON types."""
    return {**asdict(header), "plan": plan_to_dict(header.plan)}


def parse_header(raw: Mapping[str, Any]) -> Header:
    """A header from JSON, every field checked.

    Raises:
        ProtocolError: a field is missing, unknown, of another type or out of range.
        PlanError: its plan is none.
    """
    if set(raw) != {field.name for field in fields(Header)}:
        raise ProtocolError(f"header: fields {sorted(raw)} are not those of a header")
    for name in ("run", "catalogue"):
        # Both go into the client's ledger, whose lines have a length limit of their own.
        if type(raw[name]) is not str or not 1 <= len(raw[name]) <= _LONGEST_NAME:
            raise ProtocolError(f"header.{name}: expected a text of 1 to {_LONGEST_NAME} characters")
    for name, least in (("round", 0), ("attempt", 1)):
        if type(raw[name]) is not int or not least <= raw[name] <= _LARGEST:
            raise ProtocolError(f"header.{name}: expected a whole number of at least {least}")
    spec = parse_spec(raw["encoder"], "header.encoder")
    return Header(raw["run"], raw["round"], raw["attempt"], plan_from_dict(raw["plan"]), raw["catalogue"], spec)


def parse_spec(sizes: Mapping[str, Any], place: str = "encoder") -> EncoderSpec:
    """An encoder's public sizes from JSON, every field checked.

    Raises:
        ProtocolError: a field is missing, unknown, of another type or out of range.
    """
    names = [field.name for field in fields(EncoderSpec) if field.name != "kind"]
    if set(sizes) != {*names, "kind"} or any(type(sizes[n]) is not int or not 0 < sizes[n] < _LARGEST for n in names):
        raise ProtocolError(f"{place}: {sizes}, expected whole numbers {names} above 0, and kind")
    if sizes["kind"] not in KINDS_OF_ENCODER:
        raise ProtocolError(f"{place}.kind: {sizes['kind']!r}, expected one of {KINDS_OF_ENCODER}")
    spec = EncoderSpec(**sizes)
    if spec.size > _LARGEST:
        raise ProtocolError(f"{place}: {spec.size} parameters, more than {_LARGEST}")
    return spec


def _shadows(raw: Sequence[object], policy: RecallPolicy, buckets: int) -> tuple[RecallPolicy, ...]:
    if type(raw) is not list or len(raw) > LARGEST_SHADOWS:
        raise ProtocolError(f"shadows: expected a list of at most {LARGEST_SHADOWS} policies")
    shadows = tuple(policy_from_dict(one) for one in raw)
    for shadow in shadows:
        check_prices(shadow, buckets)
        if shadow.k != policy.k:
            raise ProtocolError(
                f"shadows: a list of {shadow.k} items beside one of {policy.k}: recall would differ by k"
            )
    return shadows


def _activity(raw: Sequence[object]) -> tuple[int, int]:
    if type(raw) is not list or len(raw) != len(ACTIVITY) - 1 or any(type(n) is not int for n in raw):
        raise ProtocolError("activity: expected two whole numbers")
    low, high = cast("list[int]", raw)
    if not (low == high == 0 or 1 <= low <= high <= _LARGEST):
        raise ProtocolError(f"activity: {low} and {high}, expected 1 <= low <= high, or 0 and 0 where it is unknown")
    return low, high


def _training(raw: Mapping[str, Any]) -> TrainingTerms:
    if set(raw) != {field.name for field in fields(TrainingTerms)}:
        raise ProtocolError(f"training: fields {sorted(raw)} are not those of training terms")
    terms = TrainingTerms(**raw)
    if terms.loss not in {"softmax", "bpr", "squared"}:
        raise ProtocolError(f"training.loss: {terms.loss!r}, expected softmax, bpr or squared")
    if type(terms.learning_rate) not in {int, float} or not 0 < terms.learning_rate <= 100:
        raise ProtocolError(f"training.learning_rate: {terms.learning_rate!r}, must be above 0 and at most 100")
    for name, most in (("context", 4096), ("targets", 1024), ("negatives", 65_536)):
        value = getattr(terms, name)
        if type(value) is not int or not 1 <= value <= most:
            raise ProtocolError(f"training.{name}: {value!r}, expected a whole number from 1 to {most}")
    return terms


def finite_vector(array: Array, name: str, length: int) -> Floats:
    """The values of a float32 vector from the wire; see :func:`vector_of`.

    Raises:
        ProtocolError: of another type or length, or not finite.
    """
    value = vector_of(array, name, "float32", length).copy()
    if not np.isfinite(value).all():
        raise ProtocolError(f"{name}: holds values that are not finite")
    return cast("Floats", value)


def vector_of(array: Array, name: str, dtype: str, length: int) -> NDArray[Any]:
    """The values, not to be written to, of an array that must be exactly what ``np.save`` writes of such a vector.

    Compared byte for byte: numpy's own reader believes a hostile header, and allocates what it says.

    Raises:
        ProtocolError: of another type or length.
    """
    (_, start), data = _form(np.dtype(dtype), (length,)), array.data
    if array.stype != "numpy.ndarray" or not data.startswith(start):
        raise ProtocolError(f"{name} of {array.dtype} {tuple(array.shape)[:4]}, expected {dtype} ({length},)")
    if len(data) != len(start) + length * np.dtype(dtype).itemsize:
        raise ProtocolError(f"{name}: {len(data)} bytes are not those of {length} values of {dtype}")
    return np.frombuffer(data, dtype, offset=len(start))


@lru_cache(maxsize=64)
def _form(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[str, bytes]:
    """A type's name, and what ``np.save`` writes before the values. Cached: the vectors of a cohort have one form."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return str(dtype), header.getvalue()
