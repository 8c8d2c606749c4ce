"""What is fixed about a run before its first round: the plan, the sizes, the nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from server.aggregation import initial_optimizer
from server.budget import measurement_share, profile_signal
from server.checkpoint import State
from server.warm_start import rank_of, width_of
from shared.catalogue import Catalogue
from shared.config import Config, first_policy, item_rules, shadow_count
from shared.encoder.profile import profile_length
from shared.encoder.spec import EncoderSpec, Floats, bucket_of, initial_parameters
from shared.errors import ConfigError
from shared.policy.memory import Memory
from shared.policy.sight import Targets
from shared.privacy.calibration import make_plan
from shared.privacy.checks import check_target
from shared.privacy.plan import Kind, PrivacyPlan, Release, Target
from shared.recall.item_rules import ItemRules, unknown
from shared.recall.report import ReportLayout

MEAN_RANK: Final = 32
# linear: a residual of a history at length one is about that long once popularity is learned. Two towers: chosen on
# validation items of MovieLens 100K.
CLIPS: Final = {"linear": 0.85, "mean": 0.5, "attention": 0.5, "gru": 0.5}


@dataclass(frozen=True)
class Job:
    """A run's constants, all public.

    Attributes:
        run: id of the run.
        config: the resolved configuration.
        plan: the privacy plan.
        encoder: public sizes of the model.
        catalogue: version of the catalogue.
        ids: raw ids of its items.
        users_per_client: public normaliser: units behind one client's update.
        nodes: client -> Flower node id.
        public: (items, text_width) public vectors that the encoder reads.
        bucket: (items,) row of each item in per-item vectors.
        width: popular items that are features of a profile of their own (encoder linear), else 0.
    """

    run: str
    config: Config
    plan: PrivacyPlan
    encoder: EncoderSpec
    catalogue: str
    ids: tuple[str, ...]
    users_per_client: int
    nodes: Mapping[str, int]
    public: Floats
    bucket: NDArray[np.int64]
    width: int

    @property
    def items(self) -> int:
        """Size of the catalogue."""
        return len(self.ids)

    @property
    def clients(self) -> Sequence[str]:
        """All clients, in their own order; of mappings whose names can be had by their places, nothing is listed."""
        names = self.nodes.keys()
        return names if isinstance(names, Sequence) else tuple(names)

    @property
    def cohort_size(self) -> int:
        """Clients asked each round; under Poisson sampling on average."""
        size = self.config.cohort.size
        return len(self.nodes) if size == "everybody" else size

    def counted(self, survivors: int) -> int:
        """Clients that a sum is taken to stand for, in a mean or an estimate: a public number.

        Under Poisson sampling those expected, whoever was drawn: the number of survivors must show in nothing that
        recipients see, or the amplified claim is void (docs/privacy.md).
        """
        return survivors if self.plan.sampling is None else self.cohort_size

    @property
    def rules(self) -> ItemRules:
        """What may never be recommended; public, part of every task."""
        return item_rules(self.config.rules)

    @cached_property
    def bucket_text(self) -> Floats:
        """(buckets, text_width) mean public vector of the items of each bucket."""
        total = np.zeros((self.encoder.buckets, self.public.shape[1]), np.float32)
        np.add.at(total, self.bucket, self.public)
        return np.asarray(total / np.maximum(np.bincount(self.bucket, minlength=len(total)), 1)[:, None], np.float32)

    def update_noise(self, survivors: int) -> float:
        """Standard deviation of the noise in each entry of a sum of updates, in the unit of parameters."""
        mechanism = self.plan.update
        if self.plan.trust != "local":
            return self.plan.sum_sigma("update", survivors) * mechanism.clip / mechanism.steps
        # Trust local: noise at every local step, times the learning rate.
        step = self.config.training.learning_rate * mechanism.noise_multiplier * mechanism.clip
        return step * math.sqrt(mechanism.inner_steps * survivors)

    @property
    def targets(self) -> Targets:
        """What the controller aims at."""
        section = self.config.policy
        return Targets(
            recall=section.recall_target,
            coverage=section.coverage_target,
            items=self.items,
            fairness=section.fairness,
            shadows=shadow_count(section),
            # A linear step of rate 1 is the whole residual: a second one would find nothing left to do.
            iterations_fixed=self.plan.trust == "local"
            or (self.encoder.kind == "linear" and self.config.training.learning_rate >= 1.0),
        )


def make_job(
    run: str,
    config: Config,
    catalogue: Catalogue,
    nodes: Mapping[str, int],
    *,
    users_per_client: int,
    users: int,
    kind: Kind,
) -> Job:
    """Fix a run.

    Raises:
        ConfigError: a cohort that cannot be; an encoder without what it reads histories with.
        PlanError: a promise that cannot be kept.
    """
    first_policy(config.policy)
    if missing := unknown(item_rules(config.rules), catalogue.ids):
        raise ConfigError(f"rules: item {missing[0]!r} is not in the catalogue; a rule for it would bar nothing")
    size = config.cohort.size
    if size != "everybody" and not 1 <= size <= len(nodes):
        raise ConfigError(f'cohort.size = {size}: must lie between 1 and the {len(nodes)} clients, or be "everybody"')
    target = target_of(config, len(nodes), users, 1, kind)
    if config.model.encoder == "linear" and not (target.shares["statistics"] and target.shares["profile"]):
        raise ConfigError(
            f'model.encoder "linear" reads histories by contexts from round 0: privacy.statistics_share '
            f"({config.privacy.statistics_share}) and privacy.profile_share ({config.privacy.profile_share}) must be "
            "above 0"
        )
    signal = profile_signal(target)
    encoder = encoder_of(config, catalogue, signal)
    width = width_of(signal, encoder.buckets) if encoder.kind == "linear" else 0
    profile = profile_length(width + encoder.text_width) if width else 0
    plan = make_plan(
        replace(
            target,
            update_dimension=encoder.trained,
            profile_dimension=profile,
            trending_dimension=len(catalogue.ids),
            per_client=users_per_client,
        )
    )
    return Job(
        run,
        config,
        plan,
        encoder,
        catalogue.version(),
        catalogue.ids,
        users_per_client,
        nodes,
        catalogue.groups[encoder.reads],
        bucket_of(catalogue.ids, encoder.buckets),
        width,
    )


def encoder_of(config: Config, catalogue: Catalogue, signal: float) -> EncoderSpec:
    """The encoder's public sizes, from the configuration, the catalogue and how much the noise leaves."""
    model = config.model
    rank = model.rank
    if rank == "plan":
        rank = rank_of(signal) if model.encoder == "linear" else MEAN_RANK
    buckets = min(model.buckets, len(catalogue.ids))
    return EncoderSpec(
        catalogue.groups[EncoderSpec(1, 1, 1, model.encoder).reads].shape[1], rank, buckets, model.encoder
    )


