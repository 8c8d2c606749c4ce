"""What a killed run left behind, made fit to go on; nothing that was paid for is ever taken back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from server.checkpoint import State, charge
from server.oversight import after_event
from server.receipts import ungrouped
from shared.errors import RunError
from shared.files import write_atomically
from shared.privacy.ledger import read_ledger
from simulations.download import sha256_of

CONFIG: Final = "config.toml"
CHECKPOINT: Final = "checkpoint.safetensors"
SERVER_LEDGER: Final = "ledger.jsonl"
CLIENT_LEDGER: Final = "clients.jsonl"
_KEYS: Final = {SERVER_LEDGER: "server.pem", CLIENT_LEDGER: "clients.pem"}


def founded(folder: Path) -> str | None:
    """The run's name in its ledger; None when nothing was written yet.

    Raises:
        RunError: the configuration beside the ledger is not the one that the run began with.
    """
    path = folder / SERVER_LEDGER
    if not _begun(path):
        return None
    first = next(read_ledger(path))
    if first.event["config"] != sha256_of(folder / CONFIG):
        raise RunError(
            f"{folder / CONFIG}: changed since the run began, so its promise would no longer be the one in {path}; "
            "put the old file back, or start a new run with it"
        )
    return str(first.event["run"])


def begun_with(folder: Path, catalogue: str, plan: Mapping[str, Any]) -> bool:
    """Whether the run's ledger begins with this catalogue and this plan: its first line is written, and holds them."""
    first = next(read_ledger(folder / SERVER_LEDGER)).event
    return bool(first["catalogue"] == catalogue and first["plan"] == json.loads(json.dumps(plan)))


def tidy(folder: Path) -> None:
    """Take away drafts of files that were never finished. Only for who works alone on the folder."""
    for draft in folder.glob(".*"):
        if draft.suffix in {".new", ".tmp"}:
            draft.unlink()


def clear(folder: Path, *, everything: bool) -> None:
    """Before the first checkpoint: take away the ledgers that hold no whole line, and the keys that so signed nothing.

    Args:
        folder: of the run.
        everything: the simulation is seeded and repeats all of it, byte for byte: take away both ledgers as they are.
    """
    for ledger, key in _KEYS.items():
        if everything or not _begun(folder / ledger):
            (folder / ledger).unlink(missing_ok=True)
            (folder / "keys" / key).unlink(missing_ok=True)


def _begun(ledger: Path) -> bool:
    """Whether a whole line stands there; before it does, nothing is drawn or sent."""
    if not ledger.exists():
        return False
    with ledger.open("rb") as file:
        return any(b"\n" in part for part in iter(lambda: file.read(1 << 16), b""))


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
