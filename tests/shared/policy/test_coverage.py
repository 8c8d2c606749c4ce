from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shared.config import PolicySection, first_policy
from shared.policy.coverage import DEPTH_LIMIT, EXPLORATION_STEP, is_narrow, reached, widen
from shared.policy.memory import Memory
from shared.policy.sight import Seen, Sight, Targets
from shared.recall.metrics import coverage, exposure
from shared.recall.rerank import recommend

POLICY = replace(first_policy(PolicySection()), exploration=0.05, depth=1000)
TARGETS = Targets(recall=0.3, coverage=0.5, items=1000)
VAGUE = Seen(0.3, 0.03)


def test_coverage_that_can_be_told_is_taken_as_it_is():
    assert reached(POLICY, Sight(None, Seen(0.3, 0.01), Seen(0.1, 0.02), lists=1e4), TARGETS) == Seen(0.3, 0.01)


def test_what_cannot_be_told_is_not_made_up():
    assert reached(POLICY, Sight(None, lists=1e4), TARGETS) is None
    assert not is_narrow(None, TARGETS)


def test_without_chance_the_floor_is_effective_coverage():
    policy = replace(POLICY, exploration=0.0)
    assert reached(policy, Sight(None, effective=Seen(0.1, 0.02), lists=1e4), TARGETS) == Seen(0.1, 0.02)


def shown(policy, scores, price, rng):
    seen, none = np.zeros(len(scores), np.int64), np.zeros(scores.shape, bool)
    return recommend(policy, scores, none, seen, price, scores[:1].T, [rng] * len(scores))


@pytest.mark.parametrize(("depth", "exploration"), [(1000, 0.05), (1000, 0.2), (400, 0.1), (100, 0.1)])
@pytest.mark.parametrize("alike", [0.0, 1.0])
def test_lists_reach_at_least_the_floor(depth, exploration, alike):
    """Users alike or not: the floor assumes the worst, that all share one pool."""
    rng, users = np.random.default_rng(0), 500
    shared = rng.standard_normal(1000)
    scores = (alike * shared + (1 - alike) * rng.standard_normal((users, 1000))).astype(np.float32)
    scores = np.broadcast_to(scores, (users, 1000)).copy()
    policy = replace(POLICY, depth=depth, exploration=exploration)
    nothing = np.zeros(1000, np.float32)
    counts = exposure(shown(policy, scores, nothing, rng), 1000)
    effective = Seen(float((counts >= 20).mean()), 0.0)
    floor = reached(policy, Sight(None, effective=effective, lists=users * 20.0), TARGETS)
    assert floor is not None
    assert floor.value >= effective.value
    assert coverage(counts) > floor.value - 0.02  # chance itself
    if alike and depth == 1000:
        assert coverage(counts) == pytest.approx(floor.value, abs=0.03)  # and it is no lower than need be


@pytest.mark.parametrize("alike", [0.0, 1.0])
@pytest.mark.parametrize("depth", [1000, 400])
@pytest.mark.parametrize(
    ("changes", "paid"),
    [
        ({"exposure_price": 1.0}, lambda rank: 1.0 - rank / 1000),
        ({"exposure_prices": (0,) * 900 + (50,) * 100}, lambda rank: 0.5 * (rank < 100)),
        ({"exposure_prices": (0,) * 100 + (50,) * 900}, lambda rank: 0.5 * (rank < 900)),
        ({"exposure_prices": (0,) * 90 + (50,) * 10}, lambda rank: 0.5 * (rank < 100)),  # ten items a bucket
    ],
)
def test_lists_reach_at_least_the_floor_once_items_pay(changes, paid, depth, alike):
    """Who is liked by most pays most: chance is left the cheaper half of the candidates."""
    rng, users = np.random.default_rng(0), 500
    shared = rng.standard_normal(1000)
    scores = (alike * shared + (1 - alike) * rng.standard_normal((users, 1000))).astype(np.float32)
    policy = replace(POLICY, depth=depth, exploration=0.5, **changes)
    price = np.asarray(paid(np.argsort(np.argsort(-shared))), np.float32)
    counts = exposure(shown(policy, scores, price, rng), 1000)
    effective = Seen(float((counts >= 20).mean()), 0.0)
    floor = reached(policy, Sight(None, effective=effective, lists=users * 20.0), TARGETS)
    assert floor.value >= effective.value
    assert coverage(counts) > floor.value - 0.02  # chance itself


def test_the_share_asked_for_knows_that_chance_is_left_the_cheaper_half():
    first = replace(POLICY, exploration=0.0)
    low = replace(TARGETS, coverage=0.3)
    free, priced = (
        widen(policy, Memory(policy), a_sight(), low).policy for policy in (first, replace(first, exposure_price=1.0))
    )
    at_least = a_sight(effective=Seen(0.08, 0.0))
    for policy in (free, priced):
        assert 0.3 <= reached(policy, at_least, low).value < 0.31


def test_nothing_is_known_of_more_items_than_can_be_candidates():
    policy = replace(POLICY, depth=100, exploration=0.5)
    floor = reached(policy, Sight(None, effective=Seen(0.05, 0.01), lists=1e9), TARGETS)
    assert floor == Seen(pytest.approx(0.1), pytest.approx(0.0))


