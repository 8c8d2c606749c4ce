"""Operators: a token a person, kept as its hash; a role holds those before it."""

from __future__ import annotations

import json
import stat

import pytest

from server.operators import (
    ROLES,
    add_operator,
    may,
    operator_of,
    read_credential,
    read_operators,
    remove_operator,
    write_credential,
)
from shared.errors import ConfigError


def test_a_token_lets_its_operator_in_and_is_kept_nowhere(house, now):
    made = add_operator(house, "ann", "run", now)
    found = operator_of(house, made.token)
    assert found is not None
    assert (found.name, found.role) == ("ann", "run")
    for path in house.folder.rglob("*"):
        if path.is_file():
            assert made.token.encode() not in path.read_bytes(), path
    assert stat.S_IMODE(house.operators.stat().st_mode) == 0o600


def test_tokens_differ_and_are_long(house, now):
    tokens = {add_operator(house, f"o{number}", "view", now).token for number in range(5)}
    assert len(tokens) == 5
    assert min(map(len, tokens)) >= 43  # 256 bits in base64


@pytest.mark.parametrize("token", ["", "x", "ключ", "\udcff", "a" * 10_000])
def test_any_other_token_is_nobodys(token, house, now):
    add_operator(house, "ann", "approve", now)
    assert operator_of(house, token) is None


def test_the_hash_in_the_file_is_no_token(house, now):
    add_operator(house, "ann", "approve", now)
    assert operator_of(house, read_operators(house)[0].token) is None


def test_nobody_is_let_in_before_there_is_an_operator(house):
    assert read_operators(house) == ()
    assert operator_of(house, "") is None


def test_a_role_holds_those_before_it_and_none_behind(house, now):
    for held, role in enumerate(ROLES):
        operator = operator_of(house, add_operator(house, role, role, now).token)
        assert [may(operator, each) for each in ROLES] == [place <= held for place in range(len(ROLES))]


def test_a_removed_operator_is_out_at_once(house, now):
    ann, bob = (add_operator(house, name, "run", now).token for name in ("ann", "bob"))
    remove_operator(house, "ann")
    assert operator_of(house, ann) is None
    assert operator_of(house, bob) is not None


@pytest.mark.parametrize("name", ["", "two words", "a\nb", "../x", "-ann", "é", "a" * 64])
def test_a_name_that_could_break_a_log_or_a_path_is_refused(name, house, now):
    with pytest.raises(ConfigError, match="expected a name"):
        add_operator(house, name, "view", now)
    assert read_operators(house) == ()


def test_wrong_use_is_one_sentence(house, now):
    add_operator(house, "ann", "view", now)
    with pytest.raises(ConfigError, match="is there already"):
        add_operator(house, "ann", "approve", now)
    with pytest.raises(ConfigError, match="expected one of view, run, approve"):
        add_operator(house, "bob", "admin", now)
    with pytest.raises(ConfigError, match="not among ann"):
        remove_operator(house, "bob")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "7",
        '[{"name": "ann"}]',
        '[{"name": "ann", "role": "root", "token": "' + "0" * 64 + '", "since": ""}]',
        '[{"name": "ann", "role": "view", "token": "", "since": ""}]',
        '[{"name": "ann", "role": "view", "token": 7, "since": ""}]',
    ],
)
def test_a_broken_list_lets_nobody_in(content, house):
    house.operators.write_text(content)
    with pytest.raises(ConfigError):
        operator_of(house, "anything")


def test_a_credential_is_read_back_and_its_owners_alone(house, now, tmp_path):
    made = add_operator(house, "ann", "run", now)
    path = tmp_path / "ann.json"
    write_credential(made, path)
    assert read_credential(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.api == f"127.0.0.1:{house.config().service.operator_port}"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"api": "a", "ca": "b", "token": 7}', '{"api": "a", "ca": "b"}'])
def test_a_broken_credential_is_one_sentence_without_its_content(content, tmp_path):
    path = tmp_path / "ann.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="not a credential"):
        read_credential(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_credential(tmp_path / "none.json")


def test_a_hash_has_nothing_of_the_token_in_the_clear(house, now):
    token = add_operator(house, "ann", "view", now).token
    (row,) = json.loads(house.operators.read_text())
    assert set(row) == {"name", "role", "token", "since"}
    assert token[:8] not in row["token"]
