"""The device's object: an event counts at once, what is forgotten is unlearned, and other processes are noticed."""

from __future__ import annotations

import os
from threading import Thread

import numpy as np
import pytest

from client.adapting import Adapted
from client.answers import Wish
from client.behaviour import Behaviour
from client.device import open_device
from client.forgetting import forget
from client.home import Home
from client.learning import adapted_bytes, adapted_of, learned
from client.trends import Trending, write_trending
from client.vault import open_vault
from shared.errors import ConfigError, DataError

KEY = bytes(range(32))
DAY = 86_400.0
NOW = 1.7e9


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "device")


@pytest.fixture
def device(home):
    """``device()``: open the folder; all that were opened are closed."""
    opened = []
    home.folder.mkdir()

    def make(**options):
        opened.append(open_device(home, KEY, clock=lambda: NOW, **options))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def viewed(*items, time=NOW - DAY, kind="view"):
    return [Behaviour(f"i{item}", kind, time + place) for place, item in enumerate(items)]


def ids(answer):
    return [offer.id for offer in answer.offers]


def test_without_a_catalogue_the_list_is_empty_and_says_why(device):
    one = device()
    answer = one.recommend()
    assert answer.offers == ()
    assert answer.why == "No catalogue has come from the server yet, so there is nothing to show."
    assert one.record(viewed(1, 2)) == 2
    with pytest.raises(DataError, match="No catalogue"):
        one.explain("i1")
    with pytest.raises(ConfigError):
        one.recommend(Wish(k=0))
    assert (one.status().items, one.status().events, one.status().index) == (0, 2, "")


def test_an_event_changes_the_next_list_at_once(home, device, serving):
    serving(home=home)
    one = device()
    one.record(viewed(1, 2, 3))
    before = one.recommend()
    assert {offer.source for offer in before.offers} == {"you"}
    one.record(viewed(int(before.offers[0].id[1:]), time=NOW))
    after = one.recommend()
    assert before.offers[0].id not in ids(after)
    other = {offer.id: offer.score for offer in before.offers}
    assert any(other[offer.id] != offer.score for offer in after.offers if offer.id in other)
    assert one.status().adapted == 4


def test_a_device_that_does_not_learn_still_knows_the_history(home, device, serving):
    serving(home=home)
    one = device(learn=False)
    one.record(viewed(1, 2, 3))
    assert one.status().adapted == 0
    assert not home.adapted.exists()
    assert not {"i1", "i2", "i3"} & set(ids(one.recommend(Wish(k=40))))


def test_what_was_learned_survives_a_restart_and_is_sealed(home, device, serving):
    serving(home=home)
    one = device()
    one.record(viewed(1, 2, 3))
    before = one.recommend()
    one.close()
    again = device()
    assert again.status().adapted == 3
    assert [offer.score for offer in again.recommend().offers] == [offer.score for offer in before.offers]
    assert b"gain" not in home.adapted.read_bytes()


def test_what_was_learned_for_another_run_is_learned_anew(home, device, serving):
    serving(home=home)
    one = device()
    one.record(viewed(*range(22)))
    one.record(viewed(30))
    assert one.status().adapted == 21
    home.adapted.write_bytes(one.vault.seal("adapted", adapted_bytes(one._state, "another run"), one.vault.epoch()))
    assert device().status().adapted == 20


def test_what_was_learned_is_read_back_for_its_own_run_and_width_only():
    state = Adapted(np.ones(16, np.float32), {"text": 0.5}, (np.full(16, 2, np.float32), {"text": 0.1}), 7)
    content = adapted_bytes(state, "run")
    back = adapted_of(content, "run", 16)
    assert (back.gain, back.squares[1], back.events) == (state.gain, state.squares[1], 7)
    assert np.array_equal(back.z, state.z)
    assert np.array_equal(back.squares[0], state.squares[0])
    assert adapted_of(content, "another", 16) is None
    assert adapted_of(content, "run", 8) is None


