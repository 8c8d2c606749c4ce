"""An agent with all that belongs to it: the device, its local API, signals; or a short visit for cron."""

from __future__ import annotations

import http.client
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from client.device import Device, open_device
from client.home import Home
from client.home_lock import alone
from client.own_log import log
from client.settings import Settings, read_settings
from shared.errors import ConfigError, FedrecallError

if TYPE_CHECKING:
    from client.agent import Agent


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
    with alone(home), _device(home, key, settings) as device, _served(home, device, settings.api_port) as page:
        from client.agent import run  # noqa: PLC0415 - flwr: the person is served while it is imported

        agent = _agent(home, key, settings, device)
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
    settings = read_settings(home)
    from client.agent import run  # noqa: PLC0415 - as above

    with alone(home), _device(home, key, settings) as device:
        agent = _agent(home, key, settings, device)
        run(agent, until=agent.clock() + seconds)
    return agent.reached


def _agent(home: Home, key: bytes, settings: Settings, device: Device) -> Agent:
    from client.agent import Agent  # noqa: PLC0415 - as above

    return Agent(home, settings, key, lambda: _purge(home, device, settings.ttl_days), device.rehearse)


@contextmanager
def _device(home: Home, key: bytes, settings: Settings) -> Iterator[Device]:
    device = open_device(home, key, learn=settings.adapt)
    try:
        yield device
    finally:
        device.close()


def _purge(home: Home, device: Device, ttl_days: int) -> None:
    gone = device.purge(ttl_days)
    if gone:
        log(home, "purged", events=gone, older_than_days=ttl_days)


def _stopper(agent: Agent) -> Callable[[int, FrameType | None], None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        agent.stop.set()

    return stop


@contextmanager
def _served(home: Home, device: Device, port: int) -> Iterator[str]:
    """The local API in a thread of its own, until the block ends; its page's address, "" = none is wanted."""
    if not port:
        yield ""
        return
    from client.api import api_server, listening_on, make_api  # noqa: PLC0415 - FastAPI is not needed without it

    token = home.token.read_text(encoding="ascii").strip()
    try:
        listening = listening_on(port)
    except OSError as error:
        raise ConfigError(f"port {port}: {error.strerror}; set another api_port in {home.settings}") from error
    with listening:
        server = api_server(make_api(device, home, token, port))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        rehearsal = threading.Thread(target=_rehearse, args=(device, port, token), daemon=True)
        thread.start()
        rehearsal.start()
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            rehearsal.join()  # before the device is closed
            server.should_exit = True
            thread.join(5)


def _rehearse(device: Device, port: int, token: str) -> None:
    """So that a person's first request waits for nothing that is read or imported only then."""
    with suppress(FedrecallError, OSError, http.client.HTTPException):
        device.rehearse()
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        line.request("GET", "/v1/status", headers={"Authorization": f"Bearer {token}"})
        line.getresponse().read()
        line.close()
