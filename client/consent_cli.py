"""``fedrecall-client consent``: what this device takes part in."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from client.device_cli import AsJson, HomeOption, as_json, assignments, device_home
from client.home import Home
from shared.errors import ConfigError
from shared.terminal import PlainCommand

consent_app: Final = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@consent_app.callback()
def consent() -> None:
    """See and change what this device takes part in; it counts from the next message on."""


@consent_app.command("show", cls=PlainCommand)
def show_command(home: HomeOption = None, as_json_: AsJson = False) -> None:
    """Show every clause."""
    from client.consent import read_consent  # noqa: PLC0415 - heavy imports wait until the arguments are right

    device = device_home(home)
    said = read_consent(device.consent)
    if as_json_:
        typer.echo(as_json(said.model_dump(mode="json")))
    else:
        typer.echo(device.consent.read_text(encoding="utf-8"), nl=False)


@consent_app.command("set", cls=PlainCommand)
def set_command(
    changes: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="Clauses; all of them or none.")],
    home: HomeOption = None,
) -> None:
    """Change clauses; what is not named stays."""
    _change(device_home(home), changes)


@consent_app.command("off", cls=PlainCommand)
def off_command(home: HomeOption = None) -> None:
    """Take part in nothing; recommending goes on."""
    _change(device_home(home), ["enabled=false"])


@consent_app.command("on", cls=PlainCommand)
def on_command(home: HomeOption = None) -> None:
    """Take part again, within the clauses."""
    _change(device_home(home), ["enabled=true"])


def _change(home: Home, changes: list[str]) -> None:
    from client.consent import Consent, read_consent, write_consent  # noqa: PLC0415 - as above
    from shared.config import validate  # noqa: PLC0415 - as above

    if not home.consent.exists():
        raise ConfigError(
            f"{home.consent}: missing, so this device takes part in nothing; fedrecall-client init made one"
        )
    named = dict(assignments(changes))
    before = read_consent(home.consent).model_dump()
    write_consent(validate(Consent, before | named, str(home.consent)), home.consent)
    for name in named:
        typer.echo(f"{name} = {as_json(getattr(read_consent(home.consent), name))}")
