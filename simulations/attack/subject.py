"""The run that is attacked: its plan as its ledger has it, its data, and the model that it came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from client.consent import consent_to
from client.host import Host, Randomness
from client.store import ClientStore
from server.checkpoint import State, load_state
from server.job import Job, initial_state
from server.posterior import given_out, known_of
from server.resuming import CHECKPOINT, SERVER_LEDGER
from shared.config import read_toml, validate
from shared.errors import LedgerError, PlanError, RunError
from shared.policy.control import neighbours
from shared.privacy.calibration import plan_from_dict
from shared.privacy.ledger import read_ledger
from shared.privacy.plan import PrivacyPlan, Release
from shared.protocol import (
    Header,
    MeasureTask,
    ProfileTask,
    StatisticsTask,
    Task,
    TrainingTerms,
    TrainTask,
    TrendingTask,
)
from simulations.config import SimulationConfig
from simulations.download import Say
from simulations.mending import CONFIG
from simulations.run import job_of
from simulations.seeding import generator, identities, signing_key
from simulations.trending import calendar
from simulations.world import World, load_world, stores_of

_LAST: Final = "report.html"  # marks the end of a run
_KEYS_OF: Final = 0  # seed of the keys of a rehearsal: they sign nothing that leaves this process


@dataclass(frozen=True)
class Subject:
    """What attacks need of a run.

    Attributes:
        config, world: as it ran.
        job: its constants, with the plan of its ledger.
        state: where it ended, or where it would begin.
        remark: what an attacker should know; "" for nothing.
    """

    config: SimulationConfig
    world: World
    job: Job
    state: State
    remark: str


def read_subject(folder: Path, *, data: Path | None, cache: Path, source: Path | None, say: Say) -> Subject:
    """A run's folder, made ready for attacks.

    Args:
        folder: of the run.
        data: its data where they are now; None = where the run found them.
        cache, source, say: as in a run.

    Raises:
        RunError: no run there, or no plan that can be read.
        FedrecallError: as for a run: its data are gone, its configuration is broken.
    """
    plan, run = _plan_of(folder)
    config = validate(SimulationConfig, read_toml(folder / CONFIG), str(folder / CONFIG))
    if data is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"name": str(data)})})
    world = load_world(config, cache, source, say)
    made = job_of(config, world, run)
    job = replace(made, plan=plan)
    remarks = ["this code and these data make another plan than the ledger's, which is used"] * (made.plan != plan)
    if not (folder / _LAST).exists():
        remarks.append("the run is not finished: attacked is all that its plan allows, under the model it has by now")
    checkpoint = folder / CHECKPOINT
    seed = None if config.seed == "none" else config.seed
    state = load_state(checkpoint) if checkpoint.exists() else initial_state(job, generator(seed, "model"))
    if len(state.parameters) != job.encoder.size:
        raise RunError(f"{checkpoint}: {len(state.parameters)} parameters, this run's model has {job.encoder.size}")
    return Subject(config, world, job, state, "; ".join(remarks))


def tasks_of(subject: Subject) -> dict[Release, Task]:
    """One task of each kind that the plan pays for, as the server would send it next."""
    job, state = subject.job, subject.state
    header, training = Header(job.run, 1, 1, job.plan, job.catalogue, job.encoder), subject.config.training
    at_zero = replace(header, round=0)
    terms = TrainingTerms(training.loss, training.learning_rate, training.context, training.targets, training.negatives)
    shadows = neighbours(subject.config.policy.controller, state.policy, state.controller, job.targets)
    model = given_out(job.encoder, state)
    tasks: dict[Release, Task] = {
        "statistics": StatisticsTask(at_zero),
        "update": TrainTask(header, state.policy, terms, job.rules, state.parameters, state.prior),
        "measurement": MeasureTask(header, state.policy, shadows, state.activity, job.rules, model, state.prior),
        "trending": TrendingTask(header, subject.config.trending.window_days, job.items),
    }
    if job.width:
        tasks["profile"] = ProfileTask(at_zero, job.width, known_of(state).typical, state.prior)
    return {kind: task for kind, task in tasks.items() if job.plan.mechanism(kind).participations}


def some_clients(subject: Subject, count: int) -> dict[str, ClientStore]:
    """The clients with the longest histories, and as many others, spread over all lengths."""
    stores = stores_of(subject.world, subject.config.users_per_client)
    by_length = sorted(stores, key=lambda client: -sum(map(len, stores[client].histories)))
    half = by_length[: max(1, count // 2)]
    rest = by_length[len(half) :]
    at = np.unique(np.linspace(0, len(rest) - 1, count - len(half)).astype(int)) if rest else ()
    chosen = {*half, *(rest[place] for place in at)}
    return {client: stores[client] for client in stores if client in chosen}


def rehearsal(
    subject: Subject, stores: Sequence[ClientStore], ledger: Path, randomness: Randomness, plan: PrivacyPlan
) -> Host:
    """The clients' side of the run, on a ledger of its own: real code, real behaviour, nothing spent.

    Args:
        subject: the run.
        stores: of the clients that take part, in this order.
        ledger: a file that does not exist.
        randomness: theirs.
        plan: what they consent to.
    """
    clients = {store.client: store for store in stores}
    signer = signing_key(_KEYS_OF, "clients")
    if signer is None:
        raise RuntimeError("a seed makes a key")
    return Host(
        clients,
        subject.world.catalogue,
        ledger,
        signer,
        randomness,
        consents=dict.fromkeys(clients, consent_to(plan)),
        clock=calendar(subject.config, subject.world, _KEYS_OF),
        identity=identities(_KEYS_OF),
        masked=False,
    )


def _plan_of(folder: Path) -> tuple[PrivacyPlan, str]:
    """The plan and the name of a run, from its ledger's first line.

    Raises:
        RunError: no run there, or its first line holds no plan.
    """
    if not (folder / CONFIG).is_file():
        raise RunError(f"{folder}: no run here ({CONFIG} is missing); start one with fedrecall-sim run --out {folder}")
    path = folder / SERVER_LEDGER
    try:
        event = next(read_ledger(path)).event
        return plan_from_dict(event["plan"]), str(event["run"])
    except (LedgerError, PlanError) as error:
        raise RunError(f"{path}: no plan to attack: {error}") from error
    except (StopIteration, LookupError, TypeError) as error:
        raise RunError(f"{path}: no plan to attack: it does not begin with a run's plan") from error
