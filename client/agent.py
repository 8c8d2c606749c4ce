"""The resident process on a device: serves its person, and has a word with the server when it may.

Torch-free. Two things go on, neither waits for the other: the local API (``client/api.py``), in a thread, and the loop
below, which pulls what the server asks and hands it to the worker (``client/worker.py``), a child that looks into
messages, trains, and ends when nothing came for a while. Only the installed code ever runs. A server that is gone, has
not approved this device, or has revoked it, is tried again later, ever more rarely, for ever; serving goes on.

Crashes: before a message is looked into, its address is kept in ``unanswered``; an agent that finds one when it starts
declines it, so that a round does not wait for who cannot answer any more. What was paid stays paid
(``client/release.py``), and nothing is computed twice.
"""

from __future__ import annotations

import json
import random
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, cast

from client.child import start_child
from client.enrolling import Server, node_key, read_server, remember_node, remembered_node
from client.fleet_link import Incoming, Link, link
from client.home import Home
from client.own_log import log
from client.power import reason_to_wait
from client.settings import Settings
from client.worker import read_frame, send_frame, send_message
from shared.errors import FedrecallError, ProtocolError
from shared.files import sync_folder, write_atomically
from shared.protocol import declined_record, is_declined
from shared.wire import HOSTILE, unpack

FAST, SLOWER = 0.3, 1.3  # seconds to the first question after an answer, and how much longer each next one waits
GRACE: Final = 20.0  # seconds that a worker may go on when the agent is to end
LONGEST_TASK: Final = 3600.0  # seconds; then a worker is taken to hang
FIRST_WAIT, LONGER, LONGEST_WAIT = 1.0, 1.5, 60.0  # seconds between tries of a server that is gone, and how they grow
REFUSALS: Final = 1.0  # seconds: a refusal leaves a whole number of them after its message came
LOOK_AROUND: Final = 30.0  # seconds between looks at battery and network
DAY: Final = 86_400.0  # seconds
UNANSWERED: Final = "unanswered"


@dataclass
class Worker:
    """A running worker. Not frozen: it is used until it is gone."""

    process: subprocess.Popen[bytes]
    last: float


@dataclass
class Agent:
    """One device's agent. Not frozen: it owns a child, and learns what the server last wanted.

    Attributes:
        home: the device.
        settings: as they were when it started.
        key: the vault's, for the worker.
        daily: what is to be done at the start and once a day.
        fresh: what is to be done when the shelf was brought up to the last publication.
        stop: set to end.
        clock: monotonic seconds.
        worker: None while none runs.
        shelver: builds what serving maps; None while none runs.
        shelf_behind: whether it is to be started.
        next_day: by ``clock``; when ``daily`` is due.
        reached: whether the server took this device in at least once.
    """

    home: Home
    settings: Settings
    key: bytes
    daily: Callable[[], None] = lambda: None
    fresh: Callable[[], None] = lambda: None
    stop: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.monotonic
    worker: Worker | None = None
    shelver: subprocess.Popen[bytes] | None = None
    shelf_behind: bool = True
    next_day: float = 0.0
    reached: bool = False


def run(agent: Agent, *, until: float = float("inf")) -> None:
    """Speak with the server until stopped, or until ``until`` by the agent's clock. Raises nothing that it can bear.

    Args:
        agent: the agent.
        until: for ``--once``: when to leave; a message that is being answered is finished.
    """
    wait, told = FIRST_WAIT, ""
    try:
        while not agent.stop.is_set() and agent.clock() < until:
            tend(agent)
            why = _reason_to_wait(agent)
            if not why:
                try:
                    _connected(agent, read_server(agent.home), until)
                    wait, why = FIRST_WAIT, ""
                except FedrecallError as error:
                    why = str(error)
                except Exception as error:  # noqa: BLE001 - whatever a server's message does to it, the agent lives
                    why = f"{type(error).__name__}: {error}"
            if why and why != told:
                log(agent.home, "waiting", why=why)
            told = why
            if why:
                jitter = random.uniform(0.8, 1.2)  # so that devices do not all come back at once
                agent.stop.wait(max(0.0, min(wait * jitter, until - agent.clock())))
                wait = min(wait * LONGER, LONGEST_WAIT)
    finally:
        dismiss(agent)
        if agent.shelver is not None:  # it may be killed anywhere, and is started again with the next agent
            agent.shelver.terminate()
            agent.shelver.wait()


def _reason_to_wait(agent: Agent) -> str:
    return reason_to_wait(agent.settings)


def _connected(agent: Agent, server: Server, until: float) -> None:
    """From one link to its end.

    Raises:
        LinkError: the server is gone, or refuses.
    """
    home = agent.home
    known = remembered_node(home)
    with link(server.address, server.ca, node_key(home), known=known, stop=agent.stop, folder=home.folder) as line:
        if line.node != known:
            remember_node(home, line.node)
        agent.reached = True
        log(home, "connected", address=server.address, ahead=round(line.ahead, 1))
        _settle(agent, line)
        looked, pause = agent.clock(), agent.settings.poll_seconds
        while not agent.stop.is_set() and agent.clock() < until:
            tend(agent)
            if agent.clock() > looked + LOOK_AROUND:  # even while messages keep coming
                looked = agent.clock()
                if _reason_to_wait(agent):
                    return
            incoming = line.receive()
            if incoming is not None and _answer(agent, line, incoming):
                pause = FAST  # the next step of a round comes soon, if it comes, but never at once
            agent.stop.wait(max(0.0, min(pause, until - agent.clock())))
            pause = min(pause * SLOWER, agent.settings.poll_seconds)


