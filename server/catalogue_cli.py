"""``fedrecall-server catalogue``: what there is to recommend. Works on the server's folder, while it runs or not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shared.terminal import PlainCommand

if TYPE_CHECKING:
    from server.house import House
    from server.stock_orders import Outcome

catalogue_app: Final = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the server.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Items by their ids.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, nothing else.")]


@catalogue_app.callback()
def catalogue() -> None:
    """Say what there is to recommend: devices get what changed with the next publication."""


@catalogue_app.command("import", cls=PlainCommand)
def import_command(
    folder: Folder,
    items: Annotated[
        Path,
        typer.Argument(
            metavar="CSV", help="Columns id, title and, if you like, text, description, categories (a|b), available."
        ),
    ],
    whole: Annotated[
        bool, typer.Option("--whole", help="The file is all there is: remove what it does not name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add the items of a file, and change those that differ; the first file makes the catalogue."""
    from server.stock_orders import import_items  # noqa: PLC0415 - heavy imports wait until the arguments are right

    house = _house(folder)
    _tell(import_items(house, items, now=_now(), whole=whole, progress=_tenths(as_json)), as_json=as_json)


@catalogue_app.command("add", cls=PlainCommand)
def add_command(
    folder: Folder,
    name: Annotated[str, typer.Argument(metavar="ID", help="The item's id.")],
    title: Annotated[str, typer.Option("--title", metavar="TEXT", help="What a person reads.")],
    description: Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is like.")] = "",
    category: Annotated[
        list[str] | None, typer.Option("--category", metavar="NAME", help="A category; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add one item; it is recommended by its text at once, before anybody has used it."""
    from server.items import described  # noqa: PLC0415 - heavy imports wait until the arguments are right
    from server.stock_orders import add  # noqa: PLC0415 - as above

    item = described(name, title, description, category or [])
    _tell(add(_house(folder), [item], now=_now()), as_json=as_json)


@catalogue_app.command("remove", cls=PlainCommand)
def remove_command(folder: Folder, ids: Ids, as_json: AsJson = False) -> None:
    """Remove items for good; for a while, say that they are unavailable."""
    from server.stock_orders import remove  # noqa: PLC0415 - heavy imports wait until the arguments are right

    _tell(remove(_house(folder), ids, now=_now()), as_json=as_json)


@catalogue_app.command("unavailable", cls=PlainCommand)
def unavailable_command(folder: Folder, ids: Ids, as_json: AsJson = False) -> None:
    """Say that items cannot be had at the moment: devices leave them out unless a person asks for them."""
    _available(folder, ids, available=False, as_json=as_json)


@catalogue_app.command("available", cls=PlainCommand)
def available_command(folder: Folder, ids: Ids, as_json: AsJson = False) -> None:
    """Say that items can be had again."""
    _available(folder, ids, available=True, as_json=as_json)


@catalogue_app.command("rebuild", cls=PlainCommand)
def rebuild_command(folder: Folder, as_json: AsJson = False) -> None:
    """Fit vectors anew to all items, for the next run; the present model stays with the items that it can read."""
    from server.stock_orders import rebuild  # noqa: PLC0415 - heavy imports wait until the arguments are right

    _tell(rebuild(_house(folder), now=_now(), progress=_tenths(as_json)), as_json=as_json)


@catalogue_app.command("show", cls=PlainCommand)
def show_command(folder: Folder, as_json: AsJson = False) -> None:
    """Show every edition of the catalogue, and what cannot be had."""
    from server.stock import stock_of  # noqa: PLC0415 - heavy imports wait until the arguments are right

    stock = stock_of(_house(folder))
    if as_json:
        typer.echo(json.dumps(asdict(stock)))
        return
    typer.echo("edition  when                       items   added  removed  basis  version")
    for one in stock.editions:
        typer.echo(
            f"{one.number:7}  {one.when:25} {one.items:7,} {one.added:7,} {one.removed:8,} {one.basis:6}  "
            f"{one.version[:12]}"
        )
    typer.echo(f"{len(stock.unavailable):,} items cannot be had at the moment.")


def _available(folder: Path, ids: list[str], *, available: bool, as_json: bool) -> None:
    from server.stock_orders import set_available  # noqa: PLC0415 - heavy imports wait until the arguments are right

    _tell(set_available(_house(folder), ids, available=available), as_json=as_json)


def _tell(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(outcome)))
        return
    edition = outcome.edition
    typer.echo(
        f"{outcome.added:,} items added, {outcome.changed:,} changed, {outcome.removed:,} removed; "
        f"{outcome.unavailable:,} cannot be had.\n"
        f"Edition {edition.number}: {edition.items:,} items, version {edition.version[:12]}."
    )
    if outcome.unknown_words or outcome.unknown_categories:
        named = ", ".join(outcome.unknown_categories) or "none"
        typer.echo(
            f"Of the words of what came, {outcome.unknown_words:.0%} are new to the catalogue: they count between new "
            f"items only (new categories, which count for nothing: {named}).\n"
            "If this grows: fedrecall-server catalogue rebuild DIR, before the next run."
        )


def _house(folder: Path) -> House:
    from server.house import house_at  # noqa: PLC0415 - heavy

    return house_at(folder)


def _now() -> datetime:
    return datetime.now(UTC)


def _tenths(quiet: bool) -> Callable[[int, int], None] | None:
    """Says on stderr how far the text encoder is, where somebody is watching."""
    if quiet or not sys.stderr.isatty():
        return None

    def progress(done: int, total: int) -> None:
        typer.echo(f"\rtext encoder: {done:,} of {total:,} items", nl=done == total, err=True)

    return progress
