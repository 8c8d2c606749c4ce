"""``fedrecall-client``: a person's device. Only this file and ``*_cli.py`` print, read arguments and set exit codes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from client.consent_cli import consent_app
from client.device_cli import (
    NOT_REACHED,
    AsJson,
    HomeOption,
    PassphraseFile,
    as_json,
    asker,
    device_home,
    vault_key_of,
)
from client.person_cli import add_commands
from shared.errors import DataError
from shared.printable import printable
from shared.terminal import OK, PlainCommand, run_commands

app: Final = typer.Typer(
    name="fedrecall-client",
    help="Your device: what you did stays on it, encrypted; what leaves it is yours to decide.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(consent_app, name="consent")
add_commands(app)


@app.command("init", cls=PlainCommand)
def init_command(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="Folder of the new device.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Of the local API; 0 = none.")] = 8765,
    passphrase_file: PassphraseFile = None,
    keyring: Annotated[bool | None, typer.Option("--keyring/--no-keyring", help="Who keeps the vault's key.")] = None,
) -> None:
    """Make a device: an empty vault and its key, a careful consent, settings that explain themselves."""
    from client.setting_up import make_device  # noqa: PLC0415 - heavy imports wait until the arguments are right
    from client.vault_key import keyring_there  # noqa: PLC0415 - as above

    by_keyring = (
        keyring if keyring is not None else (passphrase_file is None and not _passphrase_set() and keyring_there())
    )
    made = make_device(home, port, None if by_keyring else asker(passphrase_file, fresh=True)())
    typer.echo(f"made {made.folder}; the vault's key is kept by {'the keyring' if by_keyring else 'your passphrase'}")
    typer.echo(f"read what it takes part in: {made.consent}")
    typer.echo(f"next: fedrecall-client enroll INVITATION --out REQUEST --home {made.folder}")


@app.command("enroll", cls=PlainCommand)
def enroll_command(
    invitation: Annotated[Path, typer.Argument(metavar="INVITATION", help="The file that the operator gave you.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Write the request here; give it to the operator.")
    ],
    home: HomeOption = None,
) -> None:
    """Answer an invitation: this device belongs to that server from now on, and takes part with no other."""
    from client.enrolling import enrol, own_name  # noqa: PLC0415 - as above
    from shared.enrolment import write_request  # noqa: PLC0415 - as above

    device = device_home(home)
    write_request(enrol(device, invitation), out)
    typer.echo(f"wrote {out}: give it to the operator; it is not secret. This device is {own_name(device)} to them.")


@app.command("run", cls=PlainCommand)
def run_command(
    home: HomeOption = None,
    once: Annotated[
        float | None, typer.Option("--once", metavar="SECONDS", min=0, help="For cron: answer what comes, then end.")
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> int:
    """Run the agent: the local API, and a word with the server whenever it may. Ends on Ctrl-C or SIGTERM."""
    from client.residence import live, visit  # noqa: PLC0415 - as above

    device = device_home(home)
    key = vault_key_of(device, passphrase_file)
    if once is None:
        live(device, key, _say_where)
        return OK
    reached = visit(device, key, once)
    if reached:
        return OK
    typer.echo(f"fedrecall-client: the server was not reached; {device.log} says why", err=True)
    return NOT_REACHED


@app.command("open", cls=PlainCommand)
def open_command(home: HomeOption = None) -> None:
    """Print the address of this device's page, with its token: whoever has it can see and change what the page can."""
    from client.home_lock import is_running  # noqa: PLC0415 - as above
    from client.settings import read_settings  # noqa: PLC0415 - as above

    device = device_home(home)
    port = read_settings(device).api_port
    if not port:
        raise DataError(f"{device.settings}: api_port is 0, so there is no page; set another and run the agent again")
    if not is_running(device):  # another user's program may sit on the port, and would be given the token
        raise DataError(f"{device.folder}: no agent runs, so there is no page: fedrecall-client run")
    typer.echo(f"http://127.0.0.1:{port}/#token={device.token.read_text(encoding='ascii').strip()}")


@app.command("status", cls=PlainCommand)
def status_command(home: HomeOption = None, as_json_: AsJson = False) -> None:
    """How this device stands; asks for no passphrase and shows no behaviour."""
    from client.standing import overview, told  # noqa: PLC0415 - as above

    view = overview(device_home(home))
    typer.echo(as_json(view) if as_json_ else "\n".join(map(printable, told(view))))


@app.command("rotate-key", cls=PlainCommand)
def rotate_key_command(
    home: HomeOption = None,
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: Annotated[
        Path | None,
        typer.Option("--new-passphrase-file", metavar="FILE", help="Else FEDRECALL_NEW_PASSPHRASE, or typed."),
    ] = None,
    keyring: Annotated[bool, typer.Option("--keyring", help="Let the system's keyring keep the new key.")] = False,
) -> None:
    """Another key for the vault: every page is sealed anew. The agent must not be running."""
    from client.home_lock import alone  # noqa: PLC0415 - as above
    from client.vault_key import rotate  # noqa: PLC0415 - as above

    device = device_home(home)
    with alone(device):
        fresh = None if keyring else asker(new_passphrase_file, fresh=True, variable="FEDRECALL_NEW_PASSPHRASE")()
        rotate(device, asker(passphrase_file), fresh)
    typer.echo("the vault has a new key; the old one opens nothing any more")


def _say_where(page: str) -> None:
    typer.echo(f"this device's page is at {page}; `fedrecall-client open` prints the way in", err=True)


def _passphrase_set() -> bool:
    return "FEDRECALL_PASSPHRASE" in os.environ


def main() -> None:
    """Entry point."""
    os.umask(0o077)  # whatever a device writes is its owner's alone
    run_commands(app)