# --- how it is widened


def a_sight(recall=VAGUE, **seen):
    return Sight(recall, **{"effective": Seen(0.1, 0.02), "lists": 20_000.0} | seen)


def test_depth_comes_first_where_no_share_from_such_pools_would_do():
    first = replace(POLICY, depth=200, exploration=0.0)
    turn = widen(first, Memory(first), a_sight(), TARGETS)
    assert (turn.knob, turn.policy.depth, turn.bounded) == ("depth", 1000, True)  # all items, or ten times as many
    turn = widen(replace(first, depth=50), Memory(replace(first, depth=50)), a_sight(), TARGETS)
    assert turn.policy.depth == DEPTH_LIMIT * 50


def test_the_share_is_what_the_target_needs_at_the_low_end_of_the_bar():
    first = replace(POLICY, exploration=0.0)
    turn = widen(first, Memory(first), a_sight(), TARGETS)
    assert (turn.knob, turn.bounded) == ("exploration", True)
    at_least = a_sight(effective=Seen(0.08, 0.0))
    assert reached(turn.policy, at_least, TARGETS).value == pytest.approx(0.5, abs=0.01)
    assert reached(turn.policy, at_least, TARGETS).value >= 0.5


def test_a_coverage_that_can_be_told_holds_todays_chance_places_already():
    first = replace(POLICY, exploration=0.02)
    more = widen(first, Memory(first), a_sight(coverage=Seen(0.4, 0.0)), TARGETS).policy.exploration
    missing = -np.log((1 - 0.5) / (1 - 0.4)) * 1000 / 20_000
    assert more == pytest.approx(0.02 + missing, abs=0.001)


def test_no_step_costs_more_than_a_move_may_and_unseen_there_is_only_one():
    first = replace(POLICY, exploration=0.0)
    few = a_sight(lists=500.0)
    turn = widen(first, Memory(first), few, TARGETS)
    assert turn.policy.exploration == EXPLORATION_STEP
    assert widen(turn.policy, Memory(first), few, TARGETS) is None
    sharp = replace(few, recall=Seen(0.3, 0.001))
    policy, shares = first, []
    while (turn := widen(policy, Memory(first), sharp, TARGETS)) is not None:
        policy = turn.policy
        shares.append(policy.exploration)
    assert shares == pytest.approx([0.05, 0.1, 0.15, 0.2])


def test_chance_is_left_to_the_most_active_third_where_it_is_known():
    first = replace(POLICY, exploration=0.0)
    all_of_them, some = (widen(first, Memory(first), a_sight(active=n), TARGETS) for n in (0, 101))
    assert (all_of_them.policy.explore_from, some.policy.explore_from) == (0, 101)
    assert some.policy.exploration == pytest.approx(3 * all_of_them.policy.exploration, abs=0.003)
    assert "of users who have seen 101 items" in some.what
    floors = [reached(turn.policy, a_sight(active=101), TARGETS).value for turn in (all_of_them, some)]
    assert floors[0] == pytest.approx(floors[1], abs=0.01)


def test_of_a_third_three_times_the_share_costs_the_same():
    first = replace(POLICY, exploration=0.0)
    assert widen(first, Memory(first), a_sight(lists=500.0, active=101), TARGETS).policy.exploration == 0.15


def test_who_explores_by_configuration_stays_who_explores():
    everybody = replace(POLICY, exploration=0.01)
    assert widen(everybody, Memory(everybody), a_sight(active=101), TARGETS).policy.explore_from == 0
    some = replace(POLICY, exploration=0.0, explore_from=50)
    assert widen(some, Memory(some), a_sight(active=101), TARGETS).policy.explore_from == 50


def test_of_a_group_of_unknown_size_nothing_is_promised():
    first = replace(POLICY, explore_from=200)
    assert reached(first, a_sight(active=101), TARGETS) == Seen(0.1, 0.02)
    assert widen(first, Memory(first), a_sight(active=101), TARGETS) is None


@pytest.mark.parametrize("lists", [0.0, -50.0])
def test_without_lists_nothing_can_be_worked_out(lists):
    first = replace(POLICY, exploration=0.0)
    assert reached(first, a_sight(lists=lists), TARGETS) == Seen(0.1, 0.02)
    assert widen(first, Memory(first), a_sight(lists=lists), TARGETS).policy.exploration == EXPLORATION_STEP


@pytest.mark.parametrize(
    "changes", [{"exposure_price": 0.5}, {"diversity": 0.1}, {"exposure_prices": (0,) * 999 + (1,)}]
)
def test_depth_is_no_bounded_turn_once_something_re_ranks(changes):
    first = replace(POLICY, depth=200, exploration=0.0, **changes)
    assert widen(first, Memory(first), a_sight(), TARGETS).knob == "exploration"


def test_knobs_that_rest_are_left_alone():
    first = replace(POLICY, depth=200, exploration=0.0)
    assert widen(first, Memory(first, resting={"depth": 1}), a_sight(), TARGETS).knob == "exploration"
    assert widen(first, Memory(first, resting={"depth": 1, "exploration": 1}), a_sight(), TARGETS) is None
