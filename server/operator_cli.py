"""``fedrecall-server operator`` and ``certificates``: who may do what, and what the server shows to be itself.

Both work on the server's folder, for whoever owns it; what the other commands share to call the operator API is here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from shared.errors import ConfigError
from shared.terminal import PlainCommand

operator_app: Final = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
certificates_app: Final = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Source = Annotated[
    Path,
    typer.Argument(
        metavar="SERVER",
        help="Folder of the server, or the file that `operator add --out` wrote.",
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the server.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The operator's name: orders and the log call them so.")]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Holds the token; default: the variable FEDRECALL_TOKEN."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, nothing else.")]


def ask_api(
    source: Path, token_file: Path | None, method: str, path: str, body: Mapping[str, Any] | None = None
) -> Any:  # noqa: ANN401 - JSON
    """Call the operator API as the operator whose token is at hand.

    Raises:
        ConfigError: no token, or no server.
        RunError: no answer, or the API's own sentence.
    """
    import os  # noqa: PLC0415 - beside the heavy one

    from server.operator_client import ask, credential_at  # noqa: PLC0415 - heavy imports wait until arguments are right

    token = os.environ.get("FEDRECALL_TOKEN", "")
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{token_file}: no readable token in it") from error
    return ask(credential_at(source, token), method, path, body)


@operator_app.callback()
def operator() -> None:
    """Operators: view looks; run also pauses, invites, revokes; approve also lets clients in and orders the policy."""


@operator_app.command("add", cls=PlainCommand)
def add_command(
    folder: Folder,
    name: Name,
    role: Annotated[str, typer.Option("--role", help="view, run or approve.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write address, certificate and token there instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an operator; the token is shown once, and kept nowhere."""
    from server.house import house_at  # noqa: PLC0415 - heavy
    from server.metrics import system_now  # noqa: PLC0415 - heavy
    from server.operators import add_operator, write_credential  # noqa: PLC0415 - heavy

    if out is not None and out.exists():
        raise ConfigError(f"{out}: there is such a file already")
    credential = add_operator(house_at(folder), name, role, system_now())
    if out is not None:
        write_credential(credential, out)
    if as_json:
        shown = {"token": credential.token} if out is None else {"file": str(out)}
        typer.echo(json.dumps({"name": name, "role": role, **shown}))
    elif out is None:
        typer.echo(credential.token)
    else:
        typer.echo(f"{out} lets its holder in as {name}, role {role}: fedrecall-server status {out}")


@operator_app.command("list", cls=PlainCommand)
def list_command(folder: Folder, as_json: AsJson = False) -> None:
    """Show operators and their roles."""
    from server.house import house_at  # noqa: PLC0415 - heavy
    from server.operators import read_operators  # noqa: PLC0415 - heavy

    rows = [{"name": each.name, "role": each.role, "since": each.since} for each in read_operators(house_at(folder))]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(f"{row['name']}  {row['role']}  since {row['since']}")


@operator_app.command("remove", cls=PlainCommand)
def remove_command(folder: Folder, name: Name) -> None:
    """Take an operator's token away; it counts from their next request on."""
    from server.house import house_at  # noqa: PLC0415 - heavy
    from server.operators import remove_operator  # noqa: PLC0415 - heavy

    remove_operator(house_at(folder), name)
    typer.echo(f"{name} is no operator any more.")


@certificates_app.callback()
def certificates() -> None:
    """The server's TLS certificate, under the authority that every invitation carries."""


@certificates_app.command("show", cls=PlainCommand)
def show_command(folder: Folder, as_json: AsJson = False) -> None:
    """When the authority and the server's certificate expire."""
    from server.certificates import expiry  # noqa: PLC0415 - heavy
    from server.house import house_at  # noqa: PLC0415 - heavy

    house = house_at(folder)
    rows = {"authority": f"{expiry(house.ca):%Y-%m-%d}", "server": f"{expiry(house.certificate):%Y-%m-%d}"}
    typer.echo(json.dumps(rows) if as_json else "\n".join(f"{name}: until {day}" for name, day in rows.items()))


@certificates_app.command("renew", cls=PlainCommand)
def renew_command(folder: Folder) -> None:
    """Issue the server's certificate anew; devices notice nothing. Restart `up` and reload the proxy afterwards."""
    from server.certificates import issue  # noqa: PLC0415 - heavy
    from server.house import house_at  # noqa: PLC0415 - heavy
    from server.metrics import system_now  # noqa: PLC0415 - heavy

    house = house_at(folder)
    until = issue(house, house.config().service.address, system_now())
    typer.echo(f"{house.certificate}: until {until:%Y-%m-%d}. Restart fedrecall-server up and reload the proxy.")


@certificates_app.command("authority", cls=PlainCommand)
def authority_command(
    folder: Folder, yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether you are sure.")] = False
) -> None:
    """Make a new authority, key and certificate: no device connects again before it has read a new invitation."""
    from server.certificates import expiry, issue, make_authority  # noqa: PLC0415 - heavy
    from server.house import house_at  # noqa: PLC0415 - heavy
    from server.metrics import system_now  # noqa: PLC0415 - heavy

    house, now = house_at(folder), system_now()
    address = house.config().service.address
    if not yes:
        typer.confirm("No device knows this server afterwards, until it reads a new invitation. Go on?", abort=True)
    make_authority(house, now)
    issue(house, address, now)
    typer.echo(
        f"{house.ca}: until {expiry(house.ca):%Y-%m-%d}. Restart fedrecall-server up and the proxy, and give every "
        "device a new invitation to read; that needs no approval."
    )
