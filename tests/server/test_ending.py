"""Which model a run ends with: the latest of the measured rounds that noise does not tell from the highest."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.aggregation import OptimizerState
from server.checkpoint import Best, State, load_state, save_state
from server.ending import BEST_FILE, better, conclude, keep_best
from shared.config import PolicySection, first_policy
from shared.errors import RunError
from shared.policy.memory import Memory
from shared.policy.sight import Seen

POLICY = first_policy(PolicySection())


def after(*measured):
    """What is kept after (value, half width) of rounds 1, 2, ..."""
    best = None
    for number, seen in enumerate(measured, 1):
        best = better(best, number, POLICY, None if seen is None else Seen(*seen))
    return best


def a_state(round_, best=None, **changes):
    arrays = [np.full(4, round_, np.float32) for _ in range(3)]
    state = State(
        round=round_,
        parameters=arrays[0],
        optimizer=OptimizerState(round_, arrays[1], arrays[2]),
        prior=np.zeros(3, np.float32),
        policy=replace(POLICY, version=round_ + 1),
        controller=Memory(POLICY),
        best=best,
    )
    return replace(state, **changes)


def kept(round_, value=0.2, version=1):
    seen = Seen(value, 0.01)
    return Best(round_, replace(POLICY, version=version), seen, seen)


# --- the rule


@pytest.mark.parametrize(
    ("measured", "round_", "why"),
    [
        ([(0.2, 0.01)], 1, "the first that is measured"),
        ([(0.2, 0.01), (0.3, 0.01)], 2, "clearly better"),
        ([(0.3, 0.01), (0.2, 0.01)], 1, "clearly worse"),
        ([(0.20, 0.01), (0.205, 0.01)], 2, "a little better: a tie, the later one"),
        ([(0.205, 0.01), (0.20, 0.01)], 2, "a little worse: a tie, the later one"),
        ([(0.3, 0.01), None], 1, "what cannot be told is no candidate"),
        ([None, None], None, "nothing was measured"),
        ([(0.3, 0.0), (0.3, 0.0)], 2, "without noise an equal is a tie"),
        ([(0.3, 0.0), (0.2999, 0.0)], 1, "without noise nothing else is"),
        ([(0.3, 0.01), (0.25, 0.2)], 2, "so noisy that it tells nothing"),
    ],
)
def test_the_latest_round_that_noise_does_not_tell_from_the_highest(measured, round_, why):
    best = after(*measured)
    assert (None if best is None else best.round) == round_, why


def test_many_small_losses_do_not_add_up():
    """Each round is within the noise of the one before; the last ones are far below the first."""
    best = after(*[(0.30 - 0.01 * n, 0.01) for n in range(10)])
    assert best.round == 2  # 0.30 - 0.01 is within hypot(0.01, 0.01) of the highest, 0.28 is not
    assert best.highest == Seen(0.30, 0.01)


def test_many_small_gains_do():
    assert after(*[(0.20 + 0.005 * n, 0.01) for n in range(10)]).round == 10


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.3)), min_size=1, max_size=12))
def test_what_is_kept_is_always_within_the_noise_of_the_highest_and_nothing_later_is(measured):
    best = after(*measured)
    top = max(measured, key=lambda seen: seen[0])
    assert best.highest.value == top[0]
    assert best.recall == Seen(*measured[best.round - 1])
    for value, half in measured[best.round :]:
        assert value < best.highest.value
        highest = max(seen[0] for seen in measured)
        assert value < highest - min(math.hypot(half, h) for _, h in measured) + 1e-12


def test_the_rule_is_less_lucky_than_the_maximum():
    """Twenty equally good rounds: the highest estimate flatters by two standard deviations, the rule's hardly."""
    rng = np.random.default_rng(0)
    half = 0.02
    flattery = {"rule": [], "maximum": []}
    for _ in range(300):
        values = 0.3 + rng.normal(0, half / 1.96, 20)
        flattery["rule"].append(after(*[(v, half) for v in values]).recall.value - 0.3)
        flattery["maximum"].append(values.max() - 0.3)
    assert np.mean(flattery["maximum"]) > 1.5 * half / 1.96
    assert np.mean(flattery["rule"]) < 0.3 * np.mean(flattery["maximum"])


