"""Makes ready on disk what serving maps into memory; in a process of its own, as it needs catalogue and model whole.

``python -m client.shelving HOME`` brings a device's shelf up to its last publication and ends. A shelf is a folder
named by what it was made from; ``current.json`` names the one to serve, and is replaced whole. So a server of lists
goes on with the old one until the new one is there, and a process killed half way leaves nothing but a draft.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from client.child import start_child
from client.home import Home, home_at
from client.mapped import ABOUT, FORMAT, MappedShelf, open_folder
from client.newcomers import grown
from client.recommending import shelf_of
from client.shelf_files import Origin, Ready, write_shelf
from shared.catalogue import Catalogue, load_catalogue
from shared.errors import DataError
from shared.files import write_atomically
from shared.policy.recall_policy import policy_to_dict
from shared.recall.item_rules import NO_RULES, rules_to_dict

if TYPE_CHECKING:  # it imports flwr, which serving does without
    from shared.publication import Publication, PublishedModel

CURRENT: Final = "current.json"
_TRIES: Final = 5  # to open the current shelf while another one takes its place


@dataclass(frozen=True)
class Current:
    """Which shelf is served, and what goes with it but needs no other shelf.

    Attributes:
        shelf: its name; "" = there is no catalogue yet.
        number: of the publication.
        unavailable: raw ids that cannot be had at the moment.
    """

    shelf: str
    number: int
    unavailable: tuple[str, ...]


NOTHING: Final = Current("", 0, ())


def read_current(home: Home) -> Current:
    """Which shelf is served; ``NOTHING`` before the first.

    Raises:
        DataError: the file is damaged.
    """
    path = home.shelf / CURRENT
    try:
        raw = json.loads(path.read_bytes())
        return Current(str(raw["shelf"]), int(raw["number"]), tuple(map(str, raw["unavailable"])))
    except FileNotFoundError:
        return NOTHING
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}); remove {home.shelf}, it is built again") from error


def open_shelf(home: Home) -> MappedShelf | None:
    """The shelf that is served; None before there is one.

    Raises:
        DataError: it is broken.
    """
    for left in reversed(range(_TRIES)):
        current = read_current(home)
        if not current.shelf:
            return None
        try:
            return open_folder(home.shelf / current.shelf)
        except DataError:  # another one took its place since, and it was removed
            if not left or read_current(home).shelf == current.shelf:
                raise
    return None


def build_in_child(home: Home) -> None:
    """Bring the shelf up to the last publication, in a process of its own; its memory goes with it.

    Raises:
        DataError: it failed; the shelf that was there is served on.
    """
    child = start_child("client.shelving", home, complain=subprocess.PIPE)
    _, complaint = child.communicate()
    if child.returncode:
        said = complaint.decode(errors="replace").strip().splitlines()
        raise DataError(f"{home.shelf}: not built: {said[-1] if said else f'ended with {child.returncode}'}")


def build(home: Home) -> None:
    """Bring the shelf up to the last publication; quick where it already is. One process at a time.

    Raises:
        DataError: a catalogue is missing or broken, or does not fit the model.
        OSError: the disk refuses; the shelf that was there is served on.
    """
    from client.published import current  # noqa: PLC0415 - flwr, which only this process needs

    home.shelf.mkdir(parents=True, exist_ok=True)
    with (home.shelf / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = current(home)
        if said is None:
            return
        name = _name(said)
        if not (home.shelf / name / ABOUT).is_file():
            _write(home.shelf / name, home.catalogues, said)
        now = Current(name, said.number, said.unavailable)
        write_atomically(home.shelf / CURRENT, json.dumps(asdict(now)).encode())
        for other in home.shelf.iterdir():
            if other.is_dir() and other.name != name:
                shutil.rmtree(other, ignore_errors=True)


def ready_to_serve(model: PublishedModel, known: tuple[str, ...], catalogue: Catalogue) -> Ready:
    """A model made ready for a catalogue: the one that it was trained with, or a later one.

    Args:
        model: as published.
        known: raw ids of the catalogue that it was trained with, in its order.
        catalogue: what can be recommended.

    Raises:
        DataError: it does not fit.
    """
    if known == catalogue.ids:
        shelf = shelf_of(model.spec, model.parameters, model.prior, catalogue, rules=model.rules)
        return Ready(shelf, model.policy)
    more = grown(model.spec, model.parameters, model.prior, known, catalogue)
    shelf = shelf_of(more.spec, more.parameters, more.prior, catalogue, rules=model.rules, bucket=more.bucket)
    prices = model.policy.exposure_prices
    if prices:  # a new item pays nothing: nobody was shown it yet
        prices = (*prices, *(0,) * (len(more.prior) - len(prices)))
    return Ready(shelf, replace(model.policy, exposure_prices=prices))


def _write(folder: Path, catalogues: Path, said: Publication) -> None:
    catalogue = load_catalogue(catalogues / f"{said.catalogue}.npz")
    model = said.model
    if model is None:
        write_shelf(folder, Origin(folder.name, said.catalogue, "", 0, NO_RULES), catalogue, None)
        return
    same = model.trained == said.catalogue
    known = catalogue.ids if same else load_catalogue(catalogues / f"{model.trained}.npz").ids
    origin = Origin(folder.name, said.catalogue, said.run, said.round, model.rules)
    write_shelf(folder, origin, catalogue, ready_to_serve(model, known, catalogue))


def _name(said: Publication) -> str:
    """Of all that a shelf's content follows from."""
    digest = hashlib.sha256(f"{FORMAT}\n{said.catalogue}\n".encode())
    if said.model is not None:
        model = said.model
        public = {
            "run": said.run,
            "round": said.round,
            "spec": asdict(model.spec),
            "trained": model.trained,
            "policy": policy_to_dict(model.policy),
            "rules": rules_to_dict(model.rules),
        }
        digest.update(json.dumps(public, sort_keys=True).encode())
        digest.update(model.parameters.tobytes())
        digest.update(model.prior.tobytes())
    return digest.hexdigest()[:32]


if __name__ == "__main__":
    build(home_at(Path(sys.argv[1])))
