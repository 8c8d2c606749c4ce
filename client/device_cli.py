"""What the commands of ``fedrecall-client`` share: the device they are about, its passphrase, how they speak."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from client.home import Home, home_at
from shared.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from client.device import Device

NOT_REACHED: Final = 1
DEVICE: Final = "FEDRECALL_DEVICE"
PASSPHRASE: Final = "FEDRECALL_PASSPHRASE"  # noqa: S105 - a variable's name

HomeOption = Annotated[
    Path | None, typer.Option("--home", metavar="HOME", envvar=DEVICE, show_envvar=False, help="The device's folder.")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help=f"Holds the passphrase; else {PASSPHRASE}, else you type."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, nothing else.")]


def device_home(given: Path | None) -> Home:
    """The device that a command is about.

    Raises:
        ConfigError: none was named, or it is another account's.
        DataError: there is none.
    """
    if given is None:
        raise ConfigError(f"which device? give --home HOME, or set {DEVICE}")
    return home_at(given)


def asker(file: Path | None, *, fresh: bool = False, variable: str = PASSPHRASE) -> Callable[[], str]:
    """Where a passphrase comes from, asked when it is needed.

    Args:
        file: holds it in its first line; None = the environment, or a person.
        fresh: a new one, so that it is typed twice.
        variable: of the environment.
    """

    def ask() -> str:
        if file is not None:
            try:
                return file.read_text(encoding="utf-8").splitlines()[0]
            except (OSError, UnicodeDecodeError, IndexError) as error:
                raise DataError(f"{file}: expected a passphrase in its first line ({error})") from error
        said = os.environ.get(variable)
        if said is not None:
            return said
        if not sys.stdin.isatty():
            raise ConfigError(f"a passphrase is needed: give --passphrase-file FILE, or set {variable}")
        return str(
            typer.prompt("New passphrase" if fresh else "Passphrase", hide_input=True, confirmation_prompt=fresh)
        )

    return ask


def vault_key_of(home: Home, file: Path | None) -> bytes:
    """The vault's key, out of the keyring or by the passphrase.

    Raises:
        DataError: see ``client/vault_key.unlock``.
    """
    from client.vault_key import unlock  # noqa: PLC0415 - heavy imports wait until the arguments are right

    return unlock(home, asker(file))


def opened(home: Home, file: Path | None) -> Device:
    """The device, opened for one command.

    Raises:
        DataError: wrong passphrase, or something is broken.
    """
    from client.device import open_device  # noqa: PLC0415 - as above
    from client.settings import read_settings  # noqa: PLC0415 - as above

    return open_device(home, vault_key_of(home, file), learn=read_settings(home).adapt)


def as_json(said: Any) -> str:  # noqa: ANN401 - whatever a command has to say
    """JSON of dataclasses, mappings and lists; what is not finite becomes null."""
    return json.dumps(_plain(said), ensure_ascii=False)


def _plain(said: Any) -> Any:  # noqa: ANN401 - as above
    if dataclasses.is_dataclass(said) and not isinstance(said, type):
        return {field.name: _plain(getattr(said, field.name)) for field in dataclasses.fields(said)}
    if isinstance(said, Mapping):
        return {str(name): _plain(value) for name, value in said.items()}
    if isinstance(said, list | tuple):
        return [_plain(value) for value in said]
    if isinstance(said, float):
        return said if abs(said) < float("inf") else None
    return said


def assignments(changes: list[str]) -> Iterator[tuple[str, Any]]:
    """``KEY=VALUE`` as TOML has it; a bare word is a text.

    Raises:
        ConfigError: no ``=``.
    """
    import tomllib  # noqa: PLC0415 - as above

    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise ConfigError(f"{change!r}: expected KEY=VALUE, as in epsilon_lifetime=10")
        try:
            yield name.strip(), tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            yield name.strip(), value.strip()
