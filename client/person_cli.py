"""The commands of ``fedrecall-client`` about a person: record, import, recommend, explain, budget, export, forget."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.device_cli import AsJson, HomeOption, PassphraseFile, as_json, device_home, opened, vault_key_of
from shared.errors import ConfigError, DataError
from shared.printable import printable
from shared.terminal import PlainCommand

if TYPE_CHECKING:
    from client.answers import Answer

Item = Annotated[str, typer.Argument(metavar="ITEM", help="The item's id.")]


def record_command(
    item: Item,
    kind: Annotated[str, typer.Option("--kind", help="view, purchase, rating, dwell or not_interested.")] = "view",
    rating: Annotated[float | None, typer.Option("--rating", min=0, max=1, help="0 to 1.")] = None,
    dwell: Annotated[float, typer.Option("--dwell", min=0, max=1, help="Time spent, 0 to 1 of the longest.")] = 0.0,
    home: HomeOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Record one thing that you did, now."""
    from client.behaviour import Behaviour  # noqa: PLC0415 - heavy imports wait until the arguments are right

    event = Behaviour(item, kind, time.time(), dwell, math.nan if rating is None else rating)
    device = opened(device_home(home), passphrase_file)
    try:
        device.record([event])
    finally:
        device.close()
    typer.echo(f"recorded: {kind} of {item}")


def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or JSONL: item, kind, time, dwell, rating.")],
    home: HomeOption = None,
    passphrase_file: PassphraseFile = None,
    as_json_: AsJson = False,
) -> None:
    """Import events: all of them or, if a line is wrong, none."""
    from client.importing import read_events  # noqa: PLC0415 - as above
    from client.vault import open_vault  # noqa: PLC0415 - as above

    device = device_home(home)
    events = read_events(file)
    with open_vault(device.vault, vault_key_of(device, passphrase_file)) as vault:
        stored, total = vault.record(events), vault.count()
    typer.echo(as_json({"stored": stored, "total": total}) if as_json_ else f"imported {stored} events; {total} stored")


def recommend_command(
    k: Annotated[int | None, typer.Option("--k", min=1, help="How many.")] = None,
    category: Annotated[list[str] | None, typer.Option("--category", help="Only of these; may be repeated.")] = None,
    similar_to: Annotated[str | None, typer.Option("--similar-to", metavar="ITEM", help="Items like this one.")] = None,
    include_seen: Annotated[bool, typer.Option("--include-seen", help="What you have seen, too.")] = False,
    home: HomeOption = None,
    passphrase_file: PassphraseFile = None,
    as_json_: AsJson = False,
) -> None:
    """Recommend, on this device, with what is on it."""
    from client.answers import Wish  # noqa: PLC0415 - as above

    wish = Wish(k, tuple(category or ()), exclude_seen=not include_seen, similar_to=similar_to)
    device = opened(device_home(home), passphrase_file)
    try:
        answer = device.recommend(wish)
    finally:
        device.close()
    typer.echo(as_json(answer) if as_json_ else "\n".join(map(printable, _listed(answer))))


def explain_command(
    item: Item, home: HomeOption = None, passphrase_file: PassphraseFile = None, as_json_: AsJson = False
) -> None:
    """Say why an item is, or would be, recommended to you."""
    device = opened(device_home(home), passphrase_file)
    try:
        explained = device.explain(item)
    finally:
        device.close()
    lines = (explained.title, *explained.sentences)
    typer.echo(as_json(explained) if as_json_ else "\n".join(map(printable, lines)))


def budget_command(home: HomeOption = None, as_json_: AsJson = False) -> None:
    """What leaving this device has cost in privacy, and what the figures promise."""
    from client.privacy_view import budget, told  # noqa: PLC0415 - as above

    spent = budget(device_home(home), datetime.now(UTC).date())
    typer.echo(as_json(spent) if as_json_ else "\n".join(map(printable, told(spent))))


def export_command(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Write the JSON document here.")],
    home: HomeOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Export everything about you on this device: events, ledger, consent, in clear."""
    from client.importing import export  # noqa: PLC0415 - as above
    from client.vault import open_vault  # noqa: PLC0415 - as above
    from shared.files import write_atomically  # noqa: PLC0415 - as above

    device = device_home(home)
    with open_vault(device.vault, vault_key_of(device, passphrase_file)) as vault:
        said = export(vault, device)
    write_atomically(out, (as_json(said) + "\n").encode(), mode=0o600)
    typer.echo(
        f"wrote {out}: {len(said['events'])} events and {len(said['ledger'])} lines of the ledger, not encrypted"
    )


def forget_command(
    items: Annotated[list[str] | None, typer.Argument(metavar="[ITEM...]", help="Items to forget.")] = None,
    before: Annotated[
        str | None, typer.Option("--before", metavar="DATE", help="What is older, as 2026-01-31.")
    ] = None,
    everything: Annotated[bool, typer.Option("--everything", help="All that you did.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: HomeOption = None,
    passphrase_file: PassphraseFile = None,
    as_json_: AsJson = False,
) -> None:
    """Forget, and prove it. The ledger of what left stays: it is what the budget is counted by."""
    from client.forgetting import forget  # noqa: PLC0415 - as above

    if sum((bool(items), before is not None, everything)) != 1:
        raise ConfigError("what is to be forgotten? name exactly one of ITEM..., --before DATE, --everything")
    device = device_home(home)
    if not yes and not typer.confirm("Forgotten events cannot be brought back. Go on?"):
        raise typer.Abort
    key = vault_key_of(device, passphrase_file)
    receipt = forget(device, key, items or None, None if before is None else _moment(before), now=time.time())
    done = receipt.forgotten
    if as_json_:
        typer.echo(as_json(receipt))
        return
    typer.echo(f"forgot {done.events} events; {done.left} stay")
    typer.echo(
        f"looked for {done.probes} pieces of what was there in {done.searched} bytes on disk: found {done.found}. "
        f"The signed receipt is in {device.forgotten}."
    )


def add_commands(app: typer.Typer) -> None:
    """Put them under ``fedrecall-client``."""
    for name, command in (
        ("record", record_command),
        ("import", import_command),
        ("recommend", recommend_command),
        ("explain", explain_command),
        ("budget", budget_command),
        ("export", export_command),
        ("forget", forget_command),
    ):
        app.command(name, cls=PlainCommand)(command)


def _listed(answer: Answer) -> Iterator[str]:
    for place, offer in enumerate(answer.offers, 1):
        yield f"{place:3d}. {offer.title} [{offer.id}]" + (f" ({offer.source})" if offer.source != "you" else "")
    yield answer.why


def _moment(text: str) -> float:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        raise DataError(f"--before {text!r}: expected a date as 2026-01-31") from error