def test_what_is_forgotten_is_unlearned(home, device, serving):
    serving(home=home)
    one = device()
    one.record(viewed(1, 2, 3))
    receipt = one.forget(items=["i2"])
    assert (receipt.forgotten.events, receipt.forgotten.found) == (1, 0)
    assert one.status().adapted == 2
    assert "i2" in ids(one.recommend(Wish(k=48)))
    one.forget()
    assert (one.status().adapted, one.stored().events) == (0, 0)
    assert {offer.source for offer in one.recommend().offers} == {"popular"}


def test_what_another_process_forgets_in_the_middle_of_an_event_is_not_kept(home, device, serving, monkeypatch):
    serving(home=home)
    one = device()
    one.record(viewed(1, 2, 3))

    def while_it_learns(*arguments):
        forget(home, KEY, now=NOW)
        monkeypatch.undo()
        return learned(*arguments)

    monkeypatch.setattr("client.device.learned", while_it_learns)
    one.record(viewed(4))
    assert not home.adapted.exists()
    assert (one.status().events, one.status().adapted) == (0, 0)


def test_what_another_process_writes_while_all_is_learned_anew_is_not_missed(home, device, serving, monkeypatch):
    serving(home=home)
    one = device()
    one.record(viewed(1, 2, 3))
    read = one._read_behaviour

    def then_another_writes():
        read()
        with open_vault(home.vault, KEY) as other:
            other.record(viewed(9))

    monkeypatch.setattr(one, "_read_behaviour", then_another_writes)
    one.forget(items=["i2"])
    monkeypatch.undo()
    assert "i9" not in ids(one.recommend(Wish(k=48)))


def test_a_disk_that_refuses_while_old_events_go_leaves_nothing_learned_from_them(home, device, serving, monkeypatch):
    serving(home=home)
    one = device()
    one.record([*viewed(1, time=NOW - 40 * DAY), *viewed(2, 3)])

    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(one.vault, "_tidy", full)
    with pytest.raises(OSError, match="No space"):
        one.purge(30)
    assert one.status().adapted == 2
    assert "i1" in ids(one.recommend(Wish(k=48)))


def test_an_event_that_comes_late_stands_where_it_belongs(home, device, serving):
    serving(home=home)
    one = device()
    one.record(viewed(1, 2, kind="not_interested", time=NOW - DAY))
    one.record(viewed(3))
    one.record(viewed(1, time=NOW - 2 * DAY))  # from before it was turned down
    live = one._history
    assert "i1" not in ids(one.recommend(Wish(k=48, exclude_seen=False)))
    one.close()
    again = device()._history
    for name in ("item", "kind", "count", "time"):
        assert getattr(live, name).tolist() == getattr(again, name).tolist()


def test_what_is_too_old_is_dropped_and_unlearned(home, device, serving):
    serving(home=home)
    one = device()
    one.record([*viewed(1, time=NOW - 40 * DAY), *viewed(2, 3)])
    assert one.purge(30) == 1
    assert one.purge(30) == 0
    assert one.status().adapted == 2
    assert "i1" in ids(one.recommend(Wish(k=48)))


def test_what_other_processes_write_is_noticed(home, device, serving):
    one = device()
    assert one.recommend().offers == ()
    serving(home=home)
    assert len(one.recommend().offers) == 10
    assert "i5" not in ids(one.recommend(Wish(k=48)))  # it cannot be had
    assert "i5" in ids(one.recommend(Wish(k=48, available_only=False)))
    write_trending(home, Trending(1, "run", 1, ("i9", "gone", "i8")))
    assert [(offer.id, offer.source) for offer in one.recommend(Wish(k=2)).offers] == [
        ("i9", "trending"),
        ("i8", "trending"),
    ]
    with open_vault(home.vault, KEY) as other:
        other.record(viewed(1, 2))
    assert {offer.source for offer in one.recommend().offers} == {"you"}
    with open_vault(home.vault, KEY) as other:
        other.forget()
    assert {offer.source for offer in one.recommend(Wish(k=1)).offers} == {"trending"}
    serving(home=home, bare=True)
    assert one.recommend().policy_version is None


