from __future__ import annotations

import math
import os
import random
import sqlite3
import stat
import struct
import threading
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.behaviour import Behaviour
from client.store import load_store, save_store
from client.traces import database_files
from client.vault import PERSON, Vault, WrongKeyError, open_vault, opens, store_of
from client.vault_file import PAGE
from shared.catalogue import Catalogue
from shared.errors import DataError

KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "behaviour.db"


def views(*numbers: int) -> list[Behaviour]:
    return [Behaviour(f"item-{number}", "view", float(number), 0.25, 0.5) for number in numbers]


def items(vault: Vault) -> list[str]:
    return [one.item for one in vault.events()]


def edited(path, *statements: tuple[str, tuple]) -> None:
    """What a thief with the file and without the key can do."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement, values in statements:
            connection.execute(statement, values)


def rows(path) -> list[tuple[int, bytes]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT number, sealed FROM pages ORDER BY number").fetchall()


def test_what_is_recorded_is_there_again_oldest_first(path):
    event = Behaviour("café", "purchase", 3.5, 0.1, 0.7)
    with open_vault(path, KEY) as vault:
        assert vault.record([event]) == 1
        assert vault.record(views(2, 1)) == 2
        assert vault.record([]) == 0
    with open_vault(path, KEY) as vault:
        assert list(vault.events()) == [*views(1, 2), event]
        assert vault.count() == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3 * PAGE), min_size=1, max_size=5))
def test_batches_of_any_size_fill_pages_and_lose_nothing(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("vault") / "v.db"
    with open_vault(path, KEY) as vault:
        for number, size in enumerate(sizes):
            vault.record([Behaviour(f"{number}", "view", float(number))] * size)
        assert [items(vault).count(str(number)) for number in range(len(sizes))] == sizes
        assert vault.count() == sum(sizes)
    assert len(rows(path)) == math.ceil(sum(sizes) / PAGE)


def test_nothing_of_an_event_stands_in_clear(path):
    secret = Behaviour("a very private item", "purchase", 1_234_567.25, 0.625, 0.875)
    with open_vault(path, KEY) as vault:
        vault.record([secret] * 40)
        raw = b"".join(file.read_bytes() for file in database_files(path))
    for word in (b"a very private", b"purchase", *(struct.pack("<d", one) for one in (1_234_567.25, 0.625, 0.875))):
        assert word not in raw
    assert raw.count(b"pages") > 0  # these are the bytes that are on disk


def test_pages_of_one_event_and_of_ten_are_of_one_size(path):
    with open_vault(path, KEY) as vault:
        vault.record(views(1))
        one = len(rows(path)[0][1])
        vault.record(views(*range(9)))
        assert len(rows(path)[0][1]) == one


def test_only_the_owner_may_read_the_files(path):
    with open_vault(path, KEY) as vault:
        vault.record(views(1))
        modes = {stat.S_IMODE(file.stat().st_mode) for file in database_files(path)}
    assert modes == {0o600}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_another_key_is_refused_clearly(path):
    open_vault(path, KEY).close()
    with pytest.raises(WrongKeyError, match="this key does not open it"):
        open_vault(path, bytes(32))
    with pytest.raises(DataError, match="32 bytes, not 5"):
        open_vault(path, b"short")
    assert opens(path, KEY)
    assert not opens(path, bytes(32))
    assert not opens(path.with_name("none"), KEY)


def test_a_wrong_key_with_a_forged_name_is_refused_too(path):
    open_vault(path, KEY).close()
    from client.vault_file import key_name

    edited(path, ("UPDATE head SET key = ?", (key_name(bytes(32)),)))
    with pytest.raises(DataError, match="head is damaged"):
        open_vault(path, bytes(32))


def test_a_file_cut_short_anywhere_is_a_sentence(path, tmp_path):
    with open_vault(path, KEY) as vault:
        vault.record(views(*range(600)))
        vault.rekey(KEY)  # the file is rewritten: no page of it is free
    whole = path.read_bytes()
    for length in (0, 1, 50, 100, 4096, 4097, len(whole) // 2, len(whole) - 4096, len(whole) - 2000):
        short = tmp_path / f"short-{length}.db"
        short.write_bytes(whole[:length])
        with pytest.raises((DataError, OSError), match="short-"):
            open_vault(short, KEY).events()
    short.write_bytes(whole[:-1])  # a byte that stood for nothing
    with open_vault(short, KEY) as vault:
        assert list(vault.events()) == views(*range(600))


def test_a_changed_byte_is_noticed_wherever_it_matters(path, tmp_path):
    with open_vault(path, KEY) as vault:
        vault.record(views(*range(300)))
    whole = path.read_bytes()
    places = random.Random(7).sample(range(100, len(whole)), 150)
    refused = 0
    for place in places:
        changed = tmp_path / "changed.db"
        changed.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            with open_vault(changed, KEY) as vault:
                assert list(vault.events()) == views(*range(300))
        except (DataError, OSError):
            refused += 1
    assert refused > 40  # the others met free space


def test_something_else_is_no_vault(path):
    path.write_bytes(b"SQLite format 4" * 100)
    with pytest.raises(DataError, match="not a vault"):
        open_vault(path, KEY)
    path.unlink()
    edited(path, ("CREATE TABLE t (a)", ()))
    with pytest.raises(DataError, match="not a vault of format 1"):
        open_vault(path, KEY)


def test_a_message_of_sqlite_that_is_no_text_is_a_sentence(path):
    open_vault(path, KEY).close()
    edited(
        path,
        ("PRAGMA writable_schema = ON", ()),
        ("UPDATE sqlite_schema SET name = CAST(x'b3b3' AS TEXT), sql = 'nonsense' WHERE name = 'pages'", ()),
    )
    with pytest.raises(DataError, match="not a vault, or damaged; restore"):
        open_vault(path, KEY)


def test_a_log_without_its_database_is_not_taken_for_a_new_vault(path):
    path.with_name(path.name + "-wal").write_bytes(b"x")
    with pytest.raises(DataError, match="is missing, but its log is there"):
        open_vault(path, KEY)


def test_a_missing_folder_is_the_disk_s_error(tmp_path):
    with pytest.raises(OSError, match="none"):
        open_vault(tmp_path / "none" / "v.db", KEY)


def filled(path) -> list[tuple[int, bytes]]:
    with open_vault(path, KEY) as vault:
        vault.record(views(*range(3 * PAGE + 5)))
    return rows(path)


def test_exchanged_pages_are_noticed(path):
    (one, first), (two, second), *_ = filled(path)
    edited(
        path,
        ("UPDATE pages SET sealed = ? WHERE number = ?", (second, one)),
        ("UPDATE pages SET sealed = ? WHERE number = ?", (first, two)),
    )
    with open_vault(path, KEY) as vault, pytest.raises(DataError, match="page 1 is damaged or exchanged"):
        vault.events()


def test_a_page_taken_away_is_noticed(path):
    filled(path)
    edited(path, ("DELETE FROM pages WHERE number = 2", ()))
    with open_vault(path, KEY) as vault, pytest.raises(DataError, match="taken away"):
        vault.events()
    edited(path, ("DELETE FROM pages WHERE number = 4", ()))
    with open_vault(path, KEY) as vault, pytest.raises(DataError, match="page 4 is missing"):
        vault.record(views(1))


@pytest.mark.parametrize("value", ["text", 5, 2.5, b"", b"short"])
@pytest.mark.parametrize("table", ["pages", "head"])
def test_a_value_of_another_kind_is_noticed(path, table, value):
    filled(path)
    edited(path, (f"UPDATE {table} SET sealed = ?", (value,)))  # noqa: S608 - a test's own table
    with pytest.raises(DataError, match="damaged"), open_vault(path, KEY) as vault:
        vault.events()


def test_a_page_put_in_twice_is_noticed(path):
    filled(path)
    edited(path, ("INSERT INTO pages SELECT 9, sealed FROM pages WHERE number = 1", ()))
    with open_vault(path, KEY) as vault, pytest.raises(DataError, match="page 9"):
        vault.events()


@pytest.mark.parametrize("act", [lambda vault: vault.events(), lambda vault: vault.record(views(1))])
def test_a_page_put_back_to_an_earlier_state_is_noticed(path, act):
    old = filled(path)
    with open_vault(path, KEY) as vault:
        vault.record(views(1))
    edited(path, ("UPDATE pages SET sealed = ? WHERE number = ?", old[-1][::-1]))
    with open_vault(path, KEY) as vault, pytest.raises(DataError, match="put back to an earlier state"):
        act(vault)


def test_a_head_put_back_to_an_earlier_state_is_noticed(path):
    filled(path)
    with closing(sqlite3.connect(path)) as connection:
        head = connection.execute("SELECT sealed FROM head").fetchone()
    with open_vault(path, KEY) as vault:
        vault.record(views(1))
    edited(path, ("UPDATE head SET sealed = ?", head))
    with open_vault(path, KEY) as vault, pytest.raises(DataError, match="put back to an earlier state"):
        vault.events()


def test_a_whole_file_put_back_while_it_is_open_is_noticed(path):
    old = filled(path)
    with closing(sqlite3.connect(path)) as connection:
        head = connection.execute("SELECT sealed FROM head").fetchone()
    with open_vault(path, KEY) as vault:
        vault.record(views(1))
        vault.count()
        edited(
            path,
            ("UPDATE head SET sealed = ?", head),
            ("UPDATE pages SET sealed = ? WHERE number = ?", old[-1][::-1]),
        )
        with pytest.raises(DataError, match="while it was open"):
            vault.events()


def test_what_another_process_writes_is_noticed_and_own_writes_are_not(path):
    with open_vault(path, KEY) as one, open_vault(path, KEY) as other:
        before = one.changed()
        one.record(views(1))
        one.forget(["item-1"])
        assert one.changed() == before
        other.record(views(2))
        assert one.changed() != before
        assert items(one) == ["item-2"]


def test_threads_share_an_open_vault(path):
    with open_vault(path, KEY) as vault:
        threads = [threading.Thread(target=lambda: [vault.record(views(1)) for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert vault.count() == len(vault.events()) == 80


def test_a_closed_vault_is_a_wrong_order_of_calls(path):
    vault = open_vault(path, KEY)
    vault.close()
    with pytest.raises(RuntimeError, match="closed"):
        vault.events()


def test_another_process_that_writes_for_long_is_a_sentence(path, monkeypatch):
    monkeypatch.setattr("client.vault_file.PATIENCE", 0.05)
    with open_vault(path, KEY) as vault, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DataError, match="another process has been writing"):
            vault.record(views(1))
        other.execute("ROLLBACK")
        assert vault.record(views(1)) == 1


def test_the_summary_counts_what_is_there(path):
    with open_vault(path, KEY) as vault:
        empty = vault.summary()
        assert (empty.events, empty.oldest, empty.newest) == (0, None, None)
        vault.record([*views(5, 9), Behaviour("a", "purchase", 7.0)])
        summary = vault.summary()
        size = sum(file.stat().st_size for file in database_files(path)[:2])
    assert (summary.events, summary.oldest, summary.newest) == (3, 5.0, 9.0)
    assert summary.by_kind == {"view": 2, "purchase": 1, "rating": 0, "dwell": 0, "not_interested": 0}
    assert summary.bytes == size > 4096


def test_events_past_their_time_to_live_go_and_the_others_stay(path):
    day = 86_400.0
    with open_vault(path, KEY) as vault:
        vault.record([Behaviour("old", "view", 9 * day), Behaviour("young", "view", 10 * day)] * 300)
        kept = vault.seal("adapted", b"learned", vault.epoch())
        assert vault.purge(20 * day, 10) == 300
        assert set(items(vault)) == {"young"}
        assert vault.purge(20 * day, 10) == 0
        with pytest.raises(DataError, match="make it anew"):  # it was learned from what is gone now
            vault.unseal("adapted", kept)
        vault.record(views(1))
        assert vault.count() == len(vault.events()) == 301


def test_what_was_learned_opens_under_its_name_until_something_is_forgotten(path):
    with open_vault(path, KEY) as vault:
        sealed = vault.seal("adapted", b"learned", vault.epoch())
        assert b"learned" not in sealed
        assert vault.unseal("adapted", sealed) == b"learned"
        for name, bad in (("other", sealed), ("adapted", sealed[:-1]), ("adapted", b"")):
            with pytest.raises(DataError, match="make it anew"):
                vault.unseal(name, bad)
        vault.forget(["nothing that is there"])
        with pytest.raises(DataError, match="make it anew"):
            vault.unseal("adapted", sealed)


def test_what_was_learned_before_a_forgetting_is_not_sealed_after_it(path):
    with open_vault(path, KEY) as vault, open_vault(path, KEY) as other:
        vault.record(views(1, 2))
        before = vault.epoch()
        vault.record(views(3))
        assert vault.epoch() == before
        other.forget(["item-1"])
        assert vault.epoch() != before
        with pytest.raises(DataError, match="before something was forgotten"):
            vault.seal("adapted", b"learned", before)


def test_a_store_for_training_holds_the_items_of_its_catalogue(path, tmp_path):
    ids = ("item-1", "item-2", "item-3")
    catalogue = Catalogue(ids, ids, ids, ((), (), ()), {})
    with open_vault(path, KEY) as vault:
        vault.record(views(3, 1, 1, 7))
        store = store_of(vault, catalogue)
    assert (store.client, store.users) == ("device", (PERSON,))
    assert store.histories[0].item.tolist() == [0, 2]
    assert store.histories[0].count.tolist() == [2.0, 1.0]
    save_store(store, tmp_path / "store.npz")
    assert len(load_store(tmp_path / "store.npz", 3).histories[0]) == 2


def test_random_keys_seal_the_same_events_differently(path):
    with open_vault(path, os.urandom(32)) as one, open_vault(path.with_name("two.db"), os.urandom(32)) as two:
        for vault in (one, two):
            vault.record(views(1))
        assert one.secret() != two.secret()
        assert one.secret() == one.secret()
    assert rows(path)[0][1] != rows(path.with_name("two.db"))[0][1]
