"""One simulated run, from a configuration to a folder; and going on with one that was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from client.consent import consent_to
from client.host import Host
from server.checkpoint import State, load_state
from server.coordinator import run_rounds
from server.desk import Desk
from server.evaluation import Measurement
from server.job import Job, check_promise, initial_state, make_job
from server.posterior import given_out
from server.resuming import CHECKPOINT, SERVER_LEDGER, alone, begun_with, caught_up, drop_rows, tidy, whole
from server.rows import Row
from shared.config import read_toml, validate
from shared.errors import RunError
from shared.files import write_atomically
from shared.keys import own_key
from shared.privacy.ledger import Ledger, create_ledger, open_ledger
from shared.privacy.plan import plan_to_dict
from simulations.aggregation import promise
from simulations.config import SimulationConfig
from simulations.download import Say, sha256_of
from simulations.engine import InProcessGrid
from simulations.finish import finish
from simulations.mending import CLIENT_LEDGER, CONFIG, clear, founded
from simulations.numbered import Numbered
from simulations.seeding import Seed, client_randomness, generator, identities, noise, signing_key
from simulations.trending import calendar
from simulations.world import World, load_world, oracle, stores_of


@dataclass(frozen=True)
class Screen:
    """How a run speaks to whoever waits.

    Attributes:
        say: a sentence now and then.
        tell: every finished row, with the number of rounds.
    """

    say: Say
    tell: Callable[[Row, int], None]


def new_run(config: SimulationConfig, folder: Path, *, cache: Path, source: Path | None, screen: Screen) -> Row:
    """Run a configuration into a new folder.

    Args:
        config: resolved.
        folder: must not exist, or be empty.
        cache: of downloads and text vectors.
        source: folder to take a preset's files from.
        screen: progress.

    Returns:
        The summary, as ``summary.json`` holds it.

    Raises:
        FedrecallError: with one sentence; nothing half-written is left that a resume could not use.
        KeyboardInterrupt: passed on after the state was saved; ``resume_run`` goes on.
    """
    check_promise(config)
    began = time.monotonic()
    return run_world(config, folder, load_world(config, cache, source, screen.say), screen, began)


def run_world(config: SimulationConfig, folder: Path, world: World, screen: Screen, began: float) -> Row:
    """As :func:`new_run`, on data that is loaded already.

    Args:
        config, folder, screen: see there.
        world: the data.
        began: ``time.monotonic()`` before it was loaded.
    """
    job = job_of(config, world, folder.name)
    create_folder(folder, config)
    screen.say("\n".join(promise(config, job.plan)))
    with _alone(folder):
        return _execute(config, folder, world, job, None, screen, began)


def resume_run(folder: Path, *, cache: Path, source: Path | None, screen: Screen) -> Row:
    """Go on with a run that was interrupted, from its last checkpoint.

    Raises:
        RunError: no run there, or a finished one, or one of other data.
    """
    if not (folder / CONFIG).is_file():
        raise RunError(f"{folder}: no run here ({CONFIG} is missing); start one with fedrecall-sim run --out {folder}")
    began = time.monotonic()
    with _alone(folder):
        return _resume(folder, cache, source, screen, began)


def _resume(folder: Path, cache: Path, source: Path | None, screen: Screen, began: float) -> Row:
    if (folder / "report.html").exists():
        raise RunError(f"{folder}: the run has ended already; see {folder / 'report.html'}")
    tidy(folder)
    config = validate(SimulationConfig, read_toml(folder / CONFIG), str(folder / CONFIG))
    if config.engine == "ray":
        raise RunError(
            f"{folder}: a run of engine 'ray' is not resumed: its clients' ledgers are their own; start anew"
        )
    world = load_world(config, cache, source, screen.say)
    state = load_state(folder / CHECKPOINT) if (folder / CHECKPOINT).exists() else None
    # The run keeps the name that its ledgers know, also in a folder that was renamed.
    run = founded(folder)
    job = job_of(config, world, folder.name if run is None else run)
    if run is not None and not begun_with(folder, job.catalogue, plan_to_dict(job.plan)):
        raise RunError(
            f"{folder}: data, text model or code are not those that this run began with (or it is a run of "
            "fedrecall-sim cold, which is not resumed); put them back, or start a new run"
        )
    whole(folder, state)
    return _execute(config, folder, world, job, state, screen, began)


def _alone(folder: Path) -> AbstractContextManager[None]:
    """Nobody else works on this folder meanwhile."""
    return alone(folder / ".lock", f"{folder}: another process works on this run")


def job_of(config: SimulationConfig, world: World, run: str) -> Job:
    """The job of a simulation: clients are numbered from 1, and so are their nodes."""
    return make_job(
        run,
        config,
        world.catalogue,
        Numbered(len(stores_of(world, config.users_per_client)), int),
        users_per_client=config.users_per_client,
        users=len(world.users),
        kind="simulation",
    )


def create_folder(folder: Path, config: SimulationConfig) -> None:
    """A new, empty folder with the resolved configuration in it.

    Raises:
        RunError: it is not empty, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise RunError(f"{folder}: not empty; choose another --out, or go on with: fedrecall-sim resume {folder}")
        write_atomically(folder / CONFIG, tomli_w.dumps(config.model_dump(mode="json")).encode())
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror})") from error


