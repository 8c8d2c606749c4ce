"""An agent with all that belongs to it: the device, its local API, signals; or a short visit for cron."""

from __future__ import annotations

import gc
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from client.agent import Agent, alone, run
from client.home import Home
from client.own_log import log
from client.settings import Settings, read_settings
from client.vault import open_vault
from shared.errors import ConfigError


def live(home: Home, key: bytes, ready: Callable[[str], None]) -> None:
    """Serve the person and speak with the server until SIGTERM or Ctrl-C.

    Args:
        home: the device.
        key: the vault's.
        ready: told the page's address once it is there.

    Raises:
        DataError: another agent runs here, or the folder is broken.
        ConfigError: the settings cannot be read, or another program has the port.
    """
    settings = read_settings(home)
    with alone(home), _served(home, key, settings) as page:
        agent = _agent(home, key, settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stopper(agent))
        log(home, "started")
        if page:
            ready(page)
        run(agent)
    log(home, "ended")


def visit(home: Home, key: bytes, seconds: float) -> bool:
    """Answer what comes within some seconds, then leave; no local API. Whether the server was reached.

    Raises:
        DataError: an agent runs here already.
        ConfigError: the settings cannot be read.
    """
    with alone(home):
        agent = _agent(home, key, read_settings(home))
        run(agent, until=agent.clock() + seconds)
    return agent.reached


def _agent(home: Home, key: bytes, settings: Settings) -> Agent:
    def purge() -> None:
        with open_vault(home.vault, key) as vault:
            gone = vault.purge(time.time(), settings.ttl_days)
        if gone:
            log(home, "purged", events=gone, older_than_days=settings.ttl_days)

    return Agent(home, settings, key, daily=purge)


def _stopper(agent: Agent) -> Callable[[int, FrameType | None], None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        agent.stop.set()

    return stop


@contextmanager
def _served(home: Home, key: bytes, settings: Settings) -> Iterator[str]:
    """The local API in a thread of its own, until the block ends; its page's address, "" = none is wanted."""
    if not settings.api_port:
        yield ""
        return
    from client.api import api_server, make_api  # noqa: PLC0415 - FastAPI is not needed without it
    from client.device import open_device  # noqa: PLC0415 - as above

    token = home.token.read_text(encoding="ascii").strip()
    with _listening(settings.api_port) as listening:
        device = open_device(home, key, learn=settings.adapt)
        server = api_server(make_api(device, home, token, settings.api_port))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        gc.freeze()  # what was imported stays; collections need not walk it again
        thread.start()
        try:
            yield f"http://127.0.0.1:{settings.api_port}/"
        finally:
            server.should_exit = True
            thread.join(5)
            device.close()


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"port {port}: {error.strerror}; another program has it: set api_port in device.toml"
            ) from error
        yield listening