def _answer(agent: Agent, line: Link, incoming: Incoming) -> bool:
    """One message: its address to disk, the worker's answer back, and only then is the address dropped.

    Returns:
        Whether the server got more than a refusal; who sends what is refused is not asked for the next at once.

    Raises:
        LinkError: the server went away, for longer than the answer was good for.
        OSError: the disk refuses even an address; the message is declined then.
    """
    home, began = agent.home, agent.clock()
    try:
        write_atomically(home.folder / UNANSWERED, incoming.raw, mode=0o600)
        record, facts = _ask_worker(agent, incoming)
    except (OSError, FedrecallError) as error:
        log(home, "declined", kind=incoming.kind, why=f"{type(error).__name__}: {error}")
        record, facts = declined_record(), {}
    finally:
        incoming.close()
    agent.shelf_behind |= "published" in facts
    worked = agent.clock() - began
    if is_declined(record):  # when it comes tells nothing of what was read before it was refused
        agent.stop.wait(-worked % REFUSALS)
    taken = line.reply(incoming, record)
    _drop_address(home)
    log(home, "answered", kind=incoming.kind, seconds=round(worked, 3), taken=taken)
    return not is_declined(record)


def _settle(agent: Agent, line: Link) -> None:
    """Decline what a crash left unanswered."""
    path = agent.home.folder / UNANSWERED
    if not path.exists():
        return
    incoming = Incoming(path.read_bytes())
    try:
        log(agent.home, "declined", kind=incoming.kind, why="this device stopped in the middle of it")
        line.reply(incoming, declined_record())
    except HOSTILE as error:  # a file that somebody else wrote; it must not be in the way for ever
        log(agent.home, "dropped", why=f"{path}: {type(error).__name__}: {error}")
    _drop_address(agent.home)


def _drop_address(home: Home) -> None:
    with suppress(OSError):
        (home.folder / UNANSWERED).unlink(missing_ok=True)
        sync_folder(home.folder)


def _ask_worker(agent: Agent, incoming: Incoming) -> tuple[Any, dict[str, Any]]:
    """The worker's answer.

    Raises:
        ProtocolError: the worker died over it.
    """
    if agent.worker is None or agent.worker.process.poll() is not None:
        dismiss(agent)
        agent.worker = _hire(agent)
    process = agent.worker.process
    hangs = threading.Timer(LONGEST_TASK, process.kill)
    hangs.daemon = True
    hangs.start()
    try:
        send_message(cast("BinaryIO", process.stdin), incoming)
        facts, record = (read_frame(cast("BinaryIO", process.stdout)) for _ in range(2))
    except OSError:
        facts = record = None
    finally:
        hangs.cancel()
    agent.worker.last = agent.clock()
    if facts is None or record is None:
        dismiss(agent)
        raise ProtocolError(f"the worker ended over a {incoming.kind} (exit {process.returncode})")
    return unpack(record), json.loads(facts)


def _hire(agent: Agent) -> Worker:
    process = start_child("client.worker", agent.home, talk=subprocess.PIPE)
    stdin = cast("BinaryIO", process.stdin)
    with suppress(OSError):  # it is asked whether it lives before every message
        send_frame(stdin, agent.key)
        stdin.flush()
    threading.Thread(target=_end_with, args=(agent.stop, process), daemon=True).start()
    return Worker(process, agent.clock())


def _end_with(stop: threading.Event, process: subprocess.Popen[bytes]) -> None:
    """An agent that is to end waits for no training for long; what was paid for it is lost."""
    while process.poll() is None:
        if stop.wait(1.0):
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()


def dismiss(agent: Agent) -> None:
    """Let the worker end; its input is closed, which is all it needs."""
    if agent.worker is None:
        return
    process = agent.worker.process
    agent.worker = None
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            cast("BinaryIO", pipe).close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tend(agent: Agent) -> None:
    """What is due beside the server's messages: the day's work, a worker's end, a child that builds what is served."""
    if agent.clock() >= agent.next_day:
        agent.next_day = agent.clock() + DAY
        _borne(agent, "the day's work failed", agent.daily)
    worker, linger = agent.worker, agent.settings.linger_seconds
    if worker is not None and agent.clock() > worker.last + linger:  # with or without a server: it holds behaviour
        dismiss(agent)
    if agent.shelver is not None and agent.shelver.poll() is not None:
        if agent.shelver.returncode:
            log(agent.home, "the shelf was not built", exit=agent.shelver.returncode)
        else:
            _borne(agent, "the new shelf was not taken in", agent.fresh)
        agent.shelver = None
    if agent.shelf_behind and agent.shelver is None:
        agent.shelf_behind = False
        agent.shelver = start_child("client.shelving", agent.home)


def _borne(agent: Agent, failed: str, work: Callable[[], None]) -> None:
    """Work that the agent lives without."""
    try:
        work()
    except (FedrecallError, OSError) as error:
        log(agent.home, failed, why=str(error))
