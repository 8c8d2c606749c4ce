"""Folders for ``flwr run``: what each client and the server would have on their own machines."""

from __future__ import annotations

from pathlib import Path

from client.consent import consent_to, write_consent
from client.folder import CONSENT, KEY, client_folder
from client.store import save_store
from server.folder import Service, write_service
from server.job import check_promise, make_job
from shared.catalogue import save_catalogue
from shared.config import Config
from shared.errors import ConfigError, RunError
from shared.keys import own_key
from shared.privacy.ledger import public_hex
from simulations.config import SimulationConfig
from simulations.download import Say
from simulations.world import World, load_world, stores_of


def prepare(
    config: SimulationConfig, home: Path, *, cache: Path, source: Path | None, clients: int | None, say: Say
) -> int:
    """Write stores with a consent that fits the plan, catalogue and service description.

    Args:
        config: resolved.
        home: becomes FEDRECALL_HOME.
        cache, source: as in a run.
        clients: only the first so many; None = all.
        say: gets sentences.

    Returns:
        Number of client stores.

    Raises:
        RunError: the folder is not empty or not writable.
        ConfigError: more clients asked for than there are.
    """
    check_promise(config)
    return write_home(config, load_world(config, cache, source, say), home, clients)


def write_home(config: SimulationConfig, world: World, home: Path, clients: int | None) -> int:
    """As :func:`prepare`, from a loaded world."""
    stores = list(stores_of(world, config.users_per_client).values())
    if clients is not None and clients > len(stores):
        raise ConfigError(f"--clients {clients}: the data makes {len(stores)} clients")
    stores = stores[:clients]
    users = sum(len(store.users) for store in stores)
    nodes = {store.client: number for number, store in enumerate(stores)}
    per_client = config.users_per_client
    # Whatever the server would refuse is refused here, before anything is written.
    job = make_job("check", config, world.catalogue, nodes, users_per_client=per_client, users=users, kind="simulation")
    try:
        home.mkdir(parents=True, exist_ok=True)
        if any(home.iterdir()):
            raise RunError(f"{home}: not empty; choose another --out")
        save_catalogue(world.catalogue, home / "catalogue.npz")
        keys: list[str] = []
        for partition, store in enumerate(stores):
            folder = client_folder(home, partition)
            folder.mkdir(parents=True)
            save_store(store, folder / "store.npz")
            write_consent(consent_to(job.plan), folder / CONSENT)
            keys.append(public_hex(own_key(folder / KEY)))
    except OSError as error:
        raise RunError(f"{home}: cannot be written ({error.strerror})") from error
    public = {name: getattr(config, name) for name in Config.model_fields}
    service = Service(Config(**public), "simulation", len(stores), per_client, users, tuple(keys))
    write_service(service, home / "server" / "service.json")
    return len(stores)
