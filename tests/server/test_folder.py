"""The server's folder, and waiting for nodes."""

from __future__ import annotations

import json

import pytest

from server.folder import POLL, Service, read_service, wait_for_nodes, write_service
from shared.config import Config
from shared.errors import ConfigError, RunError


@pytest.fixture
def service():
    return Service(Config(rounds=7), "simulation", clients=3, users_per_client=2, users=6, registered=("ab" * 32,))


def test_what_was_written_is_read(service, tmp_path):
    write_service(service, tmp_path / "server" / "service.json")
    assert read_service(tmp_path / "server" / "service.json") == service


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.json: cannot be read; set FEDRECALL_HOME"):
        read_service(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda raw: raw.pop("config"), "not a service description"),
        (lambda raw: raw.pop("users"), "not a service description"),
        (lambda raw: raw.pop("registered"), "not a service description"),
        (lambda raw: raw.update(registered=["not hex"]), "not a service description"),
        (lambda raw: raw.update(registered=7), "not a service description"),
        (lambda raw: raw.update(code="x"), "not a service description"),
        (lambda raw: raw.update(kind="production"), "kind 'production' must be one of simulation, deployment"),
        (lambda raw: raw.update(clients=0), "clients 0 must be a whole number above 0"),
        (lambda raw: raw.update(users_per_client="2"), "users_per_client '2' must be"),
        (lambda raw: raw.update(users=True), "users True must be"),
        (lambda raw: raw["config"].update(rounds=0), "rounds = 0"),
        (lambda raw: raw["config"].update(round=1), r"unknown key round; did you mean rounds\?"),
    ],
)
def test_a_broken_description_is_a_sentence(change, sentence, service, tmp_path):
    path = tmp_path / "service.json"
    write_service(service, path)
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=sentence) as caught:
        read_service(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "[1]", "7", "null", '"x"', "{", "\udcff"])
def test_a_file_of_something_else_is_a_sentence(content, tmp_path):
    path = tmp_path / "service.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match="not a service description"):
        read_service(path)


class Growing:
    """A grid on which a node more appears at every look."""

    def __init__(self, *looks):
        self.looks = list(looks)

    def get_node_ids(self):
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


def test_the_server_waits_until_its_nodes_are_there():
    slept = []
    assert wait_for_nodes(Growing([], [9], [9, 2], [9, 2, 5]), 2, 10.0, slept.append) == [2, 9]
    assert slept == [POLL, POLL]


def test_its_patience_ends_with_a_sentence():
    slept = []
    with pytest.raises(RunError, match="1 of 4 nodes are there after 2 s; start more, or prepare fewer clients"):
        wait_for_nodes(Growing([7]), 4, 2.0, slept.append)
    assert sum(slept) == 2.0
