"""One line to one host over HTTPS: signed calls, each bounded in bytes and seconds, whatever the host answers.

Nothing of a response is followed, unpacked or kept but its body and its ``Date``: no redirect, no compression (a small
answer could fill the memory), no cookie (a host could fill the memory with them, too, and know a device by them).

Clocks: a device's may be wrong, so the host's ``Date`` is what is signed; the gate's day stays the device's own.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final
from weakref import WeakSet

import httpx

from shared.errors import FedrecallError

LONGEST_CALL: Final = 300.0  # seconds; longer, and the host only holds the line
_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)  # seconds without a byte
_LARGEST_SKEW: Final = 86_400.0  # seconds; a clock that is further off is to be set, not followed
_UNSURE: Final = 2.0  # seconds: ``Date`` has whole ones, and is as old as its way here


class LinkError(FedrecallError):
    """The server cannot be reached, or makes no sense; worth another try later."""


@dataclass
class Line:
    """One line. Not frozen: it learns the host's clock, and which sockets it has.

    Attributes:
        http: the client, of this host's authority alone.
        address: host:port.
        headers: what every call says, signed for the time that is given.
        clock: this side's seconds since 1970.
        ahead: seconds that the host's clock is ahead of this one.
        sockets: that are open.
    """

    http: httpx.Client
    address: str
    headers: Callable[[datetime], Mapping[str, str]]
    clock: Callable[[], float]
    ahead: float = 0.0
    sockets: WeakSet[socket.socket] = field(default_factory=WeakSet)

    def now(self) -> float:
        """Seconds since 1970, as the host has them."""
        return self.clock() + self.ahead


@contextmanager
def line(
    address: str, authority: str, headers: Callable[[datetime], Mapping[str, str]], clock: Callable[[], float]
) -> Iterator[Line]:
    """A line until the block ends; nothing is sent yet.

    Args:
        address: host:port.
        authority: PEM certificate that the host's is signed with; no other is believed.
        headers: see :class:`Line`.
        clock: seconds since 1970.
    """
    context = ssl.create_default_context(cadata=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    # The environment names no proxy here: what a device trusts is in its own folder.
    with httpx.Client(verify=context, timeout=_TIMEOUT, trust_env=False, cookies=cookies) as http:
        yield Line(http, address, headers, clock)


def post(made: Line, path: str, content: bytes, most: int) -> tuple[int, bytes, bool]:
    """One call.

    Args:
        made: the line.
        path: without a slash before it.
        content: what is sent.
        most: bytes that the answer may have.

    Returns:
        Status, body, and whether the host's clock turned out to be another than was thought.

    Raises:
        LinkError: no answer, a longer one, or one that is packed; or the host's clock cannot be followed.
    """
    body = bytearray()
    cut = threading.Timer(LONGEST_CALL, _cut, [made])  # it may dribble, or send headers without end
    cut.daemon = True
    cut.start()
    try:
        headers = {"accept-encoding": "identity", **made.headers(datetime.fromtimestamp(made.now(), UTC))}
        told = {"trace": _remember_socket(made)}
        url = f"https://{made.address}/{path}"
        with made.http.stream("POST", url, content=content, headers=headers, extensions=told) as answered:
            if answered.headers.get("content-encoding", "identity") != "identity":
                raise LinkError(f"{path}: a packed answer, which was not asked for")
            for chunk in answered.iter_raw():
                body += chunk
                if len(body) > most:
                    raise LinkError(f"{path}: more than {most} bytes")
            return answered.status_code, bytes(body), _learn(made, answered.headers.get("date"))
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
        raise LinkError(f"{made.address}: {type(error).__name__}: {error}"[:300]) from error
    finally:
        cut.cancel()


def pause_until(stop: threading.Event, wait: float, until: float) -> bool:
    """Wait before another try; whether there is time for one, by the monotonic clock."""
    return time.monotonic() + wait < until and not stop.wait(wait)


def _remember_socket(made: Line) -> Callable[[str, Mapping[str, Any]], None]:
    def trace(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.start_tls.complete":
            made.sockets.add(info["return_value"].get_extra_info("socket"))

    return trace


def _cut(made: Line) -> None:
    """End whatever is being waited for; the wait becomes an error."""
    for each in list(made.sockets):
        with suppress(OSError):
            socket.socket.shutdown(each, socket.SHUT_RDWR)  # not TLS's own, which would wait for the host


def _learn(made: Line, date: str | None) -> bool:
    """Take the host's time from a response; whether it changed what was thought of it."""
    try:
        ahead = parsedate_to_datetime(date or "").timestamp() - made.clock()
    except (ArithmeticError, ValueError, TypeError):
        return False
    ahead = 0.0 if abs(ahead) <= _UNSURE else ahead
    if abs(ahead) > _LARGEST_SKEW:
        raise LinkError(f"this device's clock is {abs(ahead) / 86_400:.1f} days off the server's: set it")
    changed = abs(ahead - made.ahead) > _UNSURE
    if changed:
        made.ahead = ahead
    return changed
