from __future__ import annotations

import json
import stat
import sys

import keyring
import keyring.backends.fail
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError

from client import vault_key
from client.behaviour import Behaviour
from client.home import Home
from client.vault import WrongKeyError, open_vault
from client.vault_key import keyring_there, new_key, rotate, unlock
from shared.errors import DataError

WORDS = "correct horse"


class Ring(KeyringBackend):
    """A keyring in memory, as a desktop has one."""

    priority = 5

    def __init__(self):
        super().__init__()
        self.kept = {}
        self.locked = False

    def get_password(self, service, username):
        if self.locked:
            raise KeyringLocked("locked")
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self.kept[service, username] = password

    def delete_password(self, service, username):
        if self.kept.pop((service, username), None) is None:
            raise PasswordDeleteError("not there")


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    monkeypatch.setattr(vault_key, "COST", 1 << 14)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


@pytest.fixture
def ring():
    before, ring = keyring.get_keyring(), Ring()
    keyring.set_keyring(ring)
    yield ring
    keyring.set_keyring(before)


@pytest.fixture
def no_ring():
    before = keyring.get_keyring()
    keyring.set_keyring(keyring.backends.fail.Keyring())
    yield
    keyring.set_keyring(before)


def never():
    raise RuntimeError("nobody is to be asked")


def filled(home, passphrase):
    """A vault with an event."""
    key = new_key(home, passphrase)
    with open_vault(home.vault, key) as vault:
        vault.record([Behaviour("a", "view", 1.0)])
    return key


def holds_the_event(home, key):
    with open_vault(home.vault, key) as vault:
        return [one.item for one in vault.events()] == ["a"]


def test_the_passphrase_gives_the_key_back_and_another_does_not(home):
    key = new_key(home, WORDS)
    assert len(key) == 32
    assert unlock(home, lambda: WORDS) == key
    with pytest.raises(WrongKeyError, match="the passphrase is wrong"):
        unlock(home, lambda: "incorrect horse")


def test_the_file_tells_neither_key_nor_passphrase_and_is_the_owner_s(home):
    key = new_key(home, WORDS)
    text = home.vault_key.read_text()
    assert key.hex() not in text
    assert WORDS not in text
    assert stat.S_IMODE(home.vault_key.stat().st_mode) == 0o600
    (entry,) = json.loads(text)["keys"]
    assert (entry["n"], entry["r"], entry["p"]) == (1 << 14, 8, 1)


def test_scrypt_is_as_dear_as_is_said(monkeypatch, home):
    monkeypatch.undo()
    new_key(home, WORDS)
    assert json.loads(home.vault_key.read_text())["keys"][0]["n"] == 2**17


def test_a_passphrase_is_the_same_on_any_keyboard(home):
    key = new_key(home, "cafe\u0301 au lait")
    assert unlock(home, lambda: "caf\u00e9 au lait") == key


def test_a_short_passphrase_is_refused_and_leaves_nothing(home):
    with pytest.raises(DataError, match="7 characters; at least 8"):
        new_key(home, "seven c")
    assert not home.vault_key.exists()


def test_a_key_is_never_written_over(home):
    new_key(home, WORDS)
    with pytest.raises(DataError, match="there is a key already"):
        new_key(home, WORDS)
    open_vault(home.vault, unlock(home, lambda: WORDS)).close()
    home.vault_key.unlink()
    with pytest.raises(DataError, match="whose key is missing"):
        new_key(home, WORDS)


def test_a_missing_file_is_a_sentence(home):
    with pytest.raises(DataError, match="no such file; without it nothing opens the vault"):
        unlock(home, never)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda _: b"[]",
        lambda _: b"\xff",
        lambda said: json.dumps(said | {"format": 2}).encode(),
        lambda said: json.dumps(said | {"keys": []}).encode(),
        lambda said: json.dumps(said | {"keys": said["keys"] * 3}).encode(),
        lambda said: json.dumps(said | {"keys": [None]}).encode(),
        lambda said: json.dumps(said | {"keys": [{"kept": "elsewhere"}]}).encode(),
        lambda said: json.dumps(said | {"keys": [{"kept": "keyring", "name": 5}]}).encode(),
        *(
            lambda said, name=name, value=value: json.dumps(said | {"keys": [said["keys"][0] | {name: value}]}).encode()
            for name, value in (
                ("n", 1 << 30),
                ("n", 3 << 15),
                ("n", "many"),
                ("n", True),
                ("r", 9),
                ("p", 1 << 20),
                ("salt", "zz"),
                ("salt", 5),
                ("wrapped", ""),
                ("kept", "elsewhere"),
            )
        ),
    ],
)
def test_a_broken_file_is_a_sentence_and_costs_no_memory(home, change):
    new_key(home, WORDS)
    home.vault_key.write_bytes(change(json.loads(home.vault_key.read_text())))
    with pytest.raises(DataError, match=r"vault-key\.json"):
        unlock(home, lambda: WORDS)