def target_of(config: Config, population: int, users: int, dimension: int, kind: Kind) -> Target:
    """The plan's target, from the configuration and public facts."""
    privacy, poisson = config.privacy, config.cohort.sampling == "poisson"
    cohort = population if config.cohort.size == "everybody" else config.cohort.size
    # A fixed cohort evens participations out; a coin may come up every time.
    share = 1.0 if poisson else cohort / population
    participations = privacy.participations
    # With fewer participations than rounds the run ends when they are used up; the last round is measured in any case.
    possible = config.rounds if participations == "rounds" else min(config.rounds, int(participations / share + 1e-9))
    measured = sum(measured_round(config, r) or r == possible for r in range(1, possible + 1))
    refreshed = sum(refreshed_round(config, r) for r in range(1, possible + 1))
    target = Target(
        kind=kind,
        unit=privacy.unit,
        trust=privacy.trust,
        epsilon=None if privacy.epsilon == "none" else privacy.epsilon,
        delta=privacy.delta,
        population=population,
        smallest_cohort=max(0 if poisson else 1, math.ceil(config.cohort.smallest * cohort - 1e-9)),
        collusion=privacy.collusion,
        rounds=config.rounds,
        update_participations=math.ceil(config.rounds * share - 1e-9) if participations == "rounds" else participations,
        measurement_participations=math.ceil(measured * share - 1e-9),
        shares={},
        update_dimension=dimension,
        clip=CLIPS[config.model.encoder] if privacy.clip == "plan" else privacy.clip,
        local_steps=config.policy.local_iterations,
        users=users,
        sampling=cohort / population if poisson else None,
        trending_participations=math.ceil(refreshed * share - 1e-9),
        cohort=0 if poisson else cohort,
    )
    measurements = privacy.measurement_share
    if measurements == "plan":
        measurements = measurement_share(target, layout_of_reports(config, 1))
    shares: dict[Release, float] = {
        "measurement": measurements,
        "statistics": privacy.statistics_share,
        "profile": privacy.profile_share if config.model.encoder == "linear" else 0.0,
        "trending": privacy.trending_share,
    }
    return replace(target, shares={"update": 1.0 - sum(shares.values()), **shares})


def layout_of_reports(config: Config, buckets: int) -> ReportLayout:
    """How every report of a run is laid out: k and the number of shadows never change, nor does the trust."""
    return ReportLayout(config.policy.k, buckets, shadow_count(config.policy), config.privacy.trust == "central")


def check_promise(config: Config) -> None:
    """Refuse what no population could make right, before any data is read.

    Raises:
        PlanError: the promise is absurd, or one that the unit, the trust or the sampling cannot carry.
    """
    size = config.cohort.size
    if size == "everybody" or size >= 1:  # else the cohort itself is wrong, which making the job says
        clients = 1000 if size == "everybody" else 2 * size
        some = target_of(config, clients, clients, 1, "simulation")
        check_target(replace(some, delta=min(config.privacy.delta, 1e-9)))


def measured_round(config: Config, round_: int) -> bool:
    """Whether a round is measured: every m-th, and the last."""
    return round_ % config.policy.measure_every == 0 or round_ == config.rounds


def refreshed_round(config: Config, round_: int) -> bool:
    """Whether a round refreshes what is trending."""
    return config.privacy.trending_share > 0 and round_ % config.trending.every == 0


def initial_state(job: Job, rng: np.random.Generator) -> State:
    """Before the first round."""
    policy = first_policy(job.config.policy)
    return State(
        round=-1,
        parameters=initial_parameters(job.encoder, rng),
        optimizer=initial_optimizer(job.encoder.trained),
        prior=np.zeros(job.encoder.buckets, np.float32),
        policy=policy,
        controller=Memory(policy),
    )
