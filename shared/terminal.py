"""What the command lines share."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NoReturn

import typer
from typer.core import TyperCommand

from shared.errors import FedrecallError
from shared.printable import printable

if TYPE_CHECKING:
    import click

OK: Final = 0
USAGE: Final = 2
INTERRUPTED: Final = 130


class PlainCommand(TyperCommand):
    """Typer escapes brackets for a markup that is switched off here; a class because Typer asks for one."""

    def get_help(self, ctx: click.Context) -> str:
        """The help text, brackets as they are."""
        return super().get_help(ctx).replace("\\[", "[")


def run_commands(app: typer.Typer, extras: Mapping[str, str] | None = None) -> NoReturn:
    """Run what was typed and exit: an error becomes one sentence and an exit code.

    Args:
        app: the commands; its name begins every sentence.
        extras: module -> the extra of this package that brings it; where such a module is missing, that is said.
    """
    name = app.info.name

    def failed(sentence: str, code: int = USAGE) -> int:
        typer.echo(f"{name}: {printable(sentence)}", err=True)
        return code

    try:
        # Outside standalone mode an exit code comes back as the result, and Ctrl-C as 130.
        code = app(standalone_mode=False) or OK
    except FedrecallError as error:
        code = failed(str(error))
    except OSError as error:
        code = failed(f"{error.filename or 'the disk'}: {error.strerror or error}")
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except ModuleNotFoundError as error:
        extra = (extras or {}).get(error.name or "")
        if extra is None:
            raise
        code = failed(f"{error.name} is missing: pip install 'fedrecall[{extra}]'")
    except Exception as error:
        show = getattr(error, "show", None)  # Typer's own usage errors, whosever class they are, show themselves
        if show is None:
            raise
        show()
        code = USAGE
    if code == INTERRUPTED:
        failed("interrupted")
    sys.exit(code)
