"""``fedrecall-sim bench all``: every measurement of speed and scale, one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console

from shared.errors import FedrecallError
from simulations.benchmarks import (
    recall,
    recall_table,
    scale,
    scale_table,
    secagg,
    secagg_table,
    startup,
    updates,
    updates_table,
)
from simulations.download import Say

FAILED = "failed"  # in place of a result: why there is none


@dataclass(frozen=True)
class Part:
    """One measurement.

    Attributes:
        measure: takes its figures, as JSON values.
        show: prints them.
    """

    measure: Callable[[Say], dict[str, Any]]
    show: Callable[[dict[str, Any], Console], None]


def parts(*, peers: bool) -> dict[str, Part]:
    """All of them, in order.

    Args:
        peers: those that take their time, too.
    """
    return {
        "updates": Part(partial(updates.measure, peers=peers), updates_table.show),
        "secagg": Part(partial(secagg.measure, peers=peers), secagg_table.show),
        "recall": Part(recall.measure, recall_table.show),
        "memory": Part(scale.measure_memory, scale_table.show),
        "scale": Part(scale.measure_scale, scale_table.show),
        "startup": Part(startup.measure, startup.show),
    }


def measure(say: Say, every: Mapping[str, Part]) -> dict[str, Any]:
    """Name -> what it measured; what fails says why and stops no other, and Ctrl-C keeps what is there.

    Args:
        say: told what is being measured.
        every: of :func:`parts`.
    """
    out: dict[str, Any] = {}
    for number, (name, part) in enumerate(every.items(), 1):
        say(f"{name}: {number} of {len(every)}")
        try:
            out[name] = part.measure(partial(_tell, say, name))
        except KeyboardInterrupt:
            return out | {left: {FAILED: "interrupted"} for left in [*every][number - 1 :]}
        except Exception as error:  # noqa: BLE001 - whatever it is, the figures taken so far are worth minutes
            why = str(error) if isinstance(error, FedrecallError) else f"{type(error).__name__}: {error}"
            out[name] = {FAILED: why}
            say(f"{name}: {why}")
    return out


def show(result: Mapping[str, Any], console: Console, every: Mapping[str, Part]) -> None:
    """Print what :func:`measure` returned."""
    for name, part in every.items():
        console.rule(name)
        if FAILED in result[name]:
            console.print(f"{FAILED}: {result[name][FAILED]}", markup=False)
        else:
            part.show(result[name], console)


def _tell(say: Say, name: str, sentence: str) -> None:
    say(f"{name}: {sentence}")
