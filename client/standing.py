"""How a device stands, from what lies in its folder in clear: no key is needed, no behaviour is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from client.account import Cap
from client.enrolling import own_name, read_server
from client.home import Home
from client.home_lock import is_running
from client.own_log import Fact, last_lines
from client.privacy_view import budget
from client.published import current
from client.settings import read_settings

NEWEST = 5  # lines of the log


@dataclass(frozen=True)
class Overview:
    """A device from outside.

    Attributes:
        name: to the server.
        server: its address; "" = not enrolled.
        running: whether an agent runs.
        api_port: of the local API; 0 = none.
        taking_part: whether consent lets anything leave.
        publication, run, round, catalogue: of the last publication taken; 0 and "" = none.
        caps: spent against consent.
        log: newest lines of the device's own log.
    """

    name: str
    server: str
    running: bool
    api_port: int
    taking_part: bool
    publication: int
    run: str
    round: int
    catalogue: str
    caps: tuple[Cap, ...]
    log: tuple[dict[str, Fact], ...]


def overview(home: Home) -> Overview:
    """How a device stands.

    Raises:
        DataError, ConfigError, LedgerError: a file is broken; names it.
    """
    issue = current(home)
    spent = budget(home, datetime.now(UTC).date())
    return Overview(
        own_name(home),
        read_server(home).address if home.server.exists() else "",
        is_running(home),
        read_settings(home).api_port,
        spent.taking_part,
        0 if issue is None else issue.number,
        "" if issue is None else issue.run,
        0 if issue is None else issue.round,
        "" if issue is None else issue.catalogue,
        spent.caps,
        tuple(last_lines(home, NEWEST)),
    )


def told(view: Overview) -> Iterator[str]:
    """The same for a person."""
    yield f"device {view.name}, " + (f"of the server at {view.server}" if view.server else "not enrolled yet")
    yield ("the agent runs" if view.running else "the agent does not run") + (
        f"; local API on port {view.api_port}" if view.api_port else "; no local API"
    )
    yield "takes part" if view.taking_part else "takes part in nothing"
    if view.publication:
        model = f", model of round {view.round} of run {view.run}" if view.run else ", no model yet"
        yield f"publication {view.publication}: catalogue {view.catalogue[:12]}{model}"
    else:
        yield "nothing was published to it yet"
    for cap in view.caps:
        spent, most = ("no bound" if value is None else f"{value:.4g}" for value in (cap.epsilon, cap.cap))
        yield f"epsilon, {cap.span}: {spent} of {most}"
    for line in view.log:
        facts = ", ".join(f"{name} {fact}" for name, fact in line.items() if name not in {"at", "event"})
        yield f"{line.get('at')} {line.get('event')}" + (f": {facts}" if facts else "")
