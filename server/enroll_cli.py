"""``fedrecall-server enroll``: invitations, approvals, revocations, through the operator API."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from server.operator_cli import AsJson, Source, TokenFile, ask_api
from shared.errors import ConfigError
from shared.terminal import PlainCommand

enroll_app: Final = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@enroll_app.callback()
def enroll() -> None:
    """Let clients in and out: an invitation goes to a person, a request comes back, an operator approves it."""


@enroll_app.command("invite", cls=PlainCommand)
def invite_command(
    source: Source,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the invitation is written; it is secret.")],
    days: Annotated[int, typer.Option("--days", help="How long it can be used.", min=1, max=365)] = 14,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Make an invitation for one device; it works once. Role run."""
    from shared.enrolment import pass_from_dict, write_pass  # noqa: PLC0415 - heavy imports wait until arguments are right

    if out.exists():
        raise ConfigError(f"{out}: there is such a file already")
    invited = pass_from_dict(ask_api(source, token_file, "POST", "/v1/invitations", {"days": days}), "operator API")
    write_pass(invited, out)
    if as_json:
        typer.echo(json.dumps({"invitation": invited.invitation, "file": str(out), "expires": invited.expires}))
    else:
        typer.echo(
            f"{out}: invitation {invited.invitation}, until {invited.expires}. Give it to one person, privately."
        )


@enroll_app.command("approve", cls=PlainCommand)
def approve_command(
    source: Source,
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="The file that the device wrote.")],
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Let a device in: its request must have been made from an open invitation. Role approve."""
    from shared.enrolment import read_request  # noqa: PLC0415 - heavy

    _tell(ask_api(source, token_file, "POST", "/v1/clients", asdict(read_request(request))), "in", as_json=as_json)


@enroll_app.command("revoke", cls=PlainCommand)
def revoke_command(
    source: Source,
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="The client's name, as `enroll list` shows it.")],
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Shut a client out, for good. Role run."""
    _tell(ask_api(source, token_file, "POST", f"/v1/clients/{_name(client)}/revoke", {}), "out", as_json=as_json)


@enroll_app.command("withdraw", cls=PlainCommand)
def withdraw_command(
    source: Source,
    invitation: Annotated[str, typer.Argument(metavar="INVITATION", help="Its name, as `enroll list` shows it.")],
    token_file: TokenFile = None,
) -> None:
    """Make an open invitation worthless. Role run."""
    ask_api(source, token_file, "POST", f"/v1/invitations/{_name(invitation)}/withdraw", {})
    typer.echo(f"Invitation {invitation} can no longer be used.")


@enroll_app.command("list", cls=PlainCommand)
def list_command(source: Source, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Show clients and invitations. Role view."""
    clients = ask_api(source, token_file, "GET", "/v1/clients")
    invitations = ask_api(source, token_file, "GET", "/v1/invitations")
    if as_json:
        typer.echo(json.dumps({"clients": clients, "invitations": invitations}))
        return
    for each in clients:
        how = f"revoked {each['revoked']} by {each['revoked_by']}" if each["revoked"] else "in"
        typer.echo(f"client {each['name']}  {how}  since {each['since']}, let in by {each['by']}")
    for each in invitations:
        typer.echo(f"invitation {each['invitation']}  {each['stands']}  until {each['expires']}, by {each['by']}")


@enroll_app.command("keys", cls=PlainCommand)
def keys_command(
    source: Source,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the list is written.")],
    token_file: TokenFile = None,
) -> None:
    """Write the public keys of server and clients, as `fedrecall-audit verify --keys` reads them. Role view."""
    from shared.files import write_atomically  # noqa: PLC0415 - heavy

    said = ask_api(source, token_file, "GET", "/v1/keys")
    lines = [f"server = {json.dumps(said['server'])}", "[clients]"]
    lines += [f"{json.dumps(name)} = {json.dumps(key)}" for name, key in sorted(said["clients"].items())]
    write_atomically(out, ("\n".join(lines) + "\n").encode())
    typer.echo(f"{out}: the server's key and those of {len(said['clients'])} clients.")


def _tell(said: dict[str, Any], where: str, *, as_json: bool) -> None:
    """That a client is in, or out."""
    later = "" if said["settled"] else "; the SuperLink does not answer and will hear of it when it does"
    typer.echo(json.dumps(said) if as_json else f"Client {said['client']} is {where}{later}.")


def _name(text: str) -> str:
    """A name that may stand in a path of the API.

    Raises:
        ConfigError: it may not.
    """
    if not text.isalnum() or not text.isascii():
        raise ConfigError(f"{text[:40]!r}: expected a name of letters and digits, as `enroll list` shows it")
    return text