def test_a_keyring_keeps_the_key_where_there_is_one(home, ring):
    assert keyring_there()
    key = new_key(home, None)
    assert key.hex() in ring.kept.values()
    assert key.hex() not in home.vault_key.read_text()
    assert unlock(home, never) == key


def test_a_keyring_that_lost_the_key_or_is_locked_is_a_sentence(home, ring):
    new_key(home, None)
    ring.locked = True
    with pytest.raises(DataError, match="keyring refuses"):
        unlock(home, never)
    ring.locked = False
    ring.kept.clear()
    with pytest.raises(DataError, match="has no entry fedrecall/"):
        unlock(home, never)


@pytest.mark.parametrize("wrong", ["", "zz" * 32, "ab" * 31])
def test_a_keyring_s_entry_that_is_no_key_is_a_sentence(home, ring, wrong):
    new_key(home, None)
    ring.kept = dict.fromkeys(ring.kept, wrong)
    with pytest.raises(DataError, match="is not a vault's key"):
        unlock(home, never)


def test_a_keyring_that_keeps_nothing_safe_is_none(home, ring, monkeypatch):
    monkeypatch.setattr(Ring, "priority", 0.5)  # plain text in a file
    assert not keyring_there()
    with pytest.raises(DataError, match="no keyring here"):
        new_key(home, None)


def test_without_a_keyring_or_its_package_a_passphrase_is_asked_for(home, no_ring, monkeypatch):
    assert not keyring_there()
    with pytest.raises(DataError, match="use a passphrase"):
        new_key(home, None)
    monkeypatch.setitem(sys.modules, "keyring.core", None)
    assert not keyring_there()


def test_a_changed_passphrase_opens_and_the_old_one_does_not(home):
    old = filled(home, WORDS)
    new = rotate(home, lambda: WORDS, "battery staple")
    assert new != old
    assert unlock(home, lambda: "battery staple") == new
    assert holds_the_event(home, new)
    with pytest.raises(WrongKeyError):
        unlock(home, lambda: WORDS)
    with pytest.raises(WrongKeyError):
        open_vault(home.vault, old)


def test_a_key_moves_to_the_keyring_and_back(home, ring):
    filled(home, WORDS)
    inside = rotate(home, lambda: WORDS, None)
    assert unlock(home, never) == inside
    outside = rotate(home, never, WORDS)
    assert ring.kept == {}
    assert unlock(home, lambda: WORDS) == outside
    assert holds_the_event(home, outside)


def test_a_key_that_is_changed_within_the_keyring_leaves_one_entry(home, ring):
    filled(home, None)
    new = rotate(home, never, None)
    assert list(ring.kept.values()) == [new.hex()]


def test_a_change_needs_the_passphrase_of_before_and_a_good_new_one(home):
    key = filled(home, WORDS)
    before = home.vault_key.read_bytes()
    with pytest.raises(WrongKeyError):
        rotate(home, lambda: "incorrect horse", "battery staple")
    with pytest.raises(DataError, match="at least 8"):
        rotate(home, lambda: WORDS, "short")
    assert home.vault_key.read_bytes() == before
    assert holds_the_event(home, key)


class Stop(Exception):  # noqa: N818 - stands for a kill
    pass


def stop(*_arguments):
    raise Stop


@pytest.mark.parametrize(
    ("where", "right", "wrong"),
    [
        ("rekey", WORDS, "battery staple"),
        ("_tidy", "battery staple", WORDS),
        ("_keep_only", "battery staple", WORDS),
    ],
)
def test_an_interrupted_change_leaves_the_key_that_opens_the_vault(home, monkeypatch, where, right, wrong):
    filled(home, WORDS)
    owner = vault_key if where == "_keep_only" else vault_key.open_vault.__globals__["Vault"]
    with monkeypatch.context() as patch:
        patch.setattr(owner, where, stop)
        with pytest.raises(Stop):
            rotate(home, lambda: WORDS, "battery staple")
    assert len(json.loads(home.vault_key.read_text())["keys"]) == 2
    with pytest.raises(WrongKeyError, match="try both the old and the new"):
        unlock(home, lambda: wrong)
    key = unlock(home, lambda: right)
    assert holds_the_event(home, key)
    assert len(json.loads(home.vault_key.read_text())["keys"]) == 1
    assert unlock(home, lambda: right) == key


def test_the_passphrase_is_asked_for_once_even_when_two_keys_stand_there(home, monkeypatch):
    filled(home, WORDS)
    with monkeypatch.context() as patch:
        patch.setattr(vault_key, "_keep_only", stop)
        with pytest.raises(Stop):
            rotate(home, lambda: WORDS, "battery staple")
    asked = []
    unlock(home, lambda: asked.append(1) or "battery staple")
    assert asked == [1]
