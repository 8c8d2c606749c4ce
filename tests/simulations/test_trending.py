"""A run that refreshes what is trending: what it pays, what it lists, and that nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from server.checkpoint import load_state
from shared.audit.reading import read_evidence
from shared.audit.verify import verify
from shared.errors import ConfigError, PlanError
from shared.privacy.ledger import read_ledger
from simulations.numbered import Lazily
from simulations.ray_engine import run_on_ray
from simulations.run import CHECKPOINT, new_run
from simulations.trending import judged, trending_summary
from simulations.world import load_world

ON = ("privacy.trending_share=0.2", "trending.every=2")
DAY = "2020-09-13"  # of the newest event in the tiny data


@pytest.fixture
def run(tmp_path, tiny, silent):
    def start(name, *sets):
        return new_run(tiny(*sets), tmp_path / name, cache=tmp_path / "cache", source=None, screen=silent)

    return start


def events(folder, kind, name="ledger.jsonl"):
    made = [line.event for line in read_ledger(folder / name)]
    return [event for event in made if event["type"] == kind and event.get("release") == "trending"]


def rows(folder):
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_it_is_asked_for_as_scheduled_paid_for_and_covered(run, tmp_path):
    summary = run("a", *ON)
    folder = tmp_path / "a"
    assert [event["round"] for event in events(folder, "intent")] == [2]
    paid = events(folder, "intent", "clients.jsonl")
    assert len(paid) == 24
    assert {event["day"] for event in paid} == {DAY}
    assert set(summary["epsilon_by_kind"]) == {"update", "measurement", "statistics", "profile", "trending"}
    assert 7.99 < summary["epsilon"] <= 8.0
    assert "trending 1)" in summary["covers"]
    assert [("trending" in row) for row in rows(folder)] == [False, True, False]
    assert list(load_state(folder / CHECKPOINT).trending) == rows(folder)[1]["trending"]
    report = verify(read_evidence(folder, keys=None))
    assert [f.check for f in report.findings if f.outcome == "fail"] == []
    assert "<h2>Trending</h2>" in (folder / "report.html").read_text()


def test_without_noise_the_list_is_the_truth(run, tmp_path):
    found = run("a", *ON, "privacy.epsilon=none")["trending"]
    assert (found["day"], found["people"], found["window_days"]) == (DAY, 24, 7)
    assert found["precision@20"] == found["recall@20"] > 0.8  # short histories weigh more, so not all of it
    assert [(one["round"], one["listed"] > 20) for one in found["refreshes"]] == [(2, True)]


def test_a_day_is_all_that_counts_when_the_window_is_a_day(run):
    assert run("a", *ON, "privacy.epsilon=none", "trending.window_days=1")["trending"]["people"] == 24


def test_off_nothing_is_asked_and_nothing_is_said_of_it(run, tmp_path):
    summary = run("a")
    folder = tmp_path / "a"
    assert "trending" not in summary
    assert "trending" not in json.dumps(rows(folder))
    assert "trending" not in (folder / "ledger.jsonl").read_text()
    assert "trending" not in (folder / "clients.jsonl").read_text()
    assert "<h2>Trending</h2>" not in (folder / "report.html").read_text()
    assert load_state(folder / CHECKPOINT).trending == ()


def test_a_refresh_changes_nothing_but_the_list_and_the_noise(run, tmp_path):
    for name, sets in {"a": (), "b": ON}.items():
        run(name, *sets, "privacy.epsilon=none")
    a, b = (load_state(tmp_path / name / CHECKPOINT) for name in "ab")
    assert np.array_equal(a.parameters, b.parameters)
    assert a.policy == b.policy


def test_a_share_that_no_round_spends_is_refused(run):
    with pytest.raises(PlanError, match=r"trending\.every must be at most the number of rounds"):
        run("a", "privacy.trending_share=0.2", "trending.every=4")


def test_clients_of_the_real_calendar_are_not_asked_for_what_lies_years_back(tmp_path, tiny, silent):
    config = tiny(*ON, "seed=none", seed=None)
    with pytest.raises(ConfigError, match="trending_share=0"):
        run_on_ray(config, tmp_path / "a", cache=tmp_path, source=None, screen=silent)


def test_histories_that_lie_in_a_file_are_read_for_the_day_and_once_more(tiny, tmp_path):
    config, reads = tiny(*ON), []
    world = load_world(config, tmp_path, None, lambda _sentence: None)
    lazy = Lazily(24, lambda user: reads.append(user) or world.histories[user])
    found = trending_summary(config, tmp_path, replace(world, histories=lazy))
    assert found == trending_summary(config, tmp_path, world)
    assert found["trending"]["people"] == 24
    assert reads == [*range(24)] * 2


def test_a_list_is_held_against_the_twenty_with_most_people():
    ids = [f"i{n}" for n in range(30)]
    people = np.arange(30)[::-1]
    assert judged(ids[:20], people, ids) == {"listed": 20, "precision": 1.0, "recall": 1.0}
    assert judged(["i0", "i29"], people, ids) == {"listed": 2, "precision": 0.5, "recall": 1 / 20}
    assert judged([], people, ids) == {"listed": 0, "precision": None, "recall": 0.0}
    assert judged(ids, people, ids)["precision"] == 1.0  # the first twenty alone
    assert judged(["i3"], np.zeros(30, int), ids) == {"listed": 1, "precision": 0.0, "recall": None}