def _execute(
    config: SimulationConfig,
    folder: Path,
    world: World,
    job: Job,
    state: State | None,
    screen: Screen,
    began: float,
) -> Row:
    loaded = time.monotonic() - began
    seed: Seed = None if config.seed == "none" else config.seed
    with ExitStack() as stack:
        try:
            host, ledger = open_both(config, folder, world, job, state, seed, stack)
            attempts: dict[Any, int] = {}
            if state is None:
                state = initial_state(job, generator(seed, "model"))
            if seed is None:
                state, attempts = caught_up(state, ledger.path)
            drop_rows(folder / "rounds.jsonl", state.round)
            desk = desk_of(config, folder, world, job, seed, host, ledger, attempts, screen)
            ending = run_rounds(job, desk, state)
            return finish(config, folder, world, job, ending, loading_seconds=loaded)
        except OSError as error:
            where = error.filename or folder
            raise RunError(
                f"{where}: cannot be written ({error.strerror}); make room, then: fedrecall-sim resume {folder}"
            ) from error


def open_both(
    config: SimulationConfig,
    folder: Path,
    world: World,
    job: Job,
    state: State | None,
    seed: Seed,
    stack: ExitStack,
) -> tuple[Host, Ledger]:
    """The two ledgers, at the checkpoint when the simulation is seeded, else as they are."""
    server, clients, keys = folder / SERVER_LEDGER, folder / CLIENT_LEDGER, folder / "keys"
    if state is None:
        clear(folder, everything=seed is not None)
    at = {} if state is None or seed is None else state.ledgers
    keys.mkdir(exist_ok=True)
    server_key = own_key(keys / "server.pem", signing_key(seed, "server"))
    if server.exists():
        ledger = open_ledger(server, server_key, replay_from=at.get(SERVER_LEDGER))
    else:
        genesis = {"kind": "simulation", "run": job.run, "plan": plan_to_dict(job.plan), "catalogue": job.catalogue}
        genesis["config"] = sha256_of(folder / CONFIG)
        ledger = create_ledger(server, server_key, genesis)
    stack.callback(ledger.close)
    finished = 0 if state is None else state.ledgers.get(SERVER_LEDGER, 0)
    if ledger.count < finished:
        raise RunError(f"{server}: holds {ledger.count} lines, the checkpoint was made at {finished}: lines were lost")
    stores, consent = stores_of(world, job.users_per_client), consent_to(job.plan)
    host = Host(
        stores,
        world.catalogue,
        clients,
        own_key(keys / "clients.pem", signing_key(seed, "clients")),
        client_randomness(seed),
        consents=Numbered(len(stores), lambda _number: consent),
        clock=calendar(config, world, seed),
        identity=identities(seed),
        masked=config.secure_aggregation == "real",
        device=config.device,
        replay_from=at.get(CLIENT_LEDGER),
    )
    stack.callback(host.close)
    return host, ledger


def desk_of(
    config: SimulationConfig,
    folder: Path,
    world: World,
    job: Job,
    seed: Seed,
    host: Host,
    ledger: Ledger,
    attempts: dict[Any, int],
    screen: Screen,
) -> Desk:
    """The coordinator's hands; the oracle is the simulation's own."""

    def truth(state: State, measured: Measurement | None) -> Row | None:
        if measured is None:
            return None
        rngs = [generator(seed, "oracle", state.round, user) for user in world.asked_names]
        at_least = measured.at_least
        return dict(
            oracle(
                world,
                job.encoder,
                given_out(job.encoder, state),
                state.prior,
                state.policy,
                job.rules,
                rngs,
                on="valid",
                at_least=at_least,
                activity=state.activity,
            )
        )

    def counts() -> dict[str, int]:
        return {SERVER_LEDGER: ledger.count, CLIENT_LEDGER: host.ledger.count}

    return Desk(
        grid=InProcessGrid(host, len(host.stores)),
        ledger=ledger,
        folder=folder,
        noise=lambda round_, release: noise(seed, "server", round_, release),
        rng=lambda round_, purpose: generator(seed, purpose, round_),
        oracle=truth,
        masked=host.masked,
        registered=_registered(host),
        ledgers=counts,
        attempts=attempts,
        tell=lambda row: screen.tell(row, config.rounds),
    )


def _registered(host: Host) -> set[bytes] | None:
    """Everybody's key; nobody asks for it where sums are not masked, and a million keys take minutes to make."""
    if not host.masked:
        return None
    return {host.identity(client).public_key().public_bytes_raw() for client in host.stores}