def test_a_rehearsal_takes_in_what_was_published_and_leaves_no_trace(home, device, serving):
    one = device()
    one.rehearse()  # nothing is there yet
    serving(home=home)
    one.rehearse()
    assert one.status().items == 48
    one.record(viewed(1, 2))
    before, kept = (one.status(), one.explain("i9")), home.adapted.read_bytes()
    one.recommend(Wish(k=3))
    one.rehearse()
    assert (one.status(), one.explain("i9")) == before
    assert home.adapted.read_bytes() == kept
    assert one.stored().events == 2


def test_a_broken_shelf_is_not_taken_and_the_one_before_serves_on(home, device, serving):
    serving(home=home)
    one = device()
    one.record(viewed(1, 2))
    before = ids(one.recommend())
    (home.shelf / "current.json").write_text("{", encoding="utf-8")
    assert ids(one.recommend()) == before
    assert "not readable" in one.status().trouble
    serving(home=home)
    assert one.recommend().offers
    assert one.status().trouble == ""


def test_items_that_the_catalogue_does_not_have_are_kept_but_not_used(home, device, serving):
    serving(home=home)
    one = device()
    one.record([Behaviour("gone", "view", NOW), *viewed(1)])
    assert (one.stored().events, one.status().adapted) == (2, 1)
    assert one.recommend().why == "From what you did with 1 of the catalogue's items."


def test_many_events_at_once_are_learned_from_the_newest(home, device, serving):
    serving(home=home)
    one = device()
    one.record(viewed(*range(40)))
    assert one.status().adapted == 20


def test_an_explanation_names_what_the_score_would_miss(home, device, serving):
    serving(home=home)
    one = device()
    one.record(viewed(*range(8), kind="purchase"))
    first = one.recommend().offers[0]
    said = one.explain(first.id)
    assert said.score == pytest.approx(first.score, abs=1e-4)
    assert said.parts == pytest.approx(dict(first.parts), abs=1e-4)
    assert said.policy_version == 1
    title, effect = said.because[0]
    assert said.sentences == (f"because you bought {title}",)
    one.forget(items=[f"i{title.removeprefix('Title ')}"])
    assert effect > 0


def test_an_explanation_says_why_an_item_is_not_shown_or_what_else_put_it_there(home, device, serving):
    serving(home=home)
    one = device()
    write_trending(home, Trending(1, "run", 1, ("i9",)))
    one.recommend(Wish(k=3))
    assert one.explain("i9").sentences[0] == "many people came to it lately"
    assert one.explain("i47").sentences[0] == "many others chose it"
    assert one.explain("i5").sentences[0] == "it cannot be had at the moment"
    one.record([*viewed(1), *viewed(2, kind="not_interested")])
    assert one.explain("i1").sentences[0] == "you know it already"
    assert one.explain("i2").sentences[0] == "you turned it down, so it is not shown"
    with pytest.raises(DataError, match="not in the catalogue"):
        one.explain("nobody")
    serving(home=home, bare=True)
    assert one.explain("i3").sentences == ("there is no model yet, so nothing is weighed",)


def test_a_full_disk_keeps_no_event_and_says_so(home, device, serving, monkeypatch):
    serving(home=home)
    one = device()
    monkeypatch.setattr(one.vault, "record", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        one.record(viewed(1))
    monkeypatch.undo()
    assert (one.status().events, one.status().adapted) == (0, 0)
    assert {offer.source for offer in one.recommend().offers} == {"popular"}


def test_an_event_counts_even_where_what_was_learned_cannot_be_written(home, device, serving):
    serving(home=home)
    home.folder.joinpath("adapted.new").mkdir(parents=True)
    one = device()
    one.record(viewed(1))
    assert (one.status().events, one.status().adapted) == (1, 1)


def test_threads_lose_no_event(home, device, serving):
    serving(home=home)
    one = device()
    errors = []

    def work(item):
        try:
            one.record(viewed(item))
            one.recommend()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test names it
            errors.append(error)

    threads = [Thread(target=work, args=(item,)) for item in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (one.status().events, one.status().adapted, len(one._history)) == (8, 8, 8)


def test_the_wrong_key_opens_nothing(home, device):
    device()
    with pytest.raises(DataError):
        open_device(home, os.urandom(32))
