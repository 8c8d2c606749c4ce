"""Public configuration of a run: TOML, validated, every bound stated, unknown keys answered with a suggestion.

The sections here are what a server needs, simulated or deployed; ``simulations/config.py`` adds what only a
simulation has.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shared.device import Device
from shared.errors import ConfigError, ProtocolError
from shared.policy.recall_policy import GROUPS, RecallPolicy, Similarity
from shared.recall.item_rules import ItemRules, rules_from_dict
from shared.recall.report import LARGEST_SHADOWS

WEIGHTS: Final[Mapping[str, float]] = {"text": 10.0, "lexical": 5.0, "category": 1.0, "popularity": 1.0}
LONGEST_WINDOW: Final = 3650  # days
SIMILARITY: Final[Mapping[str, Similarity]] = {"text": "dot", "lexical": "cosine", "category": "cosine"}


class Section(BaseModel):
    """Base of all sections: frozen, nothing unknown, every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class Privacy(Section):
    """The promise, and how its budget is split."""

    epsilon: float | Literal["none"] = Field(
        8.0, description='target against everybody, 0.001 to 100; "none" = no differential privacy'
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="target delta; must be below 1/users")
    unit: Literal["user", "interaction"] = Field("user", description="whose data is protected")
    trust: Literal["local", "distributed", "central"] = Field("distributed", description="who adds the noise")
    participations: int | Literal["rounds"] = Field(
        "rounds", description="K, at least 1: updates one client may contribute; its own gate enforces it"
    )
    collusion: float = Field(0.1, ge=0, lt=1, description="share of the smallest cohort that may collude")
    clip: Annotated[float, Field(gt=0, le=1000)] | Literal["plan"] = Field(
        "plan",
        description='largest L2 norm of one unit\'s update; "plan" = 0.85 for encoder linear, 0.5 for the others',
    )
    measurement_share: Annotated[float, Field(ge=0, lt=1)] | Literal["plan"] = Field(
        "plan",
        description='share of the budget (zCDP) for measurements; "plan" = the smallest that '
        "measures recall well enough, between 0.05 and 0.12 (docs/measurement.md)",
    )
    statistics_share: float = Field(
        0.1, ge=0, lt=1, description="share of the budget (zCDP) for private popularity and lengths of histories"
    )
    profile_share: float = Field(
        0.3, ge=0, lt=1, description="share of the budget (zCDP) for the one-off second moment (encoder linear)"
    )
    trending_share: float = Field(
        0.0, ge=0, lt=1, description="share of the budget (zCDP) for what is trending; 0 = off (docs/trending.md)"
    )


class Cohort(Section):
    """Who is asked, and how long the server waits."""

    size: int | Literal["everybody"] = Field(
        "everybody", description="clients asked each round, at least 1; under poisson on average"
    )
    sampling: Literal["fixed", "poisson"] = Field(
        "fixed",
        description='"fixed" = exactly that many; "poisson" = each client by a coin of its own (trust central only)',
    )
    smallest: float = Field(
        0.9, ge=0, le=1, description="share of the cohort that must answer, else the round is aborted; 0 under poisson"
    )
    deadline: float = Field(
        600.0, gt=0, le=86_400, description="seconds the server waits for answers, in each step of a round"
    )


class Model(Section):
    """The encoder's public sizes."""

    text_encoder: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2", description='a Hugging Face model by name or folder, or "none"'
    )
    encoder: Literal["linear", "mean", "attention", "gru"] = Field(
        "linear",
        description="how histories become vectors (docs/encoder.md); all but linear want policy.features text and "
        'popularity, policy.weights.text 5 and policy.similarity.text "cosine"',
    )
    rank: Annotated[int, Field(ge=1, le=1024)] | Literal["plan"] = Field(
        "plan",
        description='width of item and user vectors; "plan" = as many as the noise leaves (not linear: 32)',
    )
    adaptation: Literal["none", "whiten", "contrastive"] = Field(
        "none", description="fits the text group to the catalogue's own texts; public: docs/large-model.md"
    )
    vectors: Literal["float32", "int8"] = Field("float32", description="numbers that catalogue vectors are kept in")
    buckets: int = Field(8192, ge=1, le=10_000_000, description="rows of per-item vectors; more items share rows")


