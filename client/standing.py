"""How a device stands, from what lies in its folder in clear: no key is needed, no behaviour is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from client import privacy_view
from client.account import Budget
from client.enrolling import own_name, read_server
from client.home import Home
from client.home_lock import is_running
from client.own_log import Fact, last_lines
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
        budget: whether consent lets anything leave, and what was spent against it.
        publication, run, round, catalogue: of the last publication taken; 0 and "" = none.
        log: newest lines of the device's own log.
    """

    name: str
    server: str
    running: bool
    api_port: int
    budget: Budget
    publication: int
    run: str
    round: int
    catalogue: str
    log: tuple[dict[str, Fact], ...]


def overview(home: Home) -> Overview:
    """How a device stands.

    Raises:
        DataError, ConfigError, LedgerError: a file is broken; names it.
    """
    issue = current(home)
    return Overview(
        own_name(home),
        read_server(home).address if home.server.exists() else "",
        is_running(home),
        read_settings(home).api_port,
        privacy_view.budget(home, datetime.now(UTC).date()),
        0 if issue is None else issue.number,
        "" if issue is None else issue.run,
        0 if issue is None else issue.round,
        "" if issue is None else issue.catalogue,
        tuple(last_lines(home, NEWEST)),
    )


def told(view: Overview) -> Iterator[str]:
    """The same for a person."""
    yield f"device {view.name}, " + (f"of the server at {view.server}" if view.server else "not enrolled yet")
    yield ("the agent runs" if view.running else "the agent does not run") + (
        f"; local API on port {view.api_port}" if view.api_port else "; no local API"
    )
    if view.publication:
        model = f", model of round {view.round} of run {view.run}" if view.run else ", no model yet"
        yield f"publication {view.publication}: catalogue {view.catalogue[:12]}{model}"
    else:
        yield "nothing was published to it yet"
    yield from privacy_view.told(view.budget)
    for line in view.log:
        facts = ", ".join(f"{name} {fact}" for name, fact in line.items() if name not in {"at", "event"})
        yield f"{line.get('at')} {line.get('event')}" + (f": {facts}" if facts else "")
