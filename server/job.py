"""What is fixed about a run before its first round: the plan, the sizes, the nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from server.aggregation import initial_optimizer
from server.checkpoint import State
from shared.catalogue import Catalogue
from shared.config import Config, first_policy
from shared.encoder.spec import EncoderSpec, initial_parameters
from shared.errors import ConfigError
from shared.policy.rules import RulesState, Targets
from shared.privacy.calibration import make_plan
from shared.privacy.checks import check_target
from shared.privacy.plan import Kind, PrivacyPlan, Target


@dataclass(frozen=True)
class Job:
    """A run's constants, all public.

    Attributes:
        run: id of the run.
        config: the resolved configuration.
        plan: the privacy plan.
        encoder: public sizes of the model.
        catalogue: version of the catalogue.
        items: size of the catalogue.
        users_per_client: public normaliser: units behind one client's update.
        nodes: client -> Flower node id.
    """

    run: str
    config: Config
    plan: PrivacyPlan
    encoder: EncoderSpec
    catalogue: str
    items: int
    users_per_client: int
    nodes: Mapping[str, int]

    @property
    def clients(self) -> tuple[str, ...]:
        """All clients, in their own order."""
        return tuple(self.nodes)

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
    def targets(self) -> Targets:
        """What the controller aims at."""
        section = self.config.policy
        return Targets(section.recall_target, section.coverage_target, iterations_fixed=self.plan.trust == "local")


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
        ConfigError: a cohort that cannot be.
        PlanError: a promise that cannot be kept.
    """
    encoder = EncoderSpec(
        text_width=catalogue.groups["text"].shape[1],
        rank=config.model.rank,
        buckets=min(config.model.buckets, len(catalogue.ids)),
    )
    first_policy(config.policy)
    size = config.cohort.size
    if size != "everybody" and not 1 <= size <= len(nodes):
        raise ConfigError(f'cohort.size = {size}: must lie between 1 and the {len(nodes)} clients, or be "everybody"')
    plan = make_plan(target_of(config, len(nodes), users, encoder.size, kind))
    return Job(run, config, plan, encoder, catalogue.version(), len(catalogue.ids), users_per_client, nodes)


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
    return Target(
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
        shares={
            "update": 1.0 - privacy.measurement_share - privacy.statistics_share,
            "measurement": privacy.measurement_share,
            "statistics": privacy.statistics_share,
        },
        update_dimension=dimension,
        clip=privacy.clip,
        local_steps=config.policy.local_iterations,
        users=users,
        sampling=cohort / population if poisson else None,
    )


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


def initial_state(job: Job, rng: np.random.Generator) -> State:
    """Before the first round."""
    policy = first_policy(job.config.policy)
    return State(
        round=-1,
        parameters=initial_parameters(job.encoder, rng),
        optimizer=initial_optimizer(job.encoder.size),
        prior=np.zeros(job.encoder.buckets, np.float32),
        policy=policy,
        controller=RulesState(policy),
    )