# --- the best model's own checkpoint


def test_the_best_model_is_kept_with_the_policy_it_was_measured_under(tmp_path):
    keep_best(a_state(3, kept(3, version=2)), tmp_path)  # the policy of the next round is already another
    best = load_state(tmp_path / BEST_FILE)
    assert (best.round, best.policy.version, best.parameters[0]) == (3, 2, 3.0)


def test_a_round_that_is_not_the_best_leaves_the_file(tmp_path):
    keep_best(a_state(3, kept(3)), tmp_path)
    before = (tmp_path / BEST_FILE).read_bytes()
    keep_best(a_state(4, kept(3)), tmp_path)
    assert (tmp_path / BEST_FILE).read_bytes() == before


def test_nothing_measured_keeps_nothing(tmp_path):
    keep_best(a_state(3), tmp_path)
    assert not (tmp_path / BEST_FILE).exists()


# --- the end


@pytest.mark.parametrize(
    ("stopped", "round_", "chosen"),
    [
        ("finished", 5, "last"),
        ("budget exhausted", 3, "best private estimate"),
        ("no quorum", 3, "best private estimate"),
    ],
)
def test_a_whole_run_ends_with_its_last_model_and_a_cut_one_with_its_best(tmp_path, stopped, round_, chosen):
    keep_best(a_state(3, kept(3, version=2)), tmp_path)
    ending = conclude(a_state(5, kept(3, version=2)), stopped, tmp_path)
    assert (ending.model.round, ending.chosen, ending.rounds_done, ending.last.round) == (round_, chosen, 5, 5)
    assert ending.model.parameters[0] == round_
    assert ending.model.policy.frozen
    assert not ending.last.policy.frozen
    assert ending.to_dict()["round"] == round_
    assert ending.event()["policy"]["frozen"] is True


def test_the_estimate_is_the_one_of_the_model_that_is_given_out(tmp_path):
    keep_best(a_state(3, kept(3, 0.4)), tmp_path)
    assert conclude(a_state(5, kept(3, 0.4)), "budget exhausted", tmp_path).to_dict()["estimate"]["value"] == 0.4
    assert conclude(a_state(5, kept(3, 0.4)), "finished", tmp_path).estimate is None  # round 5 was not measured
    assert conclude(a_state(3, kept(3, 0.4)), "finished", tmp_path).estimate == Seen(0.4, 0.01)


def test_a_run_cut_before_anything_was_measured_ends_with_its_last_model(tmp_path):
    ending = conclude(a_state(2), "budget exhausted", tmp_path)
    assert (ending.model.round, ending.chosen) == (2, "last")
    assert "no round could be measured" in ending.why


def test_a_run_without_contexts_says_what_did_not_come(tmp_path):
    ending = conclude(a_state(0), "no contexts", tmp_path)
    assert (ending.model.round, ending.chosen) == (0, "last")
    assert "the one-off statistics or profile did not come" in ending.why


def test_a_run_cut_before_its_first_round_says_round_0(tmp_path):
    assert conclude(a_state(-1), "budget exhausted", tmp_path).to_dict()["round"] == 0


def test_a_lost_best_model_is_a_sentence(tmp_path):
    with pytest.raises(RunError, match=r"best\.safetensors: no readable checkpoint"):
        conclude(a_state(5, kept(3)), "budget exhausted", tmp_path)


def test_the_best_models_file_survives_a_checkpoint_of_another_round(tmp_path):
    save_state(a_state(5, kept(3)), tmp_path / "checkpoint.safetensors")
    assert load_state(tmp_path / "checkpoint.safetensors").best == kept(3)
