"""What a device takes from its server for serving: catalogue, model, policy, what is trending.

One file, ``published/current.npz``, says what is in force; it is replaced last and whole, so that a crash anywhere
leaves the issue before it. Numbers only rise: a publication that was taken once, or came before, is not taken again.

Formal guarantees: nothing leaves; the server hears one of two constants (``shared/publication.py``).
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from client.folder import REGISTRATION
from client.home import Home
from client.trends import Trending, write_trending
from shared.catalogue import Catalogue, as_bytes, catalogue_of, load_catalogue, save_catalogue
from shared.catalogue_change import apply_change, change_of
from shared.encoder.spec import Floats
from shared.errors import DataError, ProtocolError
from shared.files import read_arrays, sync_folder, write_arrays, write_atomically
from shared.policy.recall_policy import policy_from_dict, policy_to_dict
from shared.protocol import MALFORMED, parse_spec
from shared.publication import Publication, PublishedModel, parse_publication
from shared.recall.item_rules import rules_from_dict, rules_to_dict

KEPT: Final = 3  # catalogues beside the one that is served and the one that the model was trained with
COPIES: Final = 3  # bytes on this disk for each of a catalogue: itself, and two shelves, the new and the old
RESERVE: Final = 1 << 25  # bytes that no publication takes
_CURRENT: Final = "current.npz"


def take(home: Home, record: RecordDict, server: str) -> Publication:
    """Take a publication over: check it, store what it brings, put it in force.

    Args:
        home: the device.
        record: from the wire.
        server: the key of this device's server, hex.

    Returns:
        What is in force now; an issue that is in force already changes nothing.

    Raises:
        ProtocolError: malformed, not of this server, or older than what is in force.
        DataError: a catalogue that is not what it says, or that a change needs and that is not here.
        OSError: the disk refuses; what was in force stays.
    """
    issue = parse_publication(record, server)
    before = current(home)
    last = 0 if before is None else before.number
    if before is not None and issue.number == last:
        return before
    if issue.number < last:
        raise ProtocolError(f"publication {issue.number}: {last} was taken already")
    _tidy(home)
    if issue.model is not None and issue.model.trained not in present(home) | {issue.catalogue}:
        raise DataError(f"publication {issue.number}: the catalogue that its model was trained with is not here")
    _check_room(home, issue)
    catalogue = _catalogue(home, issue)
    if catalogue is not None:
        save_catalogue(catalogue, catalogue_path(home, issue.catalogue))
    write_trending(home, Trending(issue.number, issue.run, issue.round, issue.trending))
    if issue.registration:
        write_atomically(home.folder / REGISTRATION, issue.registration.hex().encode())
    issue = replace(issue, change=b"")
    _put_in_force(home, issue)
    _prune(home, issue)
    return issue


def current(home: Home) -> Publication | None:
    """What is in force, ``change`` left out; None = nothing was taken yet.

    Raises:
        DataError: the file is broken.
    """
    path = current_path(home)
    if not path.exists():
        return None
    arrays = read_arrays(path)
    try:
        said = json.loads(bytes(arrays["said"]))
        model = said.pop("model")
        said |= {name: tuple(said[name]) for name in ("unavailable", "trending")}
        said["registration"] = bytes.fromhex(said["registration"])
        return Publication(**said, change=b"", model=None if model is None else _model(model, arrays))
    except MALFORMED as error:
        raise DataError(f"{path}: not a publication ({error}); delete it, and the next one is taken") from error


def current_path(home: Home) -> Path:
    """The file whose replacement puts a publication in force."""
    return home.published / _CURRENT


def catalogue_path(home: Home, version: str) -> Path:
    """Where a catalogue lies. The version must be one that was checked, never a text from a task."""
    return home.catalogues / f"{version}.npz"


def present(home: Home) -> set[str]:
    """Versions of the catalogues on this device."""
    return {path.stem for path in home.catalogues.glob("*.npz")} if home.catalogues.exists() else set()


def _tidy(home: Home) -> None:
    """Delete drafts of a worker that was killed while it wrote one; one worker a device writes catalogues."""
    for draft in home.catalogues.glob(".*.new"):
        draft.unlink(missing_ok=True)


def _check_room(home: Home, issue: Publication) -> None:
    """That the disk has room for catalogue and model, for what serving makes of them, and for the person's events.

    Raises:
        OSError: it has not.
    """
    base = catalogue_path(home, issue.base) if issue.base and issue.change else None
    size = len(issue.change) + (base.stat().st_size if base is not None and base.exists() else 0)
    size += 0 if issue.model is None else issue.model.parameters.nbytes
    needed, free = COPIES * size + RESERVE, shutil.disk_usage(home.folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"publication {issue.number}: {free} bytes are free, {needed} are wanted")


def _catalogue(home: Home, issue: Publication) -> Catalogue | None:
    """The catalogue that the publication brings; None = it is here already."""
    if issue.catalogue in present(home):
        return None
    if not issue.change:
        raise DataError(f"publication {issue.number}: brings no catalogue, and {issue.catalogue[:12]}… is not here")
    place = f"publication {issue.number}"
    if not issue.base:
        catalogue = catalogue_of(issue.change, place)
    else:
        if issue.base not in present(home):
            raise DataError(f"{place}: a change of catalogue {issue.base[:12]}…, which is not here")
        change = change_of(issue.change, place)
        catalogue = apply_change(load_catalogue(catalogue_path(home, issue.base)), change)
    if catalogue.version() != issue.catalogue:
        raise DataError(f"{place}: another catalogue than the one that it names")
    return catalogue


def _put_in_force(home: Home, issue: Publication) -> None:
    """Write ``current.npz``; the moment from which the publication counts."""
    said: dict[str, Any] = {
        "number": issue.number,
        "run": issue.run,
        "round": issue.round,
        "base": issue.base,
        "catalogue": issue.catalogue,
        "unavailable": issue.unavailable,
        "trending": issue.trending,
        "registration": issue.registration.hex(),
        "model": None,
    }
    arrays: dict[str, NDArray[Any]] = {}
    if issue.model is not None:
        arrays = {"parameters": issue.model.parameters, "prior": issue.model.prior}
        said["model"] = {
            "spec": asdict(issue.model.spec),
            "trained": issue.model.trained,
            "policy": policy_to_dict(issue.model.policy),
            "rules": rules_to_dict(issue.model.rules),
        }
    write_arrays(current_path(home), arrays | {"said": as_bytes(json.dumps(said).encode())})


def _model(said: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> PublishedModel:
    return PublishedModel(
        parse_spec(said["spec"]),
        _floats(arrays["parameters"]),
        _floats(arrays["prior"]),
        str(said["trained"]),
        policy_from_dict(said["policy"]),
        rules_from_dict(said["rules"]),
    )


def _floats(array: NDArray[Any]) -> Floats:
    return np.asarray(array, np.float32)


def _prune(home: Home, issue: Publication) -> None:
    """Delete catalogues that neither serving nor a run that may still go on needs."""
    needed: Collection[str] = {issue.catalogue, issue.model.trained if issue.model else issue.catalogue}
    rest = [path for path in home.catalogues.glob("*.npz") if path.stem not in needed]
    for path in sorted(rest, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        sync_folder(home.catalogues)
