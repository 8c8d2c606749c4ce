"""A server's folder says what is wrong with its configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.house import House, house_at
from server.promise import check_promised
from shared.errors import ConfigError


def test_a_folder_without_a_server_is_said(tmp_path):
    with pytest.raises(ConfigError, match="fedrecall-server init"):
        house_at(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[service]\naddress = "localhost"', "service.address"),
        ("[service]\noperator_port = 0", "service.operator_port"),
        ("[service]\nclients = 0", "service.clients"),
        ("[service]\nclient = 5", "did you mean service.clients"),
        ("[servce]\nclients = 5", "unknown key servce"),
        ("[privacy]\nepsilon = ", "not valid TOML"),
    ],
)
def test_a_wrong_key_is_named(text, sentence, tmp_path):
    house = House(tmp_path)
    house.settings.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        house_at(tmp_path).config()


def test_no_private_key_of_the_authority_lies_where_the_proxy_reads(tmp_path):
    house = House(tmp_path)
    assert house.ca_key.parent != house.certificate.parent
    assert house.certificate.parent == house.ca.parent == house.certificate_key.parent


def test_a_folder_is_known_by_its_full_path(house, monkeypatch):
    monkeypatch.chdir(house.folder.parent)
    assert house_at(Path(house.folder.name)).folder == house.folder.resolve()


def test_another_account_writes_nothing_that_the_server_could_not_read(house, monkeypatch):
    owner = os.geteuid()
    monkeypatch.setattr("shared.owner.os.geteuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match=f"belongs to account {owner}"):
        house_at(house.folder)


@pytest.mark.parametrize(
    "name", ["ledger_key", "registrar_key", "ca", "certificate", "certificate_key", "superexec_secret"]
)
def test_a_key_that_is_missing_is_said_and_not_made_anew(name, house):
    path = getattr(house, name)
    path.unlink()
    with pytest.raises(ConfigError, match=f"{path.name}: missing"):
        check_promised(house)
    assert not path.exists()
