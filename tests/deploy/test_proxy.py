"""The proxy lets Flower's Fleet API through and nothing else, however the path is written."""

import http.server
import socket
import ssl
import threading
from datetime import UTC, datetime

import pytest
from loopback import Deployment, Ports, free_ports, start_proxy, stop

from server.certificates import issue, make_authority
from server.house import House


class Upstream(http.server.BaseHTTPRequestHandler):
    seen = None  # a list, set by the fixture

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_GET = do_PUT = do_DELETE = do_OPTIONS = do_POST  # noqa: N815 - the names that http.server looks for

    def log_message(self, *said):
        pass


@pytest.fixture(scope="module")
def started(tmp_path_factory, needed):
    needed("nginx")
    tmp_path = tmp_path_factory.mktemp("proxied")
    house, now = House(tmp_path / "server"), datetime.now(UTC)
    make_authority(house, now)
    issue(house, "localhost:8443", now)
    tls = house.folder / "tls"
    proxy, superlink = free_ports(2)
    seen = []
    handler = type("Handler", (Upstream,), {"seen": seen})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", superlink), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "server.pem", tls / "server-key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    deployment = Deployment(tmp_path, Ports(proxy, superlink, 0, ()))
    try:
        start_proxy(deployment)
        yield deployment, seen, tls / "ca.pem"
    finally:
        stop(deployment, "proxy")
        server.shutdown()
        server.server_close()


@pytest.fixture
def proxied(started):
    started[1].clear()
    return started


def asked(deployment, ca, line, headers=""):
    """The status of a raw request line: no client library tidies the path."""
    context = ssl.create_default_context(cafile=ca)
    with (
        socket.create_connection(("127.0.0.1", deployment.ports.proxy), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as channel,
    ):
        words = f"{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n"
        channel.sendall(words.encode("latin-1"))
        answer = b""
        while part := channel.recv(4096):
            answer += part
    return int(answer.split()[1])


def test_the_fleet_api_answers_through_the_proxy(proxied):
    deployment, seen, ca = proxied
    assert asked(deployment, ca, "POST /v1/fleet/pull-messages") == 200
    assert seen == ["/v1/fleet/pull-messages"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/v1/control/list-runs",
        "/v1/runtime/acquire-task",
        "/v1/fleet",
        "/v1/fleet/",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/..%2fcontrol/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/control/..%2ffleet/pull-messages",
        "/v1/control/../fleet/pull-messages",
        "//v1/fleet/pull-messages",
        "/v1//fleet/pull-messages",
        "/V1/fleet/pull-messages",
        "/v1/fleet/pull-messages/../../control/start-run",
        "/v1/fleet/pull-messages%00",
        "/v1/fleet/pull-messages;x=1",
        "/v1/fleet/pull-messages?x=/v1/control",
        "http://localhost/v1/control/list-runs",
    ],
)
def test_nothing_else_does_however_it_is_written(proxied, path):
    deployment, seen, ca = proxied
    assert asked(deployment, ca, f"POST {path}") in {400, 403, 404}
    assert seen == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_another_method_is_refused(proxied, method):
    deployment, seen, ca = proxied
    assert asked(deployment, ca, f"{method} /v1/fleet/pull-messages") in {403, 405}
    assert seen == []


def test_a_body_that_is_too_large_is_refused_before_it_is_sent_on(proxied):
    deployment, seen, ca = proxied
    context = ssl.create_default_context(cafile=ca)
    with (
        socket.create_connection(("127.0.0.1", deployment.ports.proxy), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as channel,
    ):
        head = "POST /v1/fleet/push-object HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
        channel.sendall(head.encode())
        assert channel.recv(4096).split()[1] == b"413"
    assert seen == []


def test_the_proxy_speaks_no_plain_http(proxied):
    deployment, seen, _ = proxied
    with socket.create_connection(("127.0.0.1", deployment.ports.proxy), timeout=10) as plain:
        plain.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        assert plain.recv(4096).split()[1] == b"400"
    assert seen == []


def test_nothing_is_written_down_of_who_connects(proxied):
    deployment, _, ca = proxied
    asked(deployment, ca, "POST /v1/fleet/pull-messages")
    written = "".join(path.read_text() for path in (deployment.folder / "proxy").rglob("*.log"))
    assert "127.0.0.1" not in written
