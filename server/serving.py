"""The run loop of a deployed server, inside Flower's ServerApp: runs, waits, and gives out.

Whatever kills it, it is started again and goes on from the folder of its run: what was asked for is paid, and the next
round begins where the last one was closed. It never waits for a node that is gone: a step of a round ends at its
deadline, and between rounds it waits until enough clients are there, so that no round is spent on a night.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from flwr.serverapp import Grid

from server.checkpoint import State
from server.control import Standing, lock_of, pipe_of, stopping_of, write_standing
from server.enrolling import Enrolled, read_clients
from server.house import House, house_at
from server.logs import PipeHandler, event, logging_to
from server.promise import check_promised
from server.publishing import Given, Publisher, issue_of, read_given, write_given
from server.resuming import alone
from server.running import Hooks, Run, begin_run, carry_on, close_run, given_of, has_ended, open_run, runs_of
from server.stock import stock_of
from server.superlink import HOUSE
from shared.errors import ConfigError, PlanError
from shared.keys import own_key
from shared.privacy.ledger import Ledger

POLL: Final = 1.0  # seconds between two looks while nothing goes on
APART: Final = 60.0  # seconds at least between two models of one run: every device makes itself ready for each


class Stopping(Exception):  # noqa: N818 - a wish, not an error
    """The supervisor wants the loop to end between two rounds."""


def serve(grid: Grid) -> None:
    """Serve the house that the environment names, until the supervisor says stop.

    Raises:
        FedrecallError: something on disk is broken; the supervisor starts the loop again.
    """
    house = house_at(Path(os.environ.get(HOUSE, ".")))
    house.control.mkdir(parents=True, exist_ok=True)
    with (
        logging_to(PipeHandler(pipe_of(house)), "serving"),
        alone(lock_of(house), f"{house.folder}: another process serves this house"),
    ):
        event("serving", pid=os.getpid())
        loop = Loop(house, grid, Publisher(house, grid, own_key(house.ledger_key)), read_given(house))
        try:
            while True:
                loop.one_run()
        except Stopping:
            event("stopped between two rounds")
        except Exception as error:
            loop.say(f"failed: {error}")
            event("failed", level=logging.ERROR, error=error)
            raise


@dataclass
class Loop:
    """What the run loop holds on to. Not frozen: it goes on.

    Attributes:
        house: the server's.
        grid: Flower's.
        publisher: gives out.
        given: the model that is given out; None before there is one.
        clock, sleep: time.
    """

    house: House
    grid: Grid
    publisher: Publisher
    given: Given | None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    run: Run | None = None  # the one that goes on
    given_at: float = field(default=-APART)
    standing: Standing = field(default_factory=Standing)

    def one_run(self) -> None:
        """The run that goes on, or the next one once somebody asks for it; to its end.

        Raises:
            Stopping: the supervisor wants to end.
        """
        folder = self._unfinished() or self._next()
        self.run = run = open_run(self.house, folder)
        self.say("", run=folder.name)
        event("run", run=run.name, clients=len(run.job.nodes), rounds=run.job.config.rounds)
        ending = carry_on(self.house, run, self.grid, Hooks(self._opened, self._between))
        self._give(run, ending.last, at_once=True)
        close_run(run, ending)
        self.run = None
        event("run ended", run=run.name, stopped=ending.stopped, rounds=ending.rounds_done)

    def say(self, waiting: str, **changes: object) -> None:
        """Tell the supervisor how the loop stands, if that is news."""
        standing = replace(self.standing, waiting=waiting, **changes)  # type: ignore[arg-type]  # fields of Standing
        if standing != self.standing:
            if waiting and waiting != self.standing.waiting:
                event("waiting", why=waiting)
            self.standing = standing
            write_standing(self.house, standing)

    def _unfinished(self) -> Path | None:
        runs = runs_of(self.house)
        if runs:
            self.standing = replace(self.standing, run=runs[-1].name)
        return runs[-1] if runs and not has_ended(runs[-1]) else None

    def _next(self) -> Path:
        """Wait until a run is to begin; its folder."""
        online = self._wait(self._why_no_run)
        config = self.house.config()
        # Who is there comes first; the plan is made for so many clients and no more.
        ready = sorted(self._enrolled(), key=lambda client: client.node not in online)
        names = {client.name for client in ready[: config.service.clients]}
        chosen = [client for client in self._enrolled() if client.name in names]
        return begin_run(self.house, config, stock_of(self.house).version, chosen)

    def _why_no_run(self, _online: frozenset[int]) -> str:
        if runs_of(self.house) and not self.house.begin.exists():
            return "the run has ended; the next one begins when an operator says so (fedrecall-server begin)"
        if not self._stocked():
            return "there is no catalogue yet (fedrecall-server catalogue import)"
        enrolled, wanted = len(self._enrolled()), self.house.config().service.clients
        if enrolled < wanted:
            return f"{enrolled} of {wanted} clients are enrolled"
        if self.house.paused.exists():
            return "paused by an operator"
        try:
            check_promised(self.house)
        except (ConfigError, PlanError) as error:
            return str(error)
        return ""

    def _opened(self, ledger: Ledger) -> None:
        self.publisher.tip = lambda: ledger.tip

    def _between(self, state: State) -> Sequence[str]:
        """Between two rounds: give out, wait while paused or while too few are there; whom to ask next."""
        run = self.run
        if run is None:
            raise RuntimeError("between two rounds of no run")
        self._give(run, state, at_once=False)
        enrolled = {client.name for client in self._enrolled()}
        gone = frozenset(run.job.clients) - enrolled

        def why(online: frozenset[int]) -> str:
            if self.house.paused.exists():
                return "paused by an operator"
            left, least = run.needed(state, gone)
            there = sum(run.job.nodes[name] in online for name in left)
            return "" if there >= least else f"{there} of {len(left)} clients are online, {least} must be"

        online = self._wait(why)
        left, least = run.needed(state, gone)
        if run.job.plan.sampling is not None or least == 0:
            # A coin is tossed for everybody; and where nobody can be asked any more, the run is to see why.
            return [name for name in run.job.clients if name not in gone]
        return [name for name in left if run.job.nodes[name] in online]

    def _wait(self, why: Callable[[frozenset[int]], str]) -> frozenset[int]:
        """Until there is no reason to wait; giving out goes on meanwhile. Who is online at the end."""
        while True:
            if stopping_of(self.house).exists():
                raise Stopping
            online = self._online()
            behind = self._publish(online)
            reason = why(online)
            clients = {client.node for client in self._enrolled()}
            self.say(reason, online=len(clients & online), behind=behind)
            if not reason:
                return online
            self.sleep(POLL)

    def _publish(self, online: frozenset[int]) -> int:
        """Give out the current issue; how many do not have it yet."""
        if not self._stocked():
            return 0
        running = "" if self.run is None else self.run.job.catalogue
        issue = issue_of(stock_of(self.house), self.given, running)
        return self.publisher.give(issue, self._enrolled(), online)

    def _give(self, run: Run, state: State, *, at_once: bool) -> None:
        """Take a newer model for the one that is given out, unless the last one is too fresh."""
        newer, last = given_of(run, state), self.given
        if newer is None:
            return
        if last is not None and last.run == run.name and not at_once and self.clock() - self.given_at < APART:
            newer = replace(last, trending=newer.trending)
        if last is None or (newer.run, newer.round, newer.trending) != (last.run, last.round, last.trending):
            if newer is not last:
                self.given_at = self.clock()
            self.given = newer
            write_given(self.house, newer)

    def _stocked(self) -> bool:
        return (self.house.catalogue / "current.json").exists()

    def _online(self) -> frozenset[int]:
        return frozenset(self.grid.get_node_ids())

    def _enrolled(self) -> tuple[Enrolled, ...]:
        """Clients that are in, and that the SuperLink knows."""
        return tuple(each for each in read_clients(self.house) if each.revoked is None and each.node is not None)
