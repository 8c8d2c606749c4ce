"""``fedrecall-sim policy``: a person's hand on the recall policy of a run, while it runs or before it goes on."""

from __future__ import annotations

import getpass
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shared.terminal import PlainCommand
from simulations.options import AsJson

if TYPE_CHECKING:
    from shared.policy.orders import OrderKind

policy_app: Final = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that has not ended.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Your reason; it goes into the ledger.")]
Which = Annotated[
    str | None, typer.Option("--proposal", metavar="ID", help="Which proposal you saw; left out, the one that waits.")
]


@policy_app.callback()
def policy() -> None:
    """See and order the recall policy of a run: an order takes effect before the next round."""


@policy_app.command("show", cls=PlainCommand)
def show_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")], as_json: AsJson = False
) -> None:
    """Show every version, the one in force, what waits, and whether all of it replays."""
    from server.oversight import standing  # noqa: PLC0415 - heavy imports wait until the arguments are right
    from simulations.policy_view import overview, told, unlike  # noqa: PLC0415 - as above

    stands = standing(run)
    view = overview(stands, unlike(run, stands))
    typer.echo(json.dumps(view) if as_json else "\n".join(told(view, str(run))))


@policy_app.command("approve", cls=PlainCommand)
def approve_command(run: Run, proposal: Which = None, why: Why = "", as_json: AsJson = False) -> None:
    """Put the controller's proposal in force."""
    _order(run, "approve", why, as_json=as_json, proposal=proposal)


@policy_app.command("reject", cls=PlainCommand)
def reject_command(run: Run, proposal: Which = None, why: Why = "", as_json: AsJson = False) -> None:
    """Drop the controller's proposal; the policy stays."""
    _order(run, "reject", why, as_json=as_json, proposal=proposal)


@policy_app.command("freeze", cls=PlainCommand)
def freeze_command(run: Run, why: Why = "", as_json: AsJson = False) -> None:
    """Keep every controller away from the policy until it is thawed."""
    _order(run, "freeze", why, as_json=as_json)


@policy_app.command("thaw", cls=PlainCommand)
def thaw_command(run: Run, why: Why = "", as_json: AsJson = False) -> None:
    """Let the controller move the policy again."""
    _order(run, "thaw", why, as_json=as_json)


@policy_app.command("rollback", cls=PlainCommand)
def rollback_command(
    run: Run,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="The version to go back to.", min=1)],
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Put an earlier version in force, as a new one."""
    _order(run, "rollback", why, as_json=as_json, version=version)


def _order(
    run: Path, kind: OrderKind, why: str, *, as_json: bool, proposal: str | None = None, version: int | None = None
) -> None:
    """Leave an order in the run's folder, if it would be carried out.

    Raises:
        RunError: the run has ended, or the order would be refused.
    """
    from server.oversight import place_order  # noqa: PLC0415 - heavy
    from shared.policy.orders import order_to_dict  # noqa: PLC0415 - as above

    order, ruling, path = place_order(
        run, kind, who=_who(), why=why, now=datetime.now(UTC), proposal=proposal, version=version
    )
    if as_json:
        typer.echo(json.dumps({"order": order_to_dict(order), "file": str(path), "expected": ruling.reason}))
    else:
        typer.echo(f"Before the next round: {ruling.reason}.\nThe order waits in {path}")


def _who() -> str:
    """The account's name; a container may run under a number that has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