class TrainingSection(Section):
    """Local training and the server's optimizer."""

    loss: Literal["softmax", "bpr", "squared"] = Field(
        "softmax", description="loss of a user's targets (linear always has the squared error)"
    )
    learning_rate: float = Field(1.0, gt=0, le=100, description="of local steps")
    context: int = Field(96, ge=1, le=4096, description="history items an encoder reads in training")
    targets: int = Field(32, ge=1, le=1024, description="most targets per visit")
    negatives: int = Field(256, ge=1, le=65_536, description="sampled negatives per visit")
    server_optimizer: Literal["fedavg", "fedadam", "fedadagrad"] = Field(
        "fedadam", description="applies the mean update (linear has a posterior: docs/encoder.md)"
    )
    server_learning_rate: float = Field(0.01, gt=0, le=100, description="of the server optimizer")
    warmup: int = Field(5, ge=0, le=10_000, description="rounds over which the server's learning rate rises linearly")


class PolicySection(Section):
    """The first policy, and what steers it."""

    controller: Literal["rules", "dual", "shadow", "static"] = Field(
        "rules", description="what adjusts the policy between rounds; docs/policy.md compares them"
    )
    measure_every: int = Field(
        2, ge=1, le=10_000, description="rounds between measurements; the last round is measured"
    )
    recall_target: float = Field(0.2, ge=0, le=1, description="recall@k below which features come in")
    coverage_target: float = Field(
        0.40,
        ge=0,
        le=1,
        description="share of the catalogue that lists should reach; under noise its floor must (docs/policy.md)",
    )
    fairness: float = Field(
        0.0,
        ge=0,
        le=100,
        description="weight of the ndcg gap between activity groups against recall; 0 = only reported",
    )
    shadows: int = Field(4, ge=1, le=LARGEST_SHADOWS, description="neighbours in each report (controller shadow)")
    freeze: bool = Field(False, description="measure, but never move the policy")
    approval: bool = Field(False, description="a move waits until a person approves it: fedrecall-sim policy")
    features: tuple[Literal["text", "lexical", "category", "popularity"], ...] = Field(
        ("text", "lexical"), min_length=1, description="feature groups on at the start"
    )
    weights: dict[str, float] = Field(
        dict(WEIGHTS), description="W, per feature group, in logits, -1000 to 1000; groups left out keep their default"
    )
    similarity: dict[str, Similarity] = Field(
        dict(SIMILARITY), description="per feature group; groups left out keep their default"
    )
    depth: int = Field(200, ge=1, le=1_000_000, description="candidates that are re-ranked")
    local_iterations: int = Field(1, ge=1, le=64, description="local training steps per round")
    exposure_price: float = Field(0.0, ge=0, le=10, description="logits the most popular item pays")
    diversity: float = Field(0.0, ge=0, le=1, description="MMR trade-off")
    exploration: float = Field(0.0, ge=0, le=0.5, description="share of places filled by chance")
    explore_from: int = Field(0, ge=0, le=1_000_000, description="items seen from which places are left to chance")
    k: int = Field(20, ge=10, le=1000, description="length of the list")

    @field_validator("weights")
    @classmethod
    def _all_weights(cls, given: dict[str, float]) -> dict[str, float]:
        return {**WEIGHTS, **given}

    @field_validator("similarity")
    @classmethod
    def _all_similarities(cls, given: dict[str, Similarity]) -> dict[str, Similarity]:
        return {**SIMILARITY, **given}


class TrendingSection(Section):
    """Which events are recent, and how often what is trending is asked."""

    window_days: int = Field(
        7, ge=1, le=LONGEST_WINDOW, description="days, today included, whose events count, by each client's own clock"
    )
    every: int = Field(10, ge=1, le=100_000, description="rounds between refreshes; a round that divides by it has one")


class RulesSection(Section):
    """Item rules: raw item ids that are never recommended; no policy lifts them (docs/device.md)."""

    blocked: tuple[str, ...] = Field((), description="item ids that nobody is shown")
    harmful: tuple[str, ...] = Field((), description="item ids that must not be promoted")
    min_age: dict[str, int] = Field(default_factory=dict, description="item id -> smallest age in years")


