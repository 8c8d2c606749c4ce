"""Giving out: what each device gets next, what is known of what it has, and numbers that never come twice."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Message
from flwr.app.error import Error
from flwr.supercore.task_identity import TaskIdentity

from server.enrolling import Enrolled
from server.publishing import Given, Publisher, issue_of, read_given, write_given
from server.stock import stock_of
from server.stock_orders import import_items, rebuild, remove, set_available
from shared.catalogue import catalogue_of
from shared.catalogue_change import apply_change, change_of
from shared.config import PolicySection, first_policy
from shared.encoder.spec import EncoderSpec
from shared.errors import RunError
from shared.keys import own_key
from shared.privacy.ledger import public_hex
from shared.protocol import declined_record
from shared.publication import PublishedModel, parse_publication, received_record
from shared.recall.item_rules import ItemRules

ONLINE = frozenset({1, 2})
LOST = object()
CLIENTS = tuple(Enrolled(f"{n:016x}", f"{n:064x}", "", f"{n:0128x}", "", "", "op", n) for n in (1, 2))


class Grid:
    """Devices that keep the catalogues they get; ``replies`` is what they say next, in place of what they would."""

    def __init__(self, server):
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        self.server, self.sent, self.queue = server, [], []
        self.catalogues, self.serves, self.replies = {1: {}, 2: {}}, {}, []

    def push_messages(self, messages):
        ids = []
        for message in messages:
            number = f"m{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = number
            node, issue = message.metadata.dst_node_id, parse_publication(message.content, self.server)
            self.sent.append((node, issue))
            answer = self.replies.pop(0) if self.replies else self.take(node, issue)
            if answer is not LOST:
                self.queue.append(Message(answer, reply_to=message))
            ids.append(number)
        return ids

    def take(self, node, issue):
        had = self.catalogues[node]
        if issue.base and issue.base not in had:
            return declined_record()
        if issue.change:
            if issue.base:
                got = apply_change(had[issue.base], change_of(issue.change, ""))
            else:
                got = catalogue_of(issue.change, "")
            had[got.version()] = got
        if issue.model is not None and issue.model.trained not in had:
            return declined_record()
        assert issue.catalogue in had
        self.serves[node] = issue
        return received_record()

    def pull_messages(self, ids):
        out = [reply for reply in self.queue if reply.metadata.reply_to_message_id in ids]
        self.queue = [reply for reply in self.queue if reply not in out]
        return out


@pytest.fixture
def stocked(house, tmp_path, now):
    with (tmp_path / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title", "text", "categories"])
        writer.writerows([f"i{n}", f"Title {n}", f"word{n % 7} word{n % 5} more", f"c{n % 3}"] for n in range(40))
    import_items(house, tmp_path / "items.csv", now=now)
    return house


def publisher_of(house, grid=None):
    key = own_key(house.ledger_key)
    made = Publisher(house, grid or Grid(public_hex(key)), key)
    made.clock = made.now = lambda: 0.0
    return made


def given(trained, round_=1, run="run-0001"):
    spec = EncoderSpec(8, 4, 8, "linear")
    numbers = np.full(spec.size, round_, np.float32)
    model = PublishedModel(spec, numbers, np.zeros(8, np.float32), trained, first_policy(PolicySection()), ItemRules())
    return Given(run, round_, ("i3",), model)


def settled(publisher, issue, clients=CLIENTS, online=ONLINE):
    for _ in range(6):
        behind = publisher.give(issue, clients, online)
    return behind


def more(house, tmp_path, now, *names):
    (tmp_path / "more.csv").write_text(
        "id,title,text,categories\n" + "".join(f"{n},Title {n},word1 word2,c1\n" for n in names)
    )
    import_items(house, tmp_path / "more.csv", now=now)


def test_a_device_gets_the_whole_catalogue_once_and_then_what_changed(stocked, tmp_path, now):
    at = publisher_of(stocked)
    assert settled(at, issue_of(stock_of(stocked), None, "")) == 0
    first = stock_of(stocked).version
    more(stocked, tmp_path, now, "new")
    set_available(stocked, ["i5"], available=False)
    assert settled(at, issue_of(stock_of(stocked), given(first), "")) == 0
    said = [(issue.base, issue.catalogue, issue.model is None) for node, issue in at.grid.sent if node == 1]
    assert said == [("", first, True), (first, stock_of(stocked).version, False)]
    last = at.grid.serves[2]
    assert (last.run, last.round, last.trending, last.unavailable) == ("run-0001", 1, ("i3",), ("i5",))
    assert last.registration.hex() == CLIENTS[1].registration
    assert len(last.change) < len(at.grid.sent[0][1].change) / 3


def test_who_has_it_is_left_alone_and_who_is_away_gets_it_later(stocked):
    at = publisher_of(stocked)
    issue = issue_of(stock_of(stocked), None, "")
    assert settled(at, issue, online=frozenset({2})) == 1
    assert [node for node, _ in at.grid.sent] == [2]
    assert settled(at, issue) == 0
    assert [node for node, _ in at.grid.sent] == [2, 1]


def test_one_that_is_asked_is_not_asked_again_before_it_answered(stocked):
    at = publisher_of(stocked)
    at.grid.replies = [LOST, LOST]
    assert settled(at, issue_of(stock_of(stocked), None, "")) == 2
    assert len(at.grid.sent) == 2


def test_numbers_rise_with_every_sending_also_over_a_restart_that_lost_the_answers(stocked):
    at = publisher_of(stocked)
    issue = issue_of(stock_of(stocked), None, "")
    at.grid.replies = [LOST, LOST]
    settled(at, issue)
    again = publisher_of(stocked, at.grid)
    assert settled(again, issue) == 0
    assert [issue.number for _, issue in at.grid.sent] == [1, 1, 2, 2]
    third = publisher_of(stocked, at.grid)
    assert settled(third, issue) == 0
    assert len(at.grid.sent) == 4


def test_a_server_put_back_from_a_backup_is_not_behind_the_numbers_that_devices_have_seen(stocked):
    at = publisher_of(stocked)
    issue = issue_of(stock_of(stocked), None, "")
    at.now = lambda: 1_800_000_000.5
    settled(at, issue)
    (stocked.published / "devices.json").unlink()
    again = publisher_of(stocked, at.grid)
    again.now = lambda: 1_800_000_060.0
    assert settled(again, issue) == 0
    assert [issue.number for _, issue in at.grid.sent] == [1_800_000_000] * 2 + [1_800_000_060] * 2


def test_one_that_declines_gets_all_of_it_next_time_and_is_asked_less_and_less_often(stocked, tmp_path, now):
    at = publisher_of(stocked)
    first = stock_of(stocked).version
    settled(at, issue_of(stock_of(stocked), None, ""), CLIENTS[:1])
    more(stocked, tmp_path, now, "new")
    at.grid.replies = [declined_record(), declined_record()]
    times = []
    for tick in range(10):
        at.clock = lambda tick=tick: tick * 0.5
        before = len(at.grid.sent)
        at.give(issue_of(stock_of(stocked), None, ""), CLIENTS[:1], ONLINE)
        times += [tick * 0.5] * (len(at.grid.sent) - before)
    assert [issue.base for _, issue in at.grid.sent] == ["", first, "", ""]
    # Declined at once, heard of half a second later, then a wait of one and of two seconds.
    assert times == [0.0, 1.5, 4.0]


def test_one_that_is_gone_has_what_it_had(stocked, tmp_path, now):
    at = publisher_of(stocked)
    first = stock_of(stocked).version
    settled(at, issue_of(stock_of(stocked), None, ""), CLIENTS[:1])
    more(stocked, tmp_path, now, "new")
    at.grid.replies = [Error(code=3, reason="gone")]
    settled(at, issue_of(stock_of(stocked), None, ""), CLIENTS[:1])
    at.clock = lambda: 9.0
    assert settled(at, issue_of(stock_of(stocked), None, ""), CLIENTS[:1]) == 0
    assert [issue.base for _, issue in at.grid.sent] == ["", first, first]


def test_one_without_the_models_catalogue_gets_that_first(stocked, tmp_path, now):
    at = publisher_of(stocked)
    first = stock_of(stocked).version
    more(stocked, tmp_path, now, "new")
    remove(stocked, ["i7"], now=now)
    assert settled(at, issue_of(stock_of(stocked), given(first), "")) == 0
    said = [(issue.base, issue.catalogue, issue.model is None) for node, issue in at.grid.sent if node == 1]
    assert said == [("", first, True), (first, stock_of(stocked).version, False)]
    assert {"new"} <= set(at.grid.catalogues[1][stock_of(stocked).version].ids)


def test_while_a_run_goes_on_without_a_model_devices_have_its_catalogue(stocked, tmp_path, now):
    first = stock_of(stocked).version
    more(stocked, tmp_path, now, "new")
    latest = stock_of(stocked).version
    old = given(first)
    during = issue_of(stock_of(stocked), old, latest)
    assert (during.catalogue, during.model) == (latest, old.model)
    assert issue_of(stock_of(stocked), None, first).catalogue == first
    more(stocked, tmp_path, now, "newer")
    assert issue_of(stock_of(stocked), old, latest).catalogue == latest
    assert issue_of(stock_of(stocked), given(latest), latest).catalogue == stock_of(stocked).version


def test_a_model_is_never_served_with_vectors_of_another_basis(stocked, now):
    first = stock_of(stocked).version
    (stocked.settings).write_text(stocked.settings.read_text() + "\n")
    rebuild(stocked, now=now)
    again = stock_of(stocked)
    between_runs = issue_of(again, given(first), "")
    assert (between_runs.catalogue, between_runs.model is None) == (first, False)
    if again.version != first:  # the same items make the same basis
        during = issue_of(again, given(first), again.version)
        assert (during.catalogue, during.model) == (again.version, None)


def test_an_issue_is_told_from_another_by_its_content(stocked):
    stock, model = stock_of(stocked), given(stock_of(stocked).version)
    one = issue_of(stock, model, "")
    same = issue_of(stock, given(stock.version), "")
    assert one.name == same.name
    policy = replace(model.model, policy=replace(model.model.policy, version=2))
    others = [
        issue_of(stock, given(stock.version, round_=2), ""),
        issue_of(stock, given(stock.version, run="run-0002"), ""),
        issue_of(stock, replace(model, trending=()), ""),
        issue_of(stock, replace(model, model=policy), ""),
        issue_of(replace(stock, unavailable=("i1",)), model, ""),
        issue_of(stock, None, ""),
    ]
    assert len({one.name, *(other.name for other in others)}) == 7


def test_the_model_given_out_is_kept_and_a_damaged_one_is_refused(stocked):
    assert read_given(stocked) is None
    first = given(stock_of(stocked).version)
    write_given(stocked, first)
    got = read_given(stocked)
    assert replace(got.model, parameters=None, prior=None) == replace(first.model, parameters=None, prior=None)
    assert np.array_equal(got.model.parameters, first.model.parameters)
    assert (got.run, got.round, got.trending) == (first.run, first.round, first.trending)
    path = stocked.published / "issue.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RunError, match="no readable model"):
        read_given(stocked)


def test_a_damaged_list_of_what_devices_have_is_said(stocked):
    stocked.published.mkdir()
    (stocked.published / "devices.json").write_text('{"number": 3}')
    with pytest.raises(RunError, match=r"devices\.json: not what this server wrote"):
        publisher_of(stocked)
