"""What a killed run left behind, made fit to go on; nothing that was paid for is ever taken back."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from server.checkpoint import State, charge
from server.oversight import after_event
from server.receipts import ungrouped
from shared.errors import RunError
from shared.files import write_atomically
from shared.privacy.ledger import read_ledger

CHECKPOINT: Final = "checkpoint.safetensors"
SERVER_LEDGER: Final = "ledger.jsonl"


@contextmanager
def alone(lock: Path, otherwise: str) -> Iterator[None]:
    """Nobody else holds this lock meanwhile; it goes with the process, however that ends.

    Args:
        lock: a file, made if need be.
        otherwise: the sentence for who comes second.

    Raises:
        RunError: another process holds it, or it cannot be written.
    """
    try:
        file = lock.open("w")
    except OSError as error:
        raise RunError(f"{lock.parent}: cannot be written ({error.strerror})") from error
    with file as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(otherwise) from error
        yield


def held(lock: Path) -> bool:
    """Whether some process holds a lock of :func:`alone` just now."""
    try:
        with alone(lock, ""):
            return False
    except RunError:
        return True


def begun(ledger: Path) -> bool:
    """Whether a whole line stands there; before it does, nothing is drawn or sent."""
    if not ledger.exists():
        return False
    with ledger.open("rb") as file:
        return any(b"\n" in part for part in iter(lambda: file.read(1 << 16), b""))


def begun_with(folder: Path, catalogue: str, plan: Mapping[str, Any]) -> bool:
    """Whether the run's ledger begins with this catalogue and this plan: its first line is written, and holds them."""
    first = next(read_ledger(folder / SERVER_LEDGER)).event
    return bool(first["catalogue"] == catalogue and first["plan"] == json.loads(json.dumps(plan)))


def tidy(folder: Path) -> None:
    """Take away drafts of files that were never finished. Only for who works alone on the folder."""
    for draft in folder.glob(".*"):
        if draft.suffix in {".new", ".tmp"}:
            draft.unlink()


def whole(folder: Path, state: State | None) -> None:
    """Check that every ledger that a checkpoint counts lines of is there.

    Raises:
        RunError: one is not.
    """
    for name, lines in ({} if state is None else state.ledgers).items():
        if lines and not (folder / name).exists():
            raise RunError(
                f"{folder / name}: missing, but the checkpoint counts {lines} lines: what was spent is not known"
            )


def caught_up(state: State, path: Path) -> tuple[State, dict[Any, int]]:
    """What the server's ledger knows beyond the checkpoint, without a seed, when nothing can be repeated.

    What was asked for is paid, and is paid again; receipts are kept, so that a client's next one must be newer; an end
    stands, and so does a person's order.

    Returns:
        The state, and (round, release) -> tries so far.
    """
    attempts: dict[Any, int] = {}
    done = state.ledgers.get(SERVER_LEDGER, 0)
    for line in read_ledger(path):
        event = line.event
        if line.number > done and event["type"] == "intent":
            key = (event["round"], event["release"])
            attempts[key] = attempts.get(key, 0) + 1
            state = replace(charge(state, event["cohort"], event["release"]), aborted=state.aborted + 1)
        if line.number > done and event["type"] == "result":
            state = replace(state, receipts={**state.receipts, **ungrouped(event["receipts"])})
        if line.number > done and event["type"] == "end":
            state = replace(state, stopped=event["stopped"])
        if line.number > done and event["type"] == "order":
            state = after_event(state, event)
    return state, attempts


def drop_rows(path: Path, last: int) -> None:
    """Take away the rows of rounds after the checkpoint, which are written again.

    Raises:
        RunError: a line that is no row; names it.
    """
    if not path.exists():
        return
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = []
    for number, row in enumerate(rows, 1):
        try:
            if row.endswith("\n") and json.loads(row)["round"] <= last:
                kept.append(row)
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path}:{number}: not a row of a round; put the line back, or start a new run") from error
    write_atomically(path, "".join(kept).encode())
