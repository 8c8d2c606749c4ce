"""Where the server's noise enters a run, white-box: under central trust on every sum, once; elsewhere never."""

from __future__ import annotations

import numpy as np
import pytest

from server import asking, coordinator
from shared.privacy.plan import RELEASES
from simulations.run import new_run

TRENDING = ("privacy.trending_share=0.1", "trending.every=2")


@pytest.fixture
def seen(tiny, silent, tmp_path, monkeypatch):
    """``seen(*sets)``: of every exchange of a run its kind, the sum as answered, the noise drawn, the sum as used."""

    def spy(name, kind, place, steps=1):
        genuine = getattr(coordinator, name)

        def call(*args, **more):
            used.append((kind, np.rint(args[place] * steps).astype(np.int64)))
            return genuine(*args, **more)

        monkeypatch.setattr(coordinator, name, call)

    answered, drawn, used = [], [], []
    ask, gaussian = asking.asked, asking.discrete_gaussian

    def asked(job, desk, state, task, *rest):
        answers = ask(job, desk, state, task, *rest)
        kind = asking.release_of(task)
        sigma = job.plan.sum_sigma(kind, len(answers.survivors))
        answered.append((kind, answers.total.copy(), sigma, job.plan.trust))
        return answers

    def draw(sigma, size, source):
        drawn.append((sigma, gaussian(sigma, size, source)))
        return drawn[-1][1]

    def start(*sets):
        monkeypatch.setattr(asking, "asked", asked)
        monkeypatch.setattr(asking, "discrete_gaussian", draw)
        spy("read_statistics", "statistics", 1)
        spy("with_contexts", "profile", 2, 1 << 16)
        spy("mean_update", "update", 0)
        spy("estimate", "measurement", 1)
        spy("read_trending", "trending", 1)
        new_run(tiny(*sets), tmp_path / "run", cache=tmp_path / "cache", source=None, screen=silent)
        return answered, drawn, used

    return start


def test_under_central_trust_every_sum_carries_the_servers_noise_before_anything_looks_at_it(seen):
    answered, drawn, used = seen("privacy.trust=central", *TRENDING)
    assert {kind for kind, *_ in answered} == set(RELEASES)
    assert len(answered) == len(drawn) == len(used)
    for (kind, total, planned, _), (sigma, noise), (purpose, sum_used) in zip(answered, drawn, used, strict=True):
        assert kind == purpose
        assert sigma == planned > 0
        # Of a measurement the server counts distinct items, too, and that number gets its noise like the rest.
        assert len(noise) - len(total) == (kind == "measurement")
        assert np.array_equal(sum_used[: len(total)], total + noise[: len(total)])
        assert noise.any()
        assert noise[-1] != 0 or kind != "measurement"


def test_elsewhere_the_server_adds_none(seen):
    answered, drawn, used = seen(*TRENDING)
    assert drawn == []
    for (_, total, *_), (_, sum_used) in zip(answered, used, strict=True):
        assert np.array_equal(sum_used, total)
