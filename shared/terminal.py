"""What the command lines share."""

from __future__ import annotations

import click
from typer.core import TyperCommand


class PlainCommand(TyperCommand):
    """Typer escapes brackets for a markup that is switched off here; a class because Typer asks for one."""

    def get_help(self, ctx: click.Context) -> str:
        """The help text, brackets as they are."""
        return super().get_help(ctx).replace("\\[", "[")
