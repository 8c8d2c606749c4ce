from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from client.behaviour import Behaviour
from client.traces import database_files, found_in, probes
from client.vault import Vault, open_vault
from client.vault_file import PAGE, ciphertexts
from shared.errors import DataError

KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "behaviour.db"


@pytest.fixture
def vault(path):
    """Three pages and a half: of each moment one event of ``keep`` and one of ``drop``."""
    with open_vault(path, KEY) as vault:
        both = [Behaviour(item, "view", float(moment)) for moment in range(450) for item in ("keep", "drop")]
        vault.record(both)
        yield vault


def items(vault: Vault) -> set[str]:
    return {one.item for one in vault.events()}


def sealed(path) -> list[bytes]:
    with closing(sqlite3.connect(path)) as connection:
        return ciphertexts(connection)


def pieces(path, texts) -> int:
    """How many pieces of sealed texts are in the files, counted from outside."""
    return sum(found_in(file.read_bytes(), probes(texts)) for file in database_files(path))


def test_one_item_is_forgotten_and_the_rest_stays(vault, path):
    old = sealed(path)
    assert pieces(path, old) > 0
    done = vault.forget(["drop"])
    assert (done.events, done.left, done.rows_before, done.rows_after) == (450, 450, 4, 2)
    assert (done.ciphertexts, done.found) == (5, 0)
    assert done.probes >= len(old)
    assert done.searched >= path.stat().st_size
    assert items(vault) == {"keep"}
    assert vault.count() == 450
    assert pieces(path, old) == 0
    with open_vault(path, KEY) as again:
        assert items(again) == {"keep"}


def test_what_is_older_is_forgotten_of_all_items_or_of_some(vault):
    assert vault.forget(before=100.0).events == 200
    assert vault.forget(["drop"], before=200.0).events == 100
    times = {item: min(one.time for one in vault.events() if one.item == item) for item in items(vault)}
    assert times == {"keep": 100.0, "drop": 200.0}


def test_everything_is_forgotten_with_its_secret(vault, path):
    secret, old = vault.secret(), sealed(path)
    done = vault.forget()
    assert (done.events, done.left, done.rows_after) == (900, 0, 0)
    assert list(vault.events()) == []
    assert vault.secret() != secret
    assert pieces(path, old) == 0
    vault.record([Behaviour("new", "view", 1.0)])
    assert items(vault) == {"new"}


def test_the_secret_outlives_a_forgetting_of_some(vault):
    secret = vault.secret()
    vault.forget(["drop"])
    assert vault.secret() == secret


def test_to_forget_what_is_not_there_is_proved_too(vault):
    done = vault.forget(["never seen"])
    assert (done.events, done.left, done.found) == (0, 900, 0)


def test_to_forget_no_item_forgets_nothing(vault):
    assert vault.forget([]).events == 0
    assert vault.count() == 900


def test_earlier_versions_of_a_page_are_gone_from_the_log(path):
    with open_vault(path, KEY) as vault:
        texts = []
        for number in range(30):
            vault.record([Behaviour("drop", "view", float(number))])
            texts += sealed(path)
        assert pieces(path, texts) > 30  # the log has them all
        vault.forget(["drop"])
        assert pieces(path, texts) == 0


def test_a_restored_page_or_head_of_before_opens_no_more(vault, path):
    with closing(sqlite3.connect(path)) as connection:
        old = connection.execute("SELECT sealed FROM pages WHERE number = 1").fetchone()
    vault.forget(["drop"])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE pages SET sealed = ? WHERE number = (SELECT max(number) FROM pages)", old)
    with pytest.raises(DataError, match="damaged or exchanged"):
        vault.events()


def test_the_proof_fails_where_the_file_was_not_rewritten(vault, monkeypatch):
    monkeypatch.setattr(Vault, "_tidy", lambda _: None)
    with pytest.raises(DataError, match="pieces of old pages were not erased; forget again"):
        vault.forget(["drop"])
    monkeypatch.undo()
    assert vault.forget(["drop"]).found == 0


def test_a_forgetting_that_was_cut_off_is_finished_by_who_opens_next(vault, path, monkeypatch):
    old = sealed(path)
    monkeypatch.setattr(Vault, "_tidy", lambda _: None)
    with pytest.raises(DataError, match="not erased"):
        vault.forget(["drop"])
    assert pieces(path, old) > 0
    monkeypatch.undo()
    with open_vault(path, KEY) as again:
        assert items(again) == {"keep"}
        assert pieces(path, old) == 0


def test_a_reader_that_stays_prevents_the_proof_and_says_so(vault, path, monkeypatch):
    monkeypatch.setattr("client.vault_file.PATIENCE", 0.05)
    monkeypatch.setattr("client.vault.PATIENCE", 0.05)
    with open_vault(path, KEY) as mine, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM pages").fetchone()
        with pytest.raises(DataError, match="another process"):
            mine.forget(["drop"])
        other.execute("ROLLBACK")
        assert mine.forget(["drop"]).found == 0
        assert items(mine) == {"keep"}


def test_another_process_records_on_after_a_forgetting(vault, path):
    with open_vault(path, KEY) as other:
        other.count()
        vault.forget(["drop"])
        other.record([Behaviour("new", "view", 1e6)])
        assert items(other) == {"keep", "new"}
    assert items(vault) == {"keep", "new"}


def test_a_vault_of_exactly_full_pages_goes_on(path):
    with open_vault(path, KEY) as vault:
        vault.record([Behaviour("a", "view", 1.0)] * PAGE + [Behaviour("b", "view", 2.0)] * PAGE)
        assert vault.forget(["a"]).rows_after == 1
        vault.record([Behaviour("c", "view", 3.0)])
        assert vault.count() == len(vault.events()) == PAGE + 1


def test_another_vault_key_seals_everything_anew(vault, path):
    old = sealed(path)
    fresh = bytes(32)
    vault.rekey(fresh)
    assert items(vault) == {"keep", "drop"}
    assert pieces(path, old) == 0
    with open_vault(path, fresh) as again:
        assert again.count() == 900
    with pytest.raises(DataError, match="this key does not open it"):
        open_vault(path, KEY)


def test_who_has_it_open_with_the_old_key_is_told(vault, path):
    with open_vault(path, KEY) as other:
        other.count()
        vault.rekey(bytes(32))
        with pytest.raises(DataError, match="this key does not open it: another vault's, or changed since"):
            other.record([Behaviour("a", "view", 1.0)])
    assert vault.count() == 900
