"""What a peer is given: a model's parameters, its users' data and the terms, in one file. Numpy alone.

The peers' scripts run in environments of their own, which know nothing of fedrecall; so they share this file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_PARAMETER: Final = "parameter."
_DATA: Final = "data."
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Terms:
    """How a peer trains.

    Attributes:
        kind: of the model; a key of ``peers/models.py: build``.
        epochs: passes over a user's rows.
        batch: rows of one step; 0 = all of them.
        rate: of plain SGD.
        clip: largest L2 norm of a user's change.
        cohort: users of a round; the first round has the first so many users, and so on in a circle.
        repeats: measurements.
        seconds: processor time that one measurement takes at least.
    """

    kind: str
    epochs: int
    batch: int
    rate: float
    clip: float
    cohort: int
    repeats: int
    seconds: float


@dataclass(frozen=True)
class PeerTask:
    """Terms, the state of the model, and the users' data.

    Attributes:
        terms: see there.
        parameters: name of a torch parameter -> its value.
        data: arguments of the model's loss in order, each (users, rows, ...).
    """

    terms: Terms
    parameters: Arrays
    data: list[NDArray[Any]]


def write_task(path: Path, task: PeerTask) -> None:
    """One uncompressed npz file."""
    arrays = {_PARAMETER + name: value for name, value in task.parameters.items()}
    arrays |= {f"{_DATA}{number:03}": value for number, value in enumerate(task.data)}
    np.savez(path, terms=np.array(json.dumps(asdict(task.terms))), **arrays)  # type: ignore[arg-type]


def read_task(path: Path) -> PeerTask:
    """Inverse of :func:`write_task`."""
    with np.load(path) as file:
        terms = Terms(**json.loads(str(file["terms"])))
        parameters = {name.removeprefix(_PARAMETER): file[name] for name in file.files if name.startswith(_PARAMETER)}
        return PeerTask(terms, parameters, [file[name] for name in sorted(file.files) if name.startswith(_DATA)])
