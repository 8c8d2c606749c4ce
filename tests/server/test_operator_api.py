"""The operator API: who may do what, and what is refused whoever asks. Once for real, over TLS."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
from starlette.testclient import TestClient

from server import operator_api
from server.aggregation import OptimizerState
from server.checkpoint import State, save_state
from server.enrolling import read_clients
from server.metrics import Vitals
from server.operator_api import LARGEST_BODY, TRIES, make_operator_api, make_operator_server
from server.operator_client import ask, call, credential_at
from server.operators import Credential, add_operator, remove_operator
from server.oversight import LEDGER, read_order
from server.promise import plan_of
from shared.config import PolicySection, first_policy
from shared.enrolment import pass_from_dict
from shared.errors import ConfigError, RunError
from shared.keys import own_key
from shared.policy.control import memory_to_dict
from shared.policy.memory import Memory
from shared.policy.orders import propose
from shared.privacy.ledger import create_ledger
from shared.privacy.plan import plan_to_dict

POLICY = first_policy(PolicySection())
MEMORY = Memory(POLICY)
PENDING = propose(2, POLICY, replace(POLICY, version=2, depth=300), memory_to_dict(MEMORY), "move", "coverage is low")
VITALS = Vitals({"superlink": True}, {}, 0, "run-1", "")
LOOKS = ("/metrics", "/v1/status", "/v1/clients", "/v1/invitations", "/v1/keys")
RUNS = (
    ("/v1/pause", {}),
    ("/v1/begin", {}),
    ("/v1/invitations", {}),
    ("/v1/orders", {"kind": "freeze"}),
    ("/v1/clients/0000/revoke", {}),
    ("/v1/invitations/0000/withdraw", {}),
)
APPROVES = (
    ("/v1/orders", {"kind": "approve"}),
    ("/v1/orders", {"kind": "reject"}),
    ("/v1/orders", {"kind": "thaw"}),
    ("/v1/orders", {"kind": "rollback", "version": 1}),
    ("/v1/clients", {}),
)


def close_round(house, **changes):
    """A run that has closed a round, with a proposal that waits."""
    folder, nothing = house.runs / "run-1", np.zeros(3, np.float32)
    folder.mkdir(exist_ok=True)
    if not (folder / LEDGER).exists():
        plan = plan_of(house.config(), {"update": 3, "profile": 0})
        first = {"kind": "deployment", "plan": plan_to_dict(plan)}
        create_ledger(folder / LEDGER, own_key(house.ledger_key), first).close()
    state = State(2, nothing, OptimizerState(0, nothing, nothing), nothing, POLICY, MEMORY, pending=PENDING)
    save_state(replace(state, ledgers={LEDGER: 1}, **changes), folder / "checkpoint.safetensors")


@pytest.fixture
def door(house, now):
    """The API without TLS, and a token a role."""
    close_round(house)
    app = make_operator_api(house, lambda: VITALS, lambda: 0, lambda: now)
    client = TestClient(app, base_url=f"https://127.0.0.1:{house.config().service.operator_port}")
    client.tokens = {role: add_operator(house, role, role, now).token for role in ("view", "run", "approve")}
    return client


def as_(door, role):
    return {"Authorization": f"Bearer {door.tokens[role]}"}


def post(door, role, path, body):
    return door.post(path, json=body, headers=as_(door, role))


# --- who may


@pytest.mark.parametrize("path", LOOKS)
@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer "}, {"Authorization": "Bearer wrong"}])
def test_without_a_token_nothing_is_told(path, header, door):
    answer = door.get(path, headers=header)
    assert answer.status_code == 401
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("scheme", ["Basic ", "bearer", "Bearer\t", ""])
def test_a_token_counts_as_a_bearer_token_alone(scheme, door):
    assert door.get("/v1/status", headers={"Authorization": f"{scheme}{door.tokens['view']}"}).status_code == 401


@pytest.mark.parametrize("header", [b"B\xe4arer x", b"Bearer \xff\xfe", b"Bearer " + b"a" * 8000])
def test_a_token_of_strange_bytes_is_nobodys(header, door):
    assert door.get("/v1/status", headers=[(b"authorization", header)]).status_code == 401


@pytest.mark.parametrize("path", LOOKS)
def test_every_role_may_look(path, door):
    for role in door.tokens:
        assert door.get(path, headers=as_(door, role)).status_code == 200


@pytest.mark.parametrize(("path", "body"), RUNS)
def test_who_looks_may_not_run(path, body, door):
    answer = post(door, "view", path, body)
    assert answer.status_code == 403
    assert answer.json() == {"error": "operator view has role view; this takes run"}
    for role in ("run", "approve"):
        assert post(door, role, path, body).status_code != 403


@pytest.mark.parametrize(("path", "body"), APPROVES)
def test_who_runs_may_not_approve(path, body, door):
    for role in ("view", "run"):
        assert post(door, role, path, body).status_code == 403
    assert post(door, "approve", path, body).status_code != 403


def test_a_removed_operator_is_out_at_once(door, house):
    remove_operator(house, "run")
    assert post(door, "run", "/v1/pause", {}).status_code == 401


def test_guessing_is_slowed_down_and_counted_and_locks_nobody_out(door, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(operator_api.time, "monotonic", lambda: clock[0])
    wrong = {"Authorization": "Bearer wrong"}
    app = TestClient(door.app, base_url=str(door.base_url))
    codes = [app.get("/v1/status", headers=wrong).status_code for _ in range(TRIES + 5)]
    assert codes.count(401) <= TRIES
    assert codes[-1] == 429
    assert app.get("/v1/status", headers=as_(door, "view")).status_code == 200
    told = app.get("/metrics", headers=as_(door, "view")).text
    assert f"fedrecall_operator_refused_total {TRIES + 5}.0" in told
    clock[0] = 1e6
    assert app.get("/v1/status", headers=wrong).status_code == 401


def test_health_tells_whether_and_nothing_else(house, now):
    for alive, status in ((True, 200), (False, 503)):
        vitals = replace(VITALS, alive={"superlink": alive})
        app = make_operator_api(house, lambda vitals=vitals: vitals, lambda: 0, lambda: now)
        answer = TestClient(app, base_url="https://localhost:9444").get("/health")
        assert answer.status_code == status
        assert answer.json() == {"live": True, "ready": alive}


def test_metrics_are_open_where_the_operator_said_so(new_house, now):
    house = new_house("service.open_metrics=true")
    door = TestClient(
        make_operator_api(house, lambda: VITALS, lambda: 0, lambda: now), base_url="https://localhost:9444"
    )
    assert door.get("/metrics").status_code == 200
    assert door.get("/v1/status").status_code == 401


# --- what is refused whoever asks


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:80", "localhost.evil:9444", "10.0.0.1:9444", ""]
)
def test_another_host_is_refused_even_with_a_token(host, door):
    for path in ("/v1/status", "/health", "/metrics"):
        answer = door.get(path, headers={**as_(door, "approve"), "Host": host})
        assert answer.status_code == 421


@pytest.mark.parametrize("origin", ["https://evil.example", "https://127.0.0.1:9444", "null", ""])
def test_a_web_page_is_refused_even_with_a_token(origin, door, house):
    answer = door.post("/v1/pause", json={}, headers={**as_(door, "approve"), "Origin": origin})
    assert answer.status_code == 403
    assert not house.paused.exists()
    preflight = door.options("/v1/pause", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 403
    assert not [name for name in preflight.headers if name.startswith("access-control")]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_is_refused(kind, door, house):
    answer = door.post("/v1/pause", content=b"{}", headers={**as_(door, "approve"), "Content-Type": kind})
    assert answer.status_code == 415
    assert not house.paused.exists()


def test_a_large_body_or_one_of_unsaid_length_is_refused(door):
    header = {**as_(door, "approve"), "Content-Type": "application/json"}
    assert door.post("/v1/clients", content=b" " * (LARGEST_BODY + 1), headers=header).status_code == 413
    assert door.post("/v1/clients", content=iter([b"{}"]), headers=header).status_code == 413
    for length in ("0" * 20 + str(LARGEST_BODY + 1), "-1", "1e1", "\u0661", ""):
        assert (
            door.post("/v1/clients", content=b"{}", headers={**header, "Content-Length": length.encode()}).status_code
            == 413
        )
    both = {**header, "Content-Length": "2", "Transfer-Encoding": "chunked"}
    assert door.post("/v1/clients", content=b"{}", headers=both).status_code == 413


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/clients", b"[" * 60_000),
        ("/v1/clients", b"{"),
        ("/v1/clients", b"[]"),
        ("/v1/clients", b"\xff"),
        ("/v1/invitations", b'{"days": "14"}'),
        ("/v1/invitations", b'{"days": 0}'),
        ("/v1/invitations", b'{"days": 1e99}'),
        ("/v1/orders", b'{"kind": "delete"}'),
        ("/v1/orders", b'{"kind": "freeze", "who": "somebody else"}'),
        ("/v1/orders", b'{"kind": "rollback", "version": 0}'),
        ("/v1/orders", b'{"kind": "freeze", "why": "' + b"a" * 501 + b'"}'),
    ],
)
def test_a_malformed_body_is_a_sentence_and_does_nothing(path, content, door, house):
    header = {**as_(door, "approve"), "Content-Type": "application/json"}
    answer = door.post(path, content=content, headers=header)
    assert answer.status_code in {400, 409, 422}
    assert set(answer.json()) == {"error"}
    assert not house.invitations.exists()
    assert not (house.runs / "run-1" / "orders").exists()


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/v1/none", "/v1/clients/../../operators.json", "/static"])
def test_nothing_else_is_there(path, door):
    answer = door.get(path, headers=as_(door, "approve"))
    assert answer.status_code in {404, 405}
    assert set(answer.json()) == {"error"}


def test_no_answer_is_kept_by_a_cache(door):
    assert door.get("/v1/status", headers=as_(door, "view")).headers["Cache-Control"] == "no-store"


# --- what it does


def test_pausing_and_going_on(door, house):
    assert post(door, "run", "/v1/pause", {}).json() == {"paused": True}
    assert house.paused.read_text().startswith("run ")
    assert door.get("/v1/status", headers=as_(door, "view")).json()["paused"] is True
    assert post(door, "run", "/v1/pause", {}).status_code == 409
    assert post(door, "run", "/v1/unpause", {}).json() == {"paused": False}
    assert not house.paused.exists()
    assert post(door, "run", "/v1/unpause", {}).status_code == 409


def test_the_next_run_begins_when_one_has_ended_and_not_before(door, house):
    assert post(door, "run", "/v1/begin", {}).status_code == 409
    assert not house.begin.exists()
    close_round(house, stopped="finished")
    assert post(door, "run", "/v1/begin", {}).json() == {"begins": True}
    assert house.begin.exists()


def test_an_order_bears_the_name_that_the_token_has(door, house):
    said = post(door, "approve", "/v1/orders", {"kind": "approve", "why": "looks right"}).json()
    (path,) = (house.runs / "run-1" / "orders").glob("*.json")
    order = read_order(path)
    assert (order.kind, order.who, order.why, order.proposal) == ("approve", "approve", "looks right", PENDING.id)
    assert said["order"]["id"] == order.id


def test_an_order_that_does_not_fit_is_refused_and_not_left_lying(door, house):
    answer = post(door, "approve", "/v1/orders", {"kind": "rollback", "version": 7})
    assert answer.status_code == 409
    assert "version 7 was never in force" in answer.json()["error"]
    assert not (house.runs / "run-1" / "orders").exists()


def test_before_the_first_run_there_is_no_policy_to_order(house, now):
    vitals = replace(VITALS, run="")
    token = add_operator(house, "ann", "approve", now).token
    door = TestClient(
        make_operator_api(house, lambda: vitals, lambda: 0, lambda: now), base_url="https://localhost:9444"
    )
    header = {"Authorization": f"Bearer {token}"}
    assert "no run has begun" in door.post("/v1/orders", json={"kind": "freeze"}, headers=header).json()["error"]


def test_a_device_is_invited_let_in_and_shut_out(door, house, answer):
    invited = pass_from_dict(post(door, "run", "/v1/invitations", {"days": 3}).json(), "api")
    request = asdict(answer(invited))
    said = post(door, "approve", "/v1/clients", request).json()
    assert said == {"client": request["identity"][:16], "settled": True}
    assert "is used" in post(door, "approve", "/v1/clients", request).json()["error"]
    (listed,) = door.get("/v1/clients", headers=as_(door, "view")).json()
    assert listed["by"] == "approve"
    keys = door.get("/v1/keys", headers=as_(door, "view")).json()
    assert keys == {"server": invited.server, "clients": {said["client"]: request["identity"]}}
    assert post(door, "run", f"/v1/clients/{said['client']}/revoke", {}).status_code == 200
    (client,) = read_clients(house)
    assert client.revoked_by == "run"


def test_no_list_tells_a_code(door):
    code = post(door, "run", "/v1/invitations", {}).json()["code"]
    told = "".join(door.get(path, headers=as_(door, "approve")).text for path in LOOKS)
    assert code not in told


def test_a_superlink_that_does_not_answer_keeps_nobody_out(house, now, answer):
    def down():
        raise RunError("the SuperLink does not answer")

    token = add_operator(house, "ann", "approve", now).token
    door = TestClient(make_operator_api(house, lambda: VITALS, down, lambda: now), base_url="https://localhost:9444")
    header = {"Authorization": f"Bearer {token}"}
    invited = pass_from_dict(door.post("/v1/invitations", json={}, headers=header).json(), "api")
    assert door.post("/v1/clients", json=asdict(answer(invited)), headers=header).json()["settled"] is False
    assert len(read_clients(house)) == 1


def test_no_token_and_no_code_is_ever_logged(door, answer, caplog):
    caplog.set_level("DEBUG")
    invited = post(door, "run", "/v1/invitations", {}).json()
    post(door, "approve", "/v1/clients", asdict(answer(pass_from_dict(invited, "api"))))
    door.get("/v1/status", headers={"Authorization": "Bearer a-secret-typed-wrong"})
    for secret in (*door.tokens.values(), invited["code"], "a-secret-typed-wrong"):
        assert secret not in caplog.text


# --- for real


@pytest.fixture
def served(new_house):
    """The API as ``up`` serves it; the credential of an operator of role run."""
    from server.certificates import issue, make_authority
    from server.metrics import system_now

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    house = new_house(f"service.operator_port={port}")
    make_authority(house, system_now())
    issue(house, "localhost:8443", system_now())
    close_round(house)
    server = make_operator_server(make_operator_api(house, lambda: VITALS, lambda: 0), house)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield house, add_operator(house, "ann", "run", system_now())
    server.should_exit = True
    thread.join(10)


def test_over_tls_with_the_houses_certificate_and_no_other(served, new_house):
    house, credential = served
    assert call(credential, "GET", "/health") == (200, {"live": True, "ready": True})
    assert ask(credential, "GET", "/v1/status")["round"] == 2
    assert ask(credential_at(house.folder, credential.token), "POST", "/v1/pause", {}) == {"paused": True}
    with pytest.raises(RunError, match="this takes approve"):
        ask(credential, "POST", "/v1/clients", {})
    stranger = new_house(name="stranger").ca.read_text("ascii")
    with pytest.raises(RunError, match="its certificate is not the server's"):
        ask(replace(credential, ca=stranger), "GET", "/v1/status")
    with pytest.raises(RunError, match="no operator has this token"):
        ask(replace(credential, token="wrong"), "GET", "/v1/status")  # noqa: S106 - wrong on purpose
    with socket.create_connection(("127.0.0.1", int(credential.api.rpartition(":")[2]))) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP/1.1 200")


def test_without_a_server_the_command_says_what_to_start(house):
    credential = Credential("127.0.0.1:1", house.ca.read_text("ascii"), "x")
    with pytest.raises(RunError, match="is fedrecall-server up running"):
        ask(credential, "GET", "/v1/status")


def test_without_a_token_the_command_says_where_one_comes_from(house):
    with pytest.raises(ConfigError, match="operator add"):
        credential_at(house.folder, "")


def test_a_body_is_json_all_the_way(door):
    assert json.loads(post(door, "run", "/v1/invitations", {"days": 14}).text)["expires"].endswith("+00:00")
