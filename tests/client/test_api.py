"""The local API: who is let in, what it answers, and every way that a web page on this machine tries to get in."""

from __future__ import annotations

import http.client
import json
import math
import socket
import sqlite3
from contextlib import closing

import pytest

from client.answers import Wish
from client.api import listening_on, make_api
from client.api_guard import BURST, LARGEST, Bucket
from client.consent import read_consent, write_consent
from client.device import open_device
from client.home import Home
from client.vault_file import BusyError
from shared.errors import ConfigError, DataError
from shared.keys import own_key

NOW = 1_700_000_000.0
EVENT = {"events": [{"item": "i1", "kind": "view"}]}


@pytest.fixture
def home(tmp_path, consent):
    write_consent(consent(), tmp_path / "consent.toml")
    return Home(tmp_path)


@pytest.fixture
def ask(stand_in, home, local_api):
    """``ask("GET", "/v1/status", body=..., **headers)``: (status, headers, JSON); a header of None is left out."""
    return asking(*local_api(stand_in, home, now=lambda: NOW))


def asking(port, token):
    def one(method, path, body=None, **headers):
        sent = {"Host": f"127.0.0.1:{port}", "Authorization": f"Bearer {token}"}
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent |= {} if raw is None else {"Content-Type": "application/json", "Content-Length": str(len(raw))}
        sent |= {name.replace("_", "-"): value.format(port=port) if value else value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(raw)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        kind = answer.headers.get("content-type", "")
        return answer.status, answer.headers, json.loads(content) if "json" in kind else content

    one.port, one.token = port, token
    return one


@pytest.fixture
def real(home, serving, local_api):
    """As ``ask``, of a real device with a vault, a catalogue of 48 items and a model."""
    serving(home=home)
    own_key(home.ledger_key)
    device = open_device(home, bytes(range(32)), clock=lambda: NOW)
    yield asking(*local_api(device, home, now=lambda: NOW))
    device.close()


PRIVATE = ["/v1/status", "/v1/recommendations", "/v1/budget", "/v1/left", "/v1/consent", "/v1/export", "/openapi.json"]


# --- who is let in


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Bearer " + "u" * 43, "Basic " + "t" * 43, "t" * 43])
def test_without_the_token_nothing_is_told(given, ask):
    for path in PRIVATE:
        status, headers, said = ask("GET", path, Authorization=given)
        assert (status, said) == (401, {"error": "the token is missing or wrong"})
        assert headers["www-authenticate"] == "Bearer"


def test_a_token_that_is_a_part_of_the_token_is_wrong(ask):
    for given in (ask.token[:-1], ask.token + "t", ask.token + "\xe9"):
        assert ask("GET", "/v1/status", Authorization=f"Bearer {given}")[0] == 401


def test_two_tokens_are_none(ask):
    lines = f"Authorization: Bearer {ask.token}\r\n" * 2
    assert raw(ask.port, f"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1:{ask.port}\r\n{lines}\r\n").startswith(
        "HTTP/1.1 401"
    )


def test_a_token_that_could_be_guessed_is_refused(stand_in, home):
    for token in ("", "short", "é" * 40):
        with pytest.raises(ConfigError, match="at least 32 ASCII characters"):
            make_api(stand_in, home, token, 1)


@pytest.mark.parametrize(
    "host", ["evil.example:{port}", "127.0.0.1", "localhost", "127.0.0.1:1", "0.0.0.0:{port}", None]
)
def test_another_host_is_refused_as_dns_rebinding_has_it(host, ask):
    for path in ("/", "/v1/status"):
        assert ask("GET", path, Host=host)[0] in (400, 403)


def test_localhost_is_the_same_host(ask):
    assert ask("GET", "/v1/status", Host="localhost:{port}")[0] == 200
    assert ask("GET", "/v1/status", Host="localhost:{port}", Origin="http://localhost:{port}")[0] == 200


ORIGINS = [
    "https://evil.example",
    "null",
    "http://127.0.0.1:1",
    "https://127.0.0.1:{port}",
    "http://localhost:{port}",
    "",
]


@pytest.mark.parametrize("origin", ORIGINS)
def test_another_origin_is_refused_even_with_the_token(origin, ask):
    assert ask("POST", "/v1/events", EVENT, Origin=origin or "x")[0] == 403


def test_the_pages_own_origin_may_ask(ask):
    assert ask("POST", "/v1/events", EVENT, Origin="http://127.0.0.1:{port}", Sec_Fetch_Site="same-origin")[0] == 201


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_request_that_another_site_started_is_refused(site, ask):
    assert ask("GET", "/v1/status", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="image")[0] == 403
    assert ask("GET", "/app.js", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="script")[0] == 403


def test_a_frame_is_refused_and_a_link_is_not(ask):
    linked = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert ask("GET", "/", Sec_Fetch_Dest="iframe", **linked)[0] == 403
    status, headers, _ = ask("GET", "/", Sec_Fetch_Dest="document", **linked)
    assert status == 200
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"


def test_no_answer_ever_allows_another_origin(ask):
    for method, origin in (("GET", None), ("OPTIONS", "https://evil.example"), ("OPTIONS", "http://127.0.0.1:{port}")):
        _, headers, _ = ask(method, "/v1/status", Origin=origin, Access_Control_Request_Method="PUT")
        assert not [name for name in headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None, "application/jsonp"]
)
def test_what_a_form_can_send_is_refused(kind, ask, stand_in):
    assert ask("POST", "/v1/forget", {"everything": True}, Content_Type=kind)[0] == 415
    assert ask("POST", "/v1/events", EVENT, Content_Type=kind)[0] == 415
    assert stand_in.forgotten == stand_in.events == []


