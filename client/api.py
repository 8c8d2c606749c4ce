"""The local API: what a person's own programs, and the page in their browser, may ask of this device.

HTTP on 127.0.0.1 with a token; ``client/api_guard.py`` says who is let in. Answers hold what the device holds, so they
are for this person alone: nothing here is ever asked by a server. Errors are ``{"error": one sentence}``.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Final

import uvicorn
from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException

from client.account import Budget, Left
from client.answers import Answer, Explained, Wish
from client.api_guard import guarded
from client.api_messages import ConsentSaid, ItemId, Recorded, SaidEvents, Status, ToForget
from client.behaviour import LONGEST_ID, Behaviour
from client.consent import Consent, write_consent
from client.device import Device
from client.forgetting import Receipt
from client.home import Home
from client.importing import export
from client.privacy_view import budget, consent_of, left
from client.vault_file import BusyError
from shared.config import validate
from shared.errors import ConfigError, DataError, FedrecallError

SHORTEST_TOKEN: Final = 32  # characters
SKEW: Final = 86_400.0  # seconds that an event may be ahead of this device's clock
_PAGE: Final = Path(__file__).parent / "page"
_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/parts.js": ("parts.js", "text/javascript; charset=utf-8"),
    "/words.js": ("words.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


@dataclass(frozen=True)
class Local:
    """What every request is answered from.

    Attributes:
        device, home: the device and its folder.
        now: unix seconds.
        writing: held while consent is changed.
    """

    device: Device
    home: Home
    now: Callable[[], float]
    writing: Lock = field(default_factory=Lock)

    @property
    def today(self) -> date:
        """By this machine's clock, in UTC, as the gate counts."""
        return datetime.fromtimestamp(self.now(), UTC).date()


async def _local(request: Request) -> Local:
    local: Local = request.app.state.local
    return local


Own = Annotated[Local, Depends(_local)]
router = APIRouter(prefix="/v1")


@router.post("/events", status_code=201)
def post_events(own: Own, said: SaidEvents) -> Recorded:
    """Store what the person did; the next recommendation knows it."""
    latest = own.now() + SKEW
    behaviours = [
        Behaviour(
            item=event.item,
            kind=event.kind,
            time=own.now() if event.time is None else event.time,
            dwell=event.dwell,
            rating=math.nan if event.rating is None else event.rating,
        )
        for event in said.events
    ]
    late = next((number for number, one in enumerate(behaviours) if one.time > latest), None)
    if late is not None:
        raise HTTPException(422, f"events.{late}.time: more than a day ahead of this device's clock")
    return Recorded(own.device.record(behaviours))


@router.get("/recommendations")
def get_recommendations(
    own: Own,
    k: Annotated[int | None, Query(ge=1, le=1000, description="how many; none = what the policy says")] = None,
    category: Annotated[tuple[str, ...], Query(description="only items of at least one of these")] = (),
    available: Annotated[bool, Query(description="only what can be had")] = True,
    include_seen: Annotated[bool, Query(description="what was seen, too")] = False,
    still_allowed: Annotated[tuple[str, ...], Query(description="seen items that may come again")] = (),
    diversity: Annotated[float | None, Query(ge=0, le=1, description="none = what the policy says")] = None,
    similar_to: Annotated[str | None, Query(max_length=LONGEST_ID, description="items like this one")] = None,
    explore: Annotated[bool, Query(description="leave places to chance where the policy does")] = True,
) -> Answer:
    """A list for this person, best first; where it starts and why is said in ``why``."""
    return own.device.recommend(
        Wish(
            k=k,
            categories=category,
            available_only=available,
            exclude_seen=not include_seen,
            still_allowed=still_allowed,
            diversity=diversity,
            similar_to=similar_to,
            explore=explore,
        )
    )


@router.get("/items/{item:path}/explanation")
def get_explanation(own: Own, item: ItemId) -> Explained:
    """Why an item is, or would be, on this person's list."""
    try:
        return own.device.explain(item)
    except BusyError:
        raise
    except DataError as error:
        raise HTTPException(404, str(error)) from error


@router.get("/budget")
def get_budget(own: Own) -> Budget:
    """Epsilon spent: a round, a period, for life; of which unit, against whom, at which delta, by which accountant."""
    return budget(own.home, own.today)


@router.get("/left")
def get_left(own: Own, last: Annotated[int, Query(ge=1, le=100_000)] = 1000) -> Left:
    """What left this device and when, and what it declined and why; newest first."""
    whole = left(own.home)
    return Left(whole.released[:last], whole.declined[:last])


@router.get("/consent")
def get_consent(own: Own) -> ConsentSaid:
    """What the person allows."""
    return ConsentSaid(*consent_of(own.home))


