"""The operator API: HTTPS on loopback, a token a person, a role a token. Only ``fedrecall-server`` is meant to call it.

Nothing of it is reachable through the proxy. A request that names another host (DNS rebinding), or that a web page sent
(it has an Origin), is refused before its token is looked at; so is one with a large body, or of another type than JSON.
``/health`` alone needs no token, and tells whether, not what.
"""
# No `from __future__ import annotations` here: FastAPI reads the annotations of functions made in a function.

import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, NoReturn

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as AnyHTTPException  # FastAPI's own is one of these

from server.enrolling import approve, invite, read_clients, read_invitations, revoke, standing_of, withdraw
from server.house import House
from server.metrics import CONTENT_TYPE, Vitals, exposition, facts_of, ready, system_now
from server.operators import Operator, Role, changing, may, operator_of
from server.oversight import place_order
from shared.enrolment import request_from_dict
from shared.errors import DataError, FedrecallError, RunError
from shared.files import write_atomically
from shared.keys import own_key
from shared.policy.orders import OrderKind, order_to_dict
from shared.privacy.ledger import public_hex

LARGEST_BODY: Final = 1 << 16  # bytes
TRIES: Final = 20  # bad tokens at once, and one more a second: more would flood the log, guessing is hopeless anyway
_LOG: Final = logging.getLogger("fedrecall.server.operators")
_ROLE_OF: Final[dict[OrderKind, Role]] = {
    "approve": "approve",
    "reject": "approve",
    "rollback": "approve",
    "thaw": "approve",
    "freeze": "run",  # the brake: who runs a server may stop what moves by itself
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class InviteBody(_Body):
    """Of an invitation."""

    days: int = Field(14, ge=1, le=365)


class OrderBody(_Body):
    """Of an order about the policy."""

    kind: OrderKind
    why: str = Field("", max_length=500)
    proposal: str | None = Field(None, max_length=40)
    version: int | None = Field(None, ge=1)


@dataclass
class Door:
    """Who comes in; counts who does not. Not frozen: it counts."""

    house: House
    refused: int = 0
    _left: float = float(TRIES)
    _seen: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def operator(self, authorization: str) -> Operator:
        """Whose token a request carries.

        Raises:
            HTTPException: 401 nobody's; 429 nobody's, and too many of those.
        """
        scheme, _, token = authorization.partition(" ")
        known = operator_of(self.house, token.strip()) if scheme.lower() == "bearer" else None
        if known is None:
            self._turn_away()
        return known

    def _turn_away(self) -> NoReturn:
        with self._lock:
            self.refused += 1
            now = time.monotonic()
            self._left, self._seen = min(float(TRIES), self._left + now - self._seen), now
            if self._left < 1:
                raise HTTPException(429, "too many requests without a good token; wait a second")
            self._left -= 1
        _LOG.warning("a request without a good token was refused")
        raise HTTPException(401, "no operator has this token; see fedrecall-server operator list")


def make_operator_api(
    house: House,
    vitals: Callable[[], Vitals],
    settle: Callable[[], int],
    clock: Callable[[], datetime] = system_now,
) -> FastAPI:
    """The application.

    Args:
        house: the server's.
        vitals: what the supervisor knows of its processes.
        settle: makes the SuperLink know who is enrolled (``server/enrolling.py``).
        clock: the time, with its zone.
    """
    app = FastAPI(title="fedrecall operator API", docs_url=None, redoc_url=None, openapi_url=None)
    door = Door(house)
    service = house.config().service
    hosts = {f"{name}:{service.operator_port}" for name in ("127.0.0.1", "localhost", "[::1]")}

    @app.middleware("http")
    async def guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        why = _refused(request, hosts)
        if why is not None:
            return JSONResponse({"error": why[1]}, why[0])
        response = await go_on(request)
        response.headers["Cache-Control"] = "no-store"
        return response

    _say_errors(app)
    _add_looks(app, house, vitals, door, clock, open_metrics=service.open_metrics)
    _add_brakes(app, house, vitals, door, clock)
    _add_enrolment(app, house, settle, door, clock)
    return app


def make_operator_server(app: FastAPI, house: House) -> uvicorn.Server:
    """The application behind the house's certificate; the caller runs it, and ends it by ``should_exit``."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=house.config().service.operator_port,
        ssl_certfile=house.certificate,
        ssl_keyfile=house.certificate_key,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=64,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def _refused(request: Request, hosts: set[str]) -> tuple[int, str] | None:
    """Why a request is refused whoever sends it, with its HTTP status; None = it is not."""
    if request.headers.get("host", "").lower() not in hosts:
        return 421, "this API answers to 127.0.0.1 and localhost at its own port, and to no other host"
    if "origin" in request.headers:
        return 403, "this API is not for web pages"
    if request.method == "POST":
        length = request.headers.get("content-length", "")
        # Where a body comes in chunks its length is whatever comes, whatever else is said.
        said = re.fullmatch(r"[0-9]{1,9}", length) is not None and "transfer-encoding" not in request.headers
        if not said or int(length) > LARGEST_BODY:
            return 413, f"a body of at most {LARGEST_BODY} bytes, of a length said before"
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return 415, "a body of type application/json"
    return None


def _say_errors(app: FastAPI) -> None:
    """Errors as ``{"error": sentence}``."""

    @app.exception_handler(FedrecallError)
    async def told(_request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 409)

    @app.exception_handler(AnyHTTPException)
    async def said(_request: Request, error: Exception) -> Response:
        status, detail = (error.status_code, error.detail) if isinstance(error, AnyHTTPException) else (500, "")
        return JSONResponse({"error": detail}, status)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: Exception) -> Response:
        problems = error.errors() if isinstance(error, RequestValidationError) else []
        where = [".".join(str(part) for part in problem["loc"]) + f": {problem['msg']}" for problem in problems]
        return JSONResponse({"error": "; ".join(where)}, 422)


def _needs(door: Door, role: Role) -> Callable[..., Operator]:
    """A dependency: the operator who asks, if the role is theirs."""

    def asker(authorization: Annotated[str, Header()] = "") -> Operator:
        operator = door.operator(authorization)
        if not may(operator, role):
            raise HTTPException(403, f"operator {operator.name} has role {operator.role}; this takes {role}")
        return operator

    return asker


def _add_looks(
    app: FastAPI,
    house: House,
    vitals: Callable[[], Vitals],
    door: Door,
    clock: Callable[[], datetime],
    *,
    open_metrics: bool,
) -> None:
    view = [Depends(_needs(door, "view"))]

    @app.get("/health")
    def health() -> Response:
        now_ready = ready(vitals())
        return JSONResponse({"live": True, "ready": now_ready}, 200 if now_ready else 503)

    @app.get("/metrics", dependencies=[] if open_metrics else view)
    def metrics() -> Response:
        facts = facts_of(house, vitals(), door.refused, clock())
        return Response(exposition(facts), media_type=CONTENT_TYPE)

    @app.get("/v1/status", dependencies=view)
    def status() -> dict[str, Any]:
        return facts_of(house, vitals(), door.refused, clock()).to_dict()

    @app.get("/v1/invitations", dependencies=view)
    def invitations() -> list[dict[str, Any]]:
        clients, now = read_clients(house), clock()
        return [
            {"invitation": each.id, "expires": each.expires, "by": each.by, "stands": standing_of(each, clients, now)}
            for each in read_invitations(house)
        ]

    @app.get("/v1/clients", dependencies=view)
    def clients() -> list[dict[str, Any]]:
        return [asdict(client) for client in read_clients(house)]

    @app.get("/v1/keys", dependencies=view)
    def keys() -> dict[str, Any]:
        return {
            "server": public_hex(own_key(house.ledger_key)),
            "clients": {client.name: client.identity for client in read_clients(house)},
        }


def _add_brakes(
    app: FastAPI, house: House, vitals: Callable[[], Vitals], door: Door, clock: Callable[[], datetime]
) -> None:
    run = _needs(door, "run")

    @app.post("/v1/pause")
    def pause(operator: Annotated[Operator, Depends(run)]) -> dict[str, Any]:
        with changing(house):
            if house.paused.exists():
                raise RunError("paused already")
            write_atomically(house.paused, f"{operator.name} {clock().isoformat(timespec='seconds')}\n".encode())
        _LOG.info("%s paused the rounds", operator.name)
        return {"paused": True}

    @app.post("/v1/unpause")
    def unpause(operator: Annotated[Operator, Depends(run)]) -> dict[str, Any]:
        with changing(house):
            if not house.paused.exists():
                raise RunError("not paused")
            house.paused.unlink()
        _LOG.info("%s let the rounds go on", operator.name)
        return {"paused": False}

    @app.post("/v1/begin")
    def begin(operator: Annotated[Operator, Depends(run)]) -> dict[str, Any]:
        with changing(house):
            if facts_of(house, vitals(), door.refused, clock()).stopped is None:
                raise RunError("a run goes on, or is about to; the next one begins when it has ended")
            write_atomically(house.begin, f"{operator.name} {clock().isoformat(timespec='seconds')}\n".encode())
        _LOG.info("%s asked for the next run", operator.name)
        return {"begins": True}

    @app.post("/v1/orders")
    def order(body: OrderBody, operator: Annotated[Operator, Depends(run)]) -> dict[str, Any]:
        needed = _ROLE_OF[body.kind]
        if not may(operator, needed):
            raise HTTPException(403, f"operator {operator.name} has role {operator.role}; {body.kind} takes {needed}")
        current = vitals().run
        if not current:
            raise RunError("no run has begun yet, so there is no policy to order")
        given, ruling, _ = place_order(
            house.runs / current,
            body.kind,
            who=operator.name,
            why=body.why,
            now=clock(),
            proposal=body.proposal,
            version=body.version,
        )
        _LOG.info("%s ordered: %s (%s)", operator.name, body.kind, given.id)
        return {"order": order_to_dict(given), "expected": ruling.reason}


def _add_enrolment(
    app: FastAPI, house: House, settle: Callable[[], int], door: Door, clock: Callable[[], datetime]
) -> None:
    run, approver = _needs(door, "run"), _needs(door, "approve")

    @app.post("/v1/invitations")
    def make(body: InviteBody, operator: Annotated[Operator, Depends(run)]) -> dict[str, Any]:
        made = invite(house, operator.name, body.days, clock())
        _LOG.info("%s made invitation %s", operator.name, made.invitation)
        return asdict(made)

    @app.post("/v1/invitations/{invitation}/withdraw")
    def take_back(invitation: str, operator: Annotated[Operator, Depends(run)]) -> dict[str, Any]:
        withdraw(house, invitation, operator.name)
        _LOG.info("%s withdrew invitation %s", operator.name, invitation)
        return {"withdrawn": invitation}

    @app.post("/v1/clients")
    def let_in(body: dict[str, Any], operator: Annotated[Operator, Depends(approver)]) -> dict[str, Any]:
        made = approve(house, request_from_dict(body, "request"), operator.name, clock())
        _LOG.info("%s let client %s in", operator.name, made.name)
        return {"client": made.name, "settled": _settled(settle)}

    @app.post("/v1/clients/{name}/revoke")
    def shut_out(name: str, operator: Annotated[Operator, Depends(run)]) -> dict[str, Any]:
        gone = revoke(house, name, operator.name, clock())
        _LOG.warning("%s revoked client %s", operator.name, gone.name)
        return {"client": gone.name, "settled": _settled(settle)}


def _settled(settle: Callable[[], int]) -> bool:
    """Whether the SuperLink knows already; if it does not answer, the supervisor tells it later."""
    try:
        settle()
    except (RunError, DataError) as error:
        _LOG.warning("the SuperLink will hear of a change later: %s", error)
        return False
    return True