def test_a_body_that_is_too_large_is_refused_before_it_is_read(ask, stand_in):
    assert ask("POST", "/v1/events", b" " * 10, Content_Length=str(LARGEST + 1))[0] == 413
    assert ask("POST", "/v1/events", b" " * (LARGEST + 1))[0] == 413
    assert stand_in.events == []


def test_a_body_of_unsaid_length_is_cut_off(ask, stand_in):
    head = f"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1:{ask.port}\r\nAuthorization: Bearer {ask.token}\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = f"{1 << 18:x}\r\n{' ' * (1 << 18)}\r\n"
    assert raw(ask.port, head + chunk * 5).startswith("HTTP/1.1 413")
    assert stand_in.events == []


def test_a_websocket_is_refused(ask):
    answer = ask("GET", "/v1/status", Connection="Upgrade", Upgrade="websocket", Authorization=None)
    assert answer[0] == 401


def test_who_asks_too_often_waits(stand_in, home, local_api):
    port, token = local_api(stand_in, home, clock=lambda: 0.0)
    head = f"GET /v1/consent HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nAuthorization: Bearer "
    for line in (f"{head}{given}\r\n\r\n" for given in ("wrong", token)):  # no token cannot lock out the owner
        answers = [raw(port, line) for _ in range(int(BURST) + 1)]
        assert "429" in answers[-1].splitlines()[0]
        assert "retry-after: 1" in answers[-1]
        assert not any("429" in one.splitlines()[0] for one in answers[:-1])


def test_a_bucket_fills_again():
    now = [0.0]
    bucket = Bucket(lambda: now[0])
    assert [bucket.take() for _ in range(int(BURST))] == [0.0] * int(BURST)
    assert bucket.take() == pytest.approx(0.05)
    now[0] = 0.05
    assert bucket.take() == 0.0
    assert bucket.take() > 0
    now[0] = 1e9
    assert bucket.take() == 0.0
    assert bucket.level == BURST - 1


# --- files


