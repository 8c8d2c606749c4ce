"""A server that answers as it likes, byte by byte: the device's line to it ends with one kind of error, in time."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from itertools import takewhile

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata, ObjectTree, PullObjectResponse

from client import fleet_link, https_line, parts
from client.fleet_link import Incoming, link
from client.https_line import LinkError
from client.parts import Parts
from server.certificates import issue, make_authority
from server.house import House
from shared.protocol import declined_record

KEY = generate_private_key(SECP384R1())


def response(body=b"", status="200 OK", headers=""):
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


class Server:
    """One that says of a path whatever a test wrote down: bytes, or a function of the connection."""

    def __init__(self, house):
        self.ca = house.ca.read_text()
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(house.certificate, house.certificate_key)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"
        self.says = {"activate-node": response(ActivateNodeResponse(node_id=7).SerializeToString())}
        self.heads: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def asked(self, path):
        return sum(f"/{path} " in head for head in self.heads)

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                threading.Thread(target=self._speak, args=(connection,), daemon=True).start()

    def _speak(self, connection):
        with suppress(OSError, ValueError), self.context.wrap_socket(connection, server_side=True) as secure:
            file = secure.makefile("rb")
            # A client that hangs up ends the lines as an empty one does; else this thread would read nothing for ever.
            while head := b"".join(takewhile(lambda line: line.strip(), iter(file.readline, None))).decode():
                file.read(int(head.lower().partition("content-length: ")[2].split()[0]))
                self.heads.append(head)
                said = self.says.get(head.split()[1].rpartition("/")[2], response())
                said(secure) if callable(said) else secure.sendall(said)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    made = House(tmp_path_factory.mktemp("house"))
    make_authority(made, datetime.now(UTC))
    issue(made, "127.0.0.1:1", datetime.now(UTC))
    return made


@pytest.fixture
def server(house):
    made = Server(house)
    yield made
    made.listening.close()


def pulled(tree=None, **metadata):
    """A response that brings a message."""
    said = {"message_id": "a" * 64, "ttl": 60.0, "created_at": time.time(), "message_type": "train.update"} | metadata
    trees = [] if tree is None else [tree]
    message = ProtoMessage(metadata=Metadata(run_id=1, dst_node_id=7, **said))
    content = PullMessagesResponse(messages_list=[message], message_object_trees=trees)
    return response(content.SerializeToString())


ONE = ObjectTree(object_id="a" * 64)
BOMB = gzip.compress(gzip.compress(bytes(1 << 28)))
HOSTILE = {
    "a message without parts": pulled(),
    "no protobuf": response(b"\xff\xff\xff"),
    "a tree of a million parts": response(b"\x12" + b"\x80\x80\x80\x01" + b"\x12\x00" * (1 << 20)),
    "a bomb in two wrappings": response(BOMB, headers="content-encoding: gzip, gzip\r\n"),
    "another place": response(status="301 Moved", headers="location: /v1/fleet/pull-messages\r\n"),
    "a time without end": response(headers="date: Mon, 01 Jan 99999999999999999999 00:00:00 GMT\r\n", status="500 No"),
    "a zone without end": response(headers="date: Mon, 01 Jan 2026 00:00:00 +9999999999999\r\n", status="500 No"),
    "an error without ground": response(b'{"code":' + b"[" * 100_000, "500 No"),
    "an error that is no UTF-8": response(b"\xff", "403 No"),
    "no HTTP": b"SSH-2.0-hello\r\n\r\n",
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE)
def test_whatever_it_answers_is_one_kind_of_error(said, server):
    server.says["pull-messages"] = said
    with link(server.address, server.ca, KEY) as line:
        with pytest.raises(LinkError):
            line.receive()
        assert server.asked("pull-messages") == 1, "nothing is followed"


def test_it_can_leave_no_cookie(server):
    server.says["pull-messages"] = response(headers="set-cookie: who=you; path=/\r\n")
    with link(server.address, server.ca, KEY) as line:
        assert line.receive() is None
        assert line.receive() is None
    assert not any("cookie" in head.lower() for head in server.heads)


def endless(piece, wait=0.0):
    def say(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n" if wait else b"")
        while True:
            connection.sendall(piece)
            time.sleep(wait)

    return say


@pytest.mark.parametrize("said", [endless(b"HTTP/1.1 103 Early Hints\r\n\r\n"), endless(b"x", 0.05)])
def test_it_cannot_hold_the_line_for_ever(said, server, monkeypatch):
    server.says["pull-messages"] = said
    with link(server.address, server.ca, KEY) as line:
        monkeypatch.setattr(https_line, "LONGEST_CALL", 0.4)
        with pytest.raises(LinkError):
            line.receive()


@pytest.mark.parametrize("ttl", [float("inf"), 1e300, float("nan"), 60.0])
def test_a_part_that_never_comes_is_not_waited_for_beyond_reason(ttl, server, monkeypatch):
    monkeypatch.setattr(fleet_link, "LONGEST", 0.5)
    server.says["pull-messages"] = pulled(ONE, ttl=ttl)
    server.says["pull-object"] = response(PullObjectResponse(object_found=True).SerializeToString())
    with link(server.address, server.ca, KEY) as line, pytest.raises(LinkError, match="not there yet"):
        line.receive()


def test_a_part_that_is_too_large_is_not_kept(server, monkeypatch):
    monkeypatch.setattr(fleet_link, "_LARGEST_PART", 1000)
    said = PullObjectResponse(object_found=True, object_available=True, object_content=bytes(2000))
    server.says |= {"pull-messages": pulled(ONE, ttl=1.0), "pull-object": response(said.SerializeToString())}
    with link(server.address, server.ca, KEY) as line, pytest.raises(LinkError, match="more than 1000"):
        line.receive()


@pytest.mark.parametrize(
    "said",
    [
        {"message_type": "no such route"},
        {"message_type": ""},
        {"created_at": float("nan")},
        {"ttl": float("nan")},
        {"ttl": -1.0},
    ],
)
def test_a_message_that_cannot_be_answered_is_let_go(said, server):
    content = PullObjectResponse(object_found=True, object_available=True, object_content=b"x")
    server.says |= {"pull-messages": pulled(ONE, **said), "pull-object": response(content.SerializeToString())}
    with link(server.address, server.ca, KEY) as line:
        incoming = line.receive()
        assert not line.reply(incoming, declined_record())
        assert not line.reply(Incoming(incoming.raw), declined_record())
        incoming.close()
    assert server.asked("push-messages") == 0


def test_a_large_message_lies_in_a_file_without_a_name_and_not_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "IN_MEMORY", 1000)
    made = Parts(tmp_path)
    contents = {str(n): bytes([n]) * 400 for n in range(6)}
    for name, content in contents.items():
        made.add(name, content)
    assert dict(made) == contents
    assert list(made) == list(contents)
    assert made._file._rolled
    assert list(tmp_path.iterdir()) == [], "a crash leaves nothing"
    made.close()
