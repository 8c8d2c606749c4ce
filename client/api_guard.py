"""Who may talk to the local API: pure ASGI, in front of everything else.

Any page that a browser on this machine shows can send requests to a loopback port, so being local proves nothing. In
this order, and each refusal says its reason and nothing else:

1. ``Host`` is this API's own: a name that an attacker points at 127.0.0.1 is not (DNS rebinding);
2. ``Origin``, where there is one, is this API's own, and the browser does not say that another site asks (CSRF);
3. the token, on every path but the page's own files, compared in constant time;
4. a token bucket, one for who has the token and one for everybody else, so that nobody can lock the owner out;
5. JSON alone, which no form can send (a browser asks before, and nothing here answers that question);
6. a body of at most ``LARGEST`` bytes, read whole before anything looks at it.

Every answer forbids framing, sniffing, caching and foreign content. No CORS header is ever sent.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST: Final = 1 << 20  # bytes of a body: some ten thousand events
RATE: Final = 20.0  # requests a second, on average
BURST: Final = 100.0  # requests at once
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
_OWN_SITE: Final = (b"same-origin", b"none")  # of Sec-Fetch-Site; "none" = the person typed the address
_CLOSED: Final = 1008  # a WebSocket's policy violation


@dataclass
class Bucket:
    """A token bucket. Not frozen: it fills and empties.

    Attributes:
        clock: seconds, never going back.
        level: requests that may come now.
    """

    clock: Callable[[], float]
    level: float = BURST

    def __post_init__(self) -> None:
        self.last = self.clock()

    def take(self) -> float:
        """Take one; 0.0 = granted, otherwise the seconds until there is one."""
        now = self.clock()
        self.level = min(BURST, self.level + (now - self.last) * RATE)
        self.last = now
        if self.level < 1.0:
            return (1.0 - self.level) / RATE
        self.level -= 1.0
        return 0.0


@dataclass(frozen=True)
class Refusal:
    """An answer of the guard itself."""

    status: int
    reason: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


def guarded(app: ASGIApp, *, port: int, token: str, open_paths: Collection[str], clock: Callable[[], float]) -> ASGIApp:
    """The application behind the guard.

    Args:
        app: what is guarded.
        port: that the API is reached at, on 127.0.0.1 or localhost.
        token: what who may ask sends as ``Authorization: Bearer``.
        open_paths: the page's own files, which hold nothing of anybody and need no token.
        clock: seconds, for the rate.
    """
    hosts = frozenset(f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost"))
    expected = f"Bearer {token}".encode()
    known, unknown = Bucket(clock), Bucket(clock)

    def refusal(scope: Scope, headers: Mapping[bytes, list[bytes]]) -> Refusal | None:
        away = _elsewhere(headers, hosts)
        if away is not None:
            return Refusal(403, away)
        given = headers.get(b"authorization", [])
        allowed = len(given) == 1 and hmac.compare_digest(given[0], expected)
        wait = (known if allowed else unknown).take()
        if wait:
            return Refusal(429, "too many requests", ((b"retry-after", b"%d" % (int(wait) + 1)),))
        if scope["path"] not in open_paths and not allowed:
            return Refusal(401, "the token is missing or wrong", ((b"www-authenticate", b"Bearer"),))
        return _unreadable(scope["method"], headers)

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
        elif scope["type"] == "http":
            headers = _by_name(scope)
            refused = refusal(scope, headers)
            body = None if refused else await _whole(receive)
            if body is None:
                await _answer(_hardened(send), refused or Refusal(413, f"a body of more than {LARGEST} bytes"))
            else:
                await _passed_on(app, scope, _again(body, receive), _hardened(send))
        else:
            await send({"type": "websocket.close", "code": _CLOSED})

    return guard


async def _passed_on(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """What nobody foresaw is answered without a word of the code, then raised: this side's log tells."""
    begun = False

    async def noted(message: Message) -> None:
        nonlocal begun
        begun = True
        await send(message)

    try:
        await app(scope, receive, noted)
    except Exception:
        if not begun:
            await _answer(send, Refusal(500, "something went wrong on this device"))
        raise


def _by_name(scope: Scope) -> dict[bytes, list[bytes]]:
    out: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        out.setdefault(name.lower(), []).append(value)
    return out


def _elsewhere(headers: Mapping[bytes, list[bytes]], hosts: Collection[bytes]) -> str | None:
    """Why a request was not meant for this API or not sent by its own page; None = nothing says so."""
    host = headers.get(b"host", [])
    if len(host) != 1 or host[0] not in hosts:
        return "this is not the host that was asked for"
    if headers.get(b"origin", [b"http://" + host[0]]) != [b"http://" + host[0]]:
        return "another origin may not ask"
    # A link from another site may open the page (it holds nothing); nothing else may be asked from there.
    linked = headers.get(b"sec-fetch-mode") == [b"navigate"] and headers.get(b"sec-fetch-dest") == [b"document"]
    if not linked and headers.get(b"sec-fetch-site", [b"none"])[0] not in _OWN_SITE:
        return "another site may not ask"
    return None


def _unreadable(method: str, headers: Mapping[bytes, list[bytes]]) -> Refusal | None:
    if method in ("GET", "HEAD"):
        return None
    kind = b",".join(headers.get(b"content-type", [])).lower().replace(b" ", b"")
    if kind not in (b"application/json", b"application/json;charset=utf-8"):
        return Refusal(415, "the content type must be application/json")
    length = headers.get(b"content-length", [b"0"])[0]
    if not length.isdigit() or int(length[:20]) > LARGEST:
        return Refusal(413, f"a body of more than {LARGEST} bytes")
    return None


async def _whole(receive: Receive) -> bytes | None:
    """The whole body, or None where it is too large or the other side has gone."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LARGEST:
            return None
    return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Give out a body that was read already, once, then whatever comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again


def _hardened(send: Send) -> Send:
    """Add what every answer says to a browser."""
    said = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def send_hardened(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *said]}
        await send(message)

    return send_hardened


async def _answer(send: Send, refusal: Refusal) -> None:
    body = json.dumps({"error": refusal.reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *refusal.headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