@pytest.mark.parametrize(
    "path",
    [
        "/../consent.toml",
        "/..%2fconsent.toml",
        "/%2e%2e/api-token",
        "//etc/passwd",
        "/page/app.js",
        "/app.js/../../api.py",
        "/v1/../style.css%00",
        "/docs",
        "/redoc",
        "/api.py",
    ],
)
def test_no_path_leads_to_another_file(path, ask):
    assert ask("GET", path)[0] == 404
    assert ask("GET", path, Authorization=None)[0] == 401


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/parts.js", "text/javascript"),
        ("/words.js", "text/javascript"),
        ("/style.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
    ],
)
def test_the_page_needs_no_token_and_holds_nothing_of_anybody(path, kind, ask):
    status, headers, _ = ask("GET", path, Authorization=None)
    assert status == 200
    assert headers["content-type"].startswith(kind)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_the_openapi_document_names_every_path(ask):
    status, _, said = ask("GET", "/openapi.json")
    assert status == 200
    assert set(said["paths"]) == {
        "/v1/events",
        "/v1/recommendations",
        "/v1/items/{item}/explanation",
        "/v1/budget",
        "/v1/left",
        "/v1/consent",
        "/v1/forget",
        "/v1/export",
        "/v1/status",
    }


def test_an_answer_does_not_wait_for_its_own_second_packet():
    with listening_on(0) as listening, socket.create_connection(listening.getsockname()):
        accepted, (host, _) = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert host == "127.0.0.1"


# --- what it answers


def test_events_are_stored_with_this_devices_clock_where_none_is_said(ask, stand_in):
    said = [{"item": "i1", "kind": "view"}, {"item": "i2", "kind": "rating", "rating": 0.8, "time": 5, "dwell": 0.1}]
    assert ask("POST", "/v1/events", {"events": said})[2] == {"stored": 2}
    first, second = stand_in.events
    assert (first.item, first.kind, first.time, first.dwell) == ("i1", "view", NOW, 0.0)
    assert math.isnan(first.rating)
    assert (second.time, second.rating, second.dwell) == (5.0, 0.8, 0.1)


HOSTILE_EVENTS = [
    {"item": "", "kind": "view"},
    {"item": "x" * 201, "kind": "view"},
    {"item": "a\x00b", "kind": "view"},
    {"item": 7, "kind": "view"},
    {"item": "i1", "kind": "steal"},
    {"item": "i1", "kind": "view", "time": NOW + 90_000},
    {"item": "i1", "kind": "view", "time": -1},
    {"item": "i1", "kind": "view", "time": float("nan")},
    {"item": "i1", "kind": "view", "dwell": 1.5},
    {"item": "i1", "kind": "rating", "rating": float("inf")},
    {"item": "i1", "kind": "view", "user": "u1"},
]


@pytest.mark.parametrize("event", HOSTILE_EVENTS)
def test_an_event_that_is_none_is_refused_and_none_of_its_batch_is_stored(event, ask, stand_in):
    status, _, said = ask("POST", "/v1/events", {"events": [{"item": "i1", "kind": "view"}, event]})
    assert status == 422
    assert len(said["error"]) < 400
    assert stand_in.events == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"events": []}', b'{"events": [1]}', b"\xff\xfe", b"[" * 100_000]
)
def test_a_body_that_is_no_request_is_refused_in_a_sentence(body, ask):
    status, _, said = ask("POST", "/v1/events", body)
    assert status in (400, 422)
    assert said["error"]


def test_a_wish_says_what_is_asked_for(ask, stand_in):
    path = "/v1/recommendations?k=3&category=drama&category=war&available=false&include_seen=true&still_allowed=i4"
    status, _, said = ask("GET", path + "&diversity=0.5&similar_to=i2&explore=false")
    assert status == 200
    assert [offer["id"] for offer in said["offers"]] == ["i0", "i1", "i2"]
    assert said["why"]
    assert stand_in.wish == Wish(3, ("drama", "war"), False, False, ("i4",), 0.5, "i2", False)
    ask("GET", "/v1/recommendations")
    assert stand_in.wish == Wish()