class Config(Section):
    """What a server runs."""

    rounds: int = Field(20, ge=1, le=100_000, description="training rounds")
    device: Device = Field(
        "auto",
        description='what the text encoder and, in a simulation, local training compute on: "cuda", "cpu", or '
        '"auto" = the GPU where torch finds one; what protects people is computed on the CPU',
    )
    privacy: Privacy = Privacy()
    cohort: Cohort = Cohort()
    model: Model = Model()
    training: TrainingSection = TrainingSection()
    policy: PolicySection = PolicySection()
    trending: TrendingSection = TrendingSection()
    rules: RulesSection = RulesSection()


AnyConfig = TypeVar("AnyConfig", bound=Section)
LARGEST_WEIGHT: Final = 1000  # as in shared/policy/recall_policy.py


def first_policy(section: PolicySection) -> RecallPolicy:
    """Version 1 of the recall policy.

    Raises:
        ConfigError: an unknown feature group in weights or similarity; a weight that no client accepts.
    """
    for name, given, wanted in (
        ("weights", section.weights, set(GROUPS)),
        ("similarity", section.similarity, set(GROUPS) - {"popularity"}),
    ):
        if set(given) != wanted:
            raise ConfigError(f"policy.{name}: got {sorted(given)}, expected one entry for each of {sorted(wanted)}")
    for group, weight in section.weights.items():
        if not abs(weight) <= LARGEST_WEIGHT:
            raise ConfigError(
                f"policy.weights.{group} = {weight}: must lie between -{LARGEST_WEIGHT} and {LARGEST_WEIGHT}"
            )
    return RecallPolicy(
        version=1,
        similarity=dict(section.similarity),
        weights=dict(section.weights),
        features=tuple(group for group in GROUPS if group in section.features),
        depth=section.depth,
        local_iterations=section.local_iterations,
        exposure_price=section.exposure_price,
        diversity=section.diversity,
        exploration=section.exploration,
        k=section.k,
        explore_from=section.explore_from,
        frozen=section.freeze,
    )


def item_rules(section: RulesSection) -> ItemRules:
    """The rules as tasks carry them.

    Raises:
        ConfigError: an entry that no client accepts.
    """
    try:
        return rules_from_dict(section.model_dump())
    except ProtocolError as error:
        raise ConfigError(str(error)) from error


def shadow_count(section: PolicySection) -> int:
    """How many neighbouring policies every report scores: public and the same in the whole run."""
    return section.shadows if section.controller == "shadow" else 0


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary.

    Raises:
        ConfigError: names the file, and the line where the parser gave up.
    """
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a preset's name or a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        said = str(error).replace("end of document", f"line {len(text.splitlines())}, the end of the file")
        raise ConfigError(f"{path}: not valid TOML: {said}") from error


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over`` on top, section by section."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return out


def assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """``["privacy.epsilon=4", ...]`` as nested dictionaries; values are TOML, bare words are strings.

    Raises:
        ConfigError: a pair without "=".
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {pair}: expected key=value, for example --set privacy.epsilon=4")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        for part in reversed(name.strip().split(".")):
            value = {part: value}
        out = merged(out, value)
    return out


def validate(shape: type[AnyConfig], raw: Mapping[str, Any], source: str) -> AnyConfig:
    """A validated configuration.

    Raises:
        ConfigError: one sentence a problem: the key, the value, what would be right.
    """
    try:
        return shape.model_validate(raw)
    except ValidationError as error:
        problems = dict.fromkeys(_sentence(shape, problem) for problem in error.errors())
        raise ConfigError(f"{source}: " + "; ".join(problems)) from error


def keys(shape: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted keys of a configuration."""
    out: list[str] = []
    for name, info in shape.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            out += keys(kind, f"{prefix}{name}.")
        else:
            out.append(prefix + name)
    return out


def _sentence(shape: type[BaseModel], problem: Mapping[str, Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    # Of a key that may be of two types, pydantic names the type that failed behind the key.
    if len(path) > 1 and (path[-1] in {"float", "int", "str"} or path[-1].startswith(("literal[", "constrained-"))):
        path.pop()
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = keys(shape)
        near = [k for k in known if k.rsplit(".", 1)[-1] == path[-1]][:1]  # the right name in the wrong section
        near = near or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        return f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else "; see docs/config.md")
    said = str(problem["msg"])
    return f"{key} = {problem['input']!r}: {said[:1].lower()}{said[1:]}"
