"""Record and replay: the real client path passes on neighbouring data, and what depends on a history is found."""

from __future__ import annotations

import numpy as np
import pytest

from client import host as hosts
from client import release as door
from shared.privacy.clipping import clip_to_grid
from simulations.attack.replay_check import neighbour, replay_check
from simulations.attack.subject import some_clients


def test_the_real_path_passes_and_the_bound_is_reached(subject):
    found = replay_check(subject(), seed=0)
    assert found["differences"] == []
    assert found["outcome"] == "pass"
    assert found["checked"] > 100
    # So a clip twice as wide would show.
    assert 0.99 < found["largest_change"] <= found["allowed"] == 1.0


@pytest.mark.parametrize(
    "sets",
    [
        ["model.encoder=mean"],
        ["model.encoder=mean", "policy.local_iterations=3"],
        ["privacy.trust=central"],
        ["users_per_client=4", "privacy.collusion=0.0"],
        ["privacy.trust=local"],
        ["privacy.trust=local", "privacy.unit=interaction"],
        ["privacy.trust=local", "users_per_client=4", "policy.local_iterations=2"],
        ["privacy.epsilon=none"],
        ["privacy.trending_share=0.2", "trending.every=2"],
        ["privacy.trending_share=0.2", "trending.every=2", "privacy.trust=central"],
    ],
    ids=" ".join,
)
def test_it_passes_for_every_kind_of_run(subject, sets):
    found = replay_check(subject(*sets), seed=0)
    assert found["differences"] == []
    assert found["outcome"] == "pass"
    assert 0 < found["largest_change"] <= found["allowed"]


@pytest.mark.parametrize("kind", ["simulation"])
def test_a_neighbour_lacks_one_history_and_nothing_else(subject, kind):
    one = subject()
    stores = list(some_clients(one, 4).values())
    changed = neighbour(stores, stores[2], one.job.plan)
    assert [store.client for store in changed] == [store.client for store in stores]
    assert len(changed[2].histories[0]) == 0 < len(stores[2].histories[0])
    assert all(changed[n] is stores[n] for n in (0, 1, 3))
    assert one.job.plan.kind == kind


# --- sabotage


def differences(subject):
    found = replay_check(subject(), seed=0)
    assert found["outcome"] == "fail"
    return "\n".join(found["differences"])


def test_a_doubled_clip_is_found(subject, monkeypatch):
    monkeypatch.setattr(door, "clip_to_grid", lambda rows, clip, steps: clip_to_grid(rows, 2 * clip, 2 * steps))
    said = differences(subject)
    assert "changes by 2 clips, at most 1 is allowed" in said
    assert "update, a hostile model" in said


def test_no_clip_is_found(subject, monkeypatch):
    def unclipped(rows, clip, steps):
        return np.asarray(np.clip(np.trunc(rows * (steps / clip)), -(2**30), 2**30), np.int32)

    monkeypatch.setattr(door, "clip_to_grid", unclipped)
    assert "at most 1 is allowed" in differences(subject)


def test_a_clip_per_batch_instead_of_per_unit_is_found(subject, monkeypatch):
    """The sum of a client's rows is clipped: then one user's absence changes what the others may add."""

    def at_once(rows, clip, steps):
        return clip_to_grid(np.concatenate([rows[:1], rows[1:] / (1.0 + np.abs(rows[:1]).max())]), clip, steps)

    monkeypatch.setattr(door, "clip_to_grid", at_once)
    found = replay_check(subject("users_per_client=4", "privacy.collusion=0.0"), seed=0)
    assert "another user's row changes" in "\n".join(found["differences"])


def test_noise_that_is_left_out_for_an_empty_history_is_found(subject, monkeypatch):
    honest = door.seal

    def saving(rows, mechanism, sigma, noise, *, private=False):
        return honest(rows, mechanism, sigma if rows.any() else 0.0, noise, private=private)

    monkeypatch.setattr(door, "seal", saving)
    assert "noise is drawn in another number or order" in differences(subject)


def test_a_client_that_does_not_answer_without_a_history_is_found(subject, monkeypatch):
    honest = hosts.answer_all

    def shy(host, asked):
        there = {client: record for client, record in asked.items() if len(host.stores[client].histories[0])}
        answers = honest(host, there)
        return {client: answers.get(client, hosts.declined_record()) for client in asked}

    monkeypatch.setattr(hosts, "answer_all", shy)
    said = differences(subject)
    assert "other clients answer" in said
    assert "answers have another size" in said
    assert "the ledger has other lines" in said


def test_a_vector_that_depends_on_somebody_else_is_found(subject, monkeypatch):
    honest = hosts.contributions

    def mixed(people, clients, task, *, private):
        rows = np.concatenate(list(honest(people, clients, task, private=private)))
        yield rows - rows.mean(axis=0)

    monkeypatch.setattr(hosts, "contributions", mixed)
    assert "the vector of client" in differences(subject)


def test_clients_that_refuse_everything_show_nothing(subject, monkeypatch):
    monkeypatch.setattr(hosts, "answer_all", lambda _host, asked: dict.fromkeys(asked, hosts.declined_record()))
    assert replay_check(subject(), seed=0)["outcome"] == "cannot tell"