@pytest.mark.parametrize(
    "query", ["k=0", "k=1001", "k=many", "diversity=2", "diversity=nan", "similar_to=" + "x" * 201, "available=7"]
)
def test_a_wish_out_of_bounds_is_refused(query, ask):
    status, _, said = ask("GET", f"/v1/recommendations?{query}")
    assert status == 422
    assert said["error"].startswith(query.partition("=")[0])


def test_an_explanation_is_of_an_item_whatever_its_id(ask):
    assert ask("GET", "/v1/items/i%2F1%20%C3%A9/explanation")[2]["item"] == "i/1 é"
    assert ask("GET", "/v1/items/i1/explanation")[2]["because"] == [["Item one", 0.8], ["Item two", 0.21]]
    assert ask("GET", "/v1/items/nobody/explanation")[0] == 404


def test_budget_and_what_left_are_told_with_their_units(ask):
    _, _, said = ask("GET", "/v1/budget")
    assert [cap["span"] for cap in said["caps"]] == ["round", "period", "lifetime"]
    assert said["delta"] == 1e-3
    assert "zCDP" in said["accountant"]
    assert ask("GET", "/v1/left")[2] == {"released": [], "declined": []}


def test_consent_changes_only_what_is_named(ask, home):
    before = read_consent(home.consent)
    status, _, said = ask("PUT", "/v1/consent", {"enabled": False, "epsilon_lifetime": 3})
    assert status == 200
    assert said["consent"]["enabled"] is False
    assert read_consent(home.consent) == before.model_copy(update={"enabled": False, "epsilon_lifetime": 3.0})
    assert ask("GET", "/v1/status")[2]["taking_part"] is False


@pytest.mark.parametrize(
    "changes", [{"epsilon_lifetime": -1}, {"epsilon": 3}, {"enabled": None}, {"servers": ["../x"]}, [], 7]
)
def test_a_consent_out_of_bounds_is_refused_and_the_file_stays(changes, ask, home):
    before = home.consent.read_bytes()
    status, _, said = ask("PUT", "/v1/consent", changes)
    assert status == 422
    assert said["error"]
    assert home.consent.read_bytes() == before


def test_a_consent_file_that_cannot_be_read_is_told_and_not_overwritten(ask, home):
    home.consent.write_text("enabled = 7\n")
    assert ask("GET", "/v1/consent")[2]["consent"] is None
    assert ask("PUT", "/v1/consent", {"enabled": True})[0] == 409
    assert home.consent.read_text() == "enabled = 7\n"
    home.consent.unlink()
    assert ask("PUT", "/v1/consent", {"enabled": False})[2]["consent"]["enabled"] is False


def test_a_clause_alone_switches_nothing_on_where_nothing_was_agreed_to(ask, home):
    home.consent.unlink()
    assert ask("PUT", "/v1/consent", {"epsilon_lifetime": 3})[2]["consent"]["enabled"] is False
    assert ask("PUT", "/v1/consent", {"enabled": True})[2]["consent"]["enabled"] is True


@pytest.mark.parametrize(
    "body",
    [{}, {"everything": False}, {"everything": True, "before": 1}, {"items": []}, {"before": "x"}, {"all": True}],
)
def test_forgetting_must_say_what(body, ask, stand_in):
    assert ask("POST", "/v1/forget", body)[0] == 422
    assert stand_in.forgotten == []