@router.put("/consent")
def put_consent(own: Own, changes: Annotated[dict[str, Any], Body(description="clause: new value")]) -> ConsentSaid:
    """Change the clauses that are named and no other: what is not named never falls back to a default."""
    with own.writing:
        consent, why_not = consent_of(own.home)
        if consent is None and own.home.consent.exists():
            raise HTTPException(409, f"{why_not} (nothing is taken part in; correct the file, or delete it)")
        # Where there is none, nothing was agreed to: a clause alone must not switch anything on.
        changed = validate(Consent, (consent or Consent(enabled=False)).model_dump() | changes, "consent")
        write_consent(changed, own.home.consent)
    return ConsentSaid(changed, "")


@router.post("/forget")
def post_forget(own: Own, said: ToForget) -> Receipt:
    """Forget, and prove it. What models learned within epsilon stays, and so does the ledger of what left."""
    return own.device.forget(items=said.items, before=said.before)


@router.get("/export")
def get_export(own: Own) -> JSONResponse:
    """Everything about this person in one JSON document (GDPR, articles 15 and 20), not encrypted any more."""
    content = export(own.device.vault, own.home)
    return JSONResponse(content, headers={"content-disposition": 'attachment; filename="fedrecall-export.json"'})


@router.get("/status")
def get_status(own: Own) -> Status:
    """How the device stands."""
    consent, _ = consent_of(own.home)
    taking_part = consent is not None and consent.enabled
    return Status(taking_part, own.device.status(), own.device.stored())


def make_api(
    device: Device,
    home: Home,
    token: str,
    port: int,
    *,
    now: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """The local API of one device, guarded.

    Args:
        device, home: the device and its folder.
        token: what a caller must send as ``Authorization: Bearer``; at least ``SHORTEST_TOKEN`` characters.
        port: that it is reached at on 127.0.0.1.
        now: unix seconds.
        clock: seconds, for the rate.

    Raises:
        ConfigError: a token that could be guessed.
    """
    if len(token) < SHORTEST_TOKEN or not token.isascii():
        raise ConfigError(f"the API's token: expected at least {SHORTEST_TOKEN} ASCII characters, got {len(token)}")
    # No page of documentation: those that FastAPI brings load their scripts from elsewhere.
    api = FastAPI(title="fedrecall, this device", version="1", docs_url=None, redoc_url=None)
    api.state.local = Local(device, home, now)
    api.include_router(router)
    for path, (name, kind) in _FILES.items():
        api.add_api_route(path, _constant((_PAGE / name).read_bytes(), kind), include_in_schema=False)
    for error, status in _STATUS.items():
        api.add_exception_handler(error, _told(status))
    api.add_middleware(guarded, port=port, token=token, open_paths=frozenset(_FILES), clock=clock)
    return api


def listening_on(port: int) -> socket.socket:
    """A socket for :func:`api_server`: on 127.0.0.1, which no other machine reaches.

    Args:
        port: 0 = any free one.

    Raises:
        OSError: the port is taken.
    """
    listening = socket.create_server(("127.0.0.1", port))
    # Inherited by every connection. Without it head and body of an answer wait for each other: 40 ms on Linux.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def api_server(api: FastAPI) -> uvicorn.Server:
    """A server for the API: ``.run(sockets=[listening_on(port)])``, in a thread; it says and logs nothing.

    Args:
        api: as :func:`make_api` gives it.
    """
    return uvicorn.Server(
        uvicorn.Config(
            api,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=64,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=3,
        )
    )


def _constant(content: bytes, kind: str) -> Callable[[], Response]:
    """An endpoint that always answers the same file: no path of a request is ever looked up on disk."""

    def file() -> Response:
        return Response(content, media_type=kind)

    return file


def _told(status: int) -> Callable[[Request, Exception], JSONResponse]:
    def told(_request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, AnyHTTPException):
            return JSONResponse({"error": error.detail}, error.status_code)
        if isinstance(error, RequestValidationError):
            return JSONResponse({"error": "; ".join(map(_sentence, error.errors()))}, status)
        return JSONResponse({"error": str(error)}, status)

    return told


def _sentence(problem: Mapping[str, Any]) -> str:
    """One problem of a request: where, and what would be right."""
    where = ".".join(str(part) for part in problem["loc"][1:]) or "body"
    return f"{where}: {str(problem['msg'])[:1].lower()}{str(problem['msg'])[1:]}"


_STATUS: Final[Mapping[type[Exception], int]] = {
    AnyHTTPException: 500,  # says its own
    RequestValidationError: 422,
    ConfigError: 422,
    BusyError: 503,  # another process is at the vault; nothing was stored, and the same may be asked again
    DataError: 422,
    FedrecallError: 500,
    OSError: 507,  # the disk refuses; nothing was stored
}