def test_a_vault_that_another_process_is_at_is_no_fault_of_the_request(home, serving, local_api, monkeypatch):
    monkeypatch.setattr("client.vault_file.PATIENCE", 0.05)
    serving(home=home)
    device = open_device(home, bytes(range(32)), clock=lambda: NOW)
    ask = asking(*local_api(device, home, now=lambda: NOW))
    with closing(device), closing(sqlite3.connect(home.vault, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, _, said = ask("POST", "/v1/events", EVENT)
        assert (status, "another process has been writing" in said["error"]) == (503, True)
        other.execute("ROLLBACK")
        assert ask("POST", "/v1/events", EVENT)[0] == 201


def test_what_was_forgotten_is_told_with_its_proof(ask, stand_in):
    ask("POST", "/v1/events", EVENT)
    said = ask("POST", "/v1/forget", {"everything": True})[2]
    assert (said["forgotten"]["events"], said["forgotten"]["found"]) == (1, 0)
    ask("POST", "/v1/forget", {"items": ["i1"]})
    ask("POST", "/v1/forget", {"before": 7})
    assert stand_in.forgotten == [(None, None), (["i1"], None), (None, 7.0)]


@pytest.mark.parametrize(
    ("error", "status"),
    [(DataError("a sentence"), 422), (BusyError("a sentence"), 503), (OSError(28, "No space left on device"), 507)],
)
def test_what_the_device_refuses_is_told_in_its_sentence(error, status, ask, stand_in):
    stand_in.error = error
    got, headers, said = ask("POST", "/v1/events", EVENT)
    assert got == status
    assert said == {"error": str(error)}
    assert headers["x-content-type-options"] == "nosniff"


def test_what_nobody_foresaw_tells_nothing_of_the_code(ask, stand_in):
    stand_in.error = RuntimeError("a secret of the code")
    status, headers, said = ask("GET", "/v1/recommendations")
    assert (status, said) == (500, {"error": "something went wrong on this device"})
    assert headers["x-content-type-options"] == "nosniff"


# --- with a real device


def test_an_event_changes_the_next_recommendation_and_its_reason_names_it(real):
    events = [{"item": f"i{n}", "kind": "purchase", "time": NOW - 1000 + n} for n in range(8)]
    assert real("POST", "/v1/events", {"events": events})[:1] == (201,)
    before = real("GET", "/v1/recommendations?k=5")[2]
    assert {offer["source"] for offer in before["offers"]} == {"you"}
    assert before["why"]
    first = before["offers"][0]["id"]
    assert first not in {event["item"] for event in events}
    because = real("GET", f"/v1/items/{first}/explanation")[2]["because"]
    assert because[0][0] in {f"Title {n}" for n in range(8)}
    real("POST", "/v1/events", {"events": [{"item": first, "kind": "not_interested"}]})
    after = real("GET", "/v1/recommendations?k=5")[2]
    assert first not in {offer["id"] for offer in after["offers"]}


def test_what_the_catalogue_does_not_have_is_told(real):
    assert real("GET", "/v1/recommendations?similar_to=nobody")[0] == 422
    assert real("GET", "/v1/recommendations?category=nothing")[0] == 422
    assert real("GET", "/v1/items/nobody/explanation")[0] == 404
    similar = real("GET", "/v1/recommendations?similar_to=i3&k=4")[2]["offers"]
    assert {offer["source"] for offer in similar} == {"similar"}


def test_everything_is_exported_and_after_forgetting_nothing_is(real, home):
    real("POST", "/v1/events", {"events": [{"item": "i1", "kind": "rating", "rating": 0.5}]})
    status, headers, said = real("GET", "/v1/export")
    assert status == 200
    assert headers["content-disposition"].startswith("attachment")
    assert said["events"] == [{"item": "i1", "kind": "rating", "time": NOW, "dwell": 0.0, "rating": 0.5}]
    assert said["consent"]["enabled"] is True
    receipt = real("POST", "/v1/forget", {"everything": True})[2]
    assert (receipt["number"], receipt["forgotten"]["events"], receipt["forgotten"]["found"]) == (1, 1, 0)
    assert len(list(home.forgotten.iterdir())) == 1
    assert real("GET", "/v1/export")[2]["events"] == []
    assert real("GET", "/v1/status")[2]["stored"]["events"] == 0


def raw(port, text):
    """What a socket gives back for the bytes of a request."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(text.encode())
        return connection.recv(65_536).decode()
