"""What is fixed before the first round."""

from __future__ import annotations

import math

import numpy as np
import pytest

from server.budget import profile_signal
from server.job import MEAN_RANK, initial_state, make_job, measured_round, refreshed_round, target_of
from server.warm_start import LARGEST_RANK, rank_of, width_of
from shared.catalogue import Catalogue
from shared.config import Config, merged
from shared.encoder.spec import EncoderSpec, plain_behaviour, unpack
from shared.errors import ConfigError, PlanError
from shared.privacy.clipping import grid_steps
from shared.privacy.plan import claims

NODES = {f"c{n}": n for n in range(1, 21)}


def config(**changes):
    base = {"rounds": 10, "privacy": {"delta": 1e-3}, "policy": {"measure_every": 4}, "model": {"rank": 4}}
    return Config.model_validate(merged(base, changes))


def job(changed=None, users_per_client=1, users=20, items=30):
    names = tuple(f"i{n}" for n in range(items))
    groups = {"text": np.eye(items, 8, dtype=np.float32), "lexical": np.zeros((items, 0), np.float32)}
    groups |= {"category": np.zeros((items, 0), np.float32), "compact": np.eye(items, 5, dtype=np.float32)}
    catalogue = Catalogue(names, names, names, ((),) * items, groups)
    return make_job(
        "run", changed or config(), catalogue, NODES, users_per_client=users_per_client, users=users, kind="simulation"
    )


@pytest.mark.parametrize(("encoder", "width"), [("linear", 5), ("mean", 8)])
def test_the_sizes_come_from_the_catalogue_and_the_configuration(encoder, width):
    made = job(config(model={"buckets": 1000, "encoder": encoder}))
    assert made.encoder == EncoderSpec(width, 4, 30, encoder)
    assert made.public.shape == (30, width)
    assert made.bucket.tolist() == list(range(30))
    assert job(config(model={"buckets": 7})).encoder.buckets == 7
    assert made.clients == tuple(NODES)
    assert made.items == 30


@pytest.mark.parametrize(
    ("every", "rounds", "measured"), [(4, 10, [4, 8, 10]), (5, 10, [5, 10]), (1, 3, [1, 2, 3]), (9, 3, [3])]
)
def test_every_mth_round_and_the_last_are_measured(every, rounds, measured):
    made = config(rounds=rounds, policy={"measure_every": every})
    assert [r for r in range(1, rounds + 1) if measured_round(made, r)] == measured
    assert job(made).plan.measurement.participations == len(measured)


@pytest.mark.parametrize(("size", "allowed", "measurements"), [("everybody", 6, 2), ("everybody", 8, 2), (10, 3, 1)])
def test_no_budget_is_kept_for_measurements_of_rounds_that_participations_do_not_reach(size, allowed, measurements):
    made = job(config(cohort={"size": size}, privacy={"participations": allowed}))  # 6, 8 and 6 rounds of 10
    assert made.plan.measurement.participations == measurements


@pytest.mark.parametrize(
    ("size", "updates", "measurements"), [("everybody", 10, 3), (20, 10, 3), (10, 5, 2), (1, 1, 1)]
)
def test_participations_cover_the_share_of_rounds_that_a_client_is_asked_in(size, updates, measurements):
    made = job(config(cohort={"size": size}, privacy={"trust": "local"}))
    assert made.plan.update.participations == updates
    assert made.plan.measurement.participations == measurements
    assert made.cohort_size == (20 if size == "everybody" else size)


def test_participations_can_be_named():
    assert job(config(privacy={"participations": 3})).plan.update.participations == 3


@pytest.mark.parametrize(("smallest", "clients"), [(0.9, 18), (0.901, 19), (1.0, 20), (0.01, 1)])
def test_the_smallest_cohort_is_a_share_of_the_cohort(smallest, clients):
    privacy = {"trust": "local"}
    assert job(config(cohort={"smallest": smallest}, privacy=privacy)).plan.smallest_cohort == clients
    assert job(config(cohort={"smallest": smallest, "size": 10}, privacy=privacy)).plan.smallest_cohort == max(
        1, math.ceil(clients / 2)
    )


@pytest.mark.parametrize("share", ["statistics_share", "profile_share"])
@pytest.mark.parametrize("epsilon", [8.0, "none"])
def test_encoder_linear_without_what_it_reads_histories_by_is_a_sentence(share, epsilon):
    nothing = {share: 0.0, "epsilon": epsilon}
    with pytest.raises(ConfigError, match=r'"linear".*privacy\.statistics_share.*privacy\.profile_share.*above 0'):
        job(config(privacy=nothing))
    assert job(config(privacy=nothing, model={"encoder": "mean"})).encoder.kind == "mean"


@pytest.mark.parametrize("size", [0, -1, 21])
def test_a_cohort_that_cannot_be_is_a_sentence(size):
    with pytest.raises(ConfigError, match=rf"cohort\.size = {size}: must lie between 1 and the 20 clients"):
        job(config(cohort={"size": size}))


def test_the_plan_promises_what_was_asked_for():
    assert claims(job().plan).everyone <= 8.0
    assert claims(job().plan).everyone > 7.9
    assert job(config(privacy={"epsilon": "none"})).plan.epsilon is None


def test_delta_is_held_against_users_not_clients():
    job(users=20)
    with pytest.raises(PlanError, match="delta"):
        job(users=2000, users_per_client=100)


@pytest.mark.parametrize(("trust", "steps"), [("local", 3), ("distributed", 1), ("central", 1)])
def test_local_steps_are_in_the_plan_where_they_cost(trust, steps):
    made = job(config(privacy={"trust": trust}, policy={"local_iterations": 3}))
    assert made.plan.update.inner_steps == steps
    assert made.targets.iterations_fixed is True


@pytest.mark.parametrize(
    ("encoder", "rate", "trust", "fixed"),
    [
        ("linear", 1.0, "distributed", True),  # the first step is the whole residual
        ("linear", 3.0, "distributed", True),
        ("linear", 0.5, "distributed", False),
        ("linear", 0.5, "local", True),  # accounted for in the plan
        ("mean", 1.0, "distributed", False),
        ("mean", 1.0, "local", True),
    ],
)
def test_local_iterations_are_a_knob_where_they_cost_nothing_and_change_something(encoder, rate, trust, fixed):
    changed = {"model": {"encoder": encoder}, "training": {"learning_rate": rate}, "privacy": {"trust": trust}}
    assert job(config(**changed)).targets.iterations_fixed is fixed


@pytest.mark.parametrize(
    ("size", "participations", "refreshes"), [("everybody", "rounds", 3), (10, "rounds", 2), ("everybody", 6, 2)]
)
def test_refreshes_of_what_is_trending_are_planned_as_scheduled(size, participations, refreshes):
    privacy = {"trending_share": 0.1, "participations": participations}
    made = job(config(cohort={"size": size}, privacy=privacy, trending={"every": 3}))
    assert made.plan.trending.participations == refreshes
    assert [r for r in range(1, 11) if refreshed_round(made.config, r)] == [3, 6, 9]
    paid, total = made.plan.spent({"trending": refreshes}), made.plan.spent(made.plan.full())
    assert paid == pytest.approx(0.1 * total, rel=1e-4)


def test_without_a_share_nothing_is_refreshed():
    made = job(config(trending={"every": 1}))
    assert not any(refreshed_round(made.config, r) for r in range(1, 11))
    assert made.plan.trending.participations == 0


POISSON = {"cohort": {"sampling": "poisson", "size": 5, "smallest": 0}, "privacy": {"trust": "central"}}


def test_a_poisson_cohort_may_have_any_size_and_a_client_be_in_all_of_them():
    made = job(config(**POISSON))
    assert made.plan.sampling == 0.25
    assert made.plan.smallest_cohort == 0
    assert made.plan.full() == {"update": 10, "measurement": 3, "statistics": 1, "profile": 1, "trending": 0}
    assert claims(made.plan).recipients_amplified < claims(made.plan).recipients <= 8.0
    assert job(config(cohort={"size": 5})).plan.sampling is None


@pytest.mark.parametrize("survivors", [0, 5, 20])
def test_under_poisson_nothing_that_is_published_depends_on_how_many_were_drawn(survivors):
    assert job(config(**POISSON)).counted(survivors) == 5
    assert job(config(cohort={"size": 5})).counted(survivors) == survivors
    assert job().counted(survivors) == survivors


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"privacy": {"trust": "distributed"}}, "needs privacy.trust 'central', not 'distributed'"),
        ({"privacy": {"trust": "local"}}, "needs privacy.trust 'central', not 'local'"),
        ({"cohort": {"smallest": 0.9}}, "write cohort.smallest = 0"),
        ({"cohort": {"size": "everybody"}}, "sampling rate 1.0 must be above 0 and below 1"),
        ({"privacy": {"participations": 3}}, 'write privacy.participations = "rounds"'),
    ],
)
def test_what_poisson_cannot_be_combined_with_is_a_sentence(changes, sentence):
    with pytest.raises(PlanError, match=sentence):
        job(config(**merged(POISSON, changes)))


def test_a_smallest_cohort_of_nobody_is_for_poisson_alone():
    assert job(config(cohort={"smallest": 0}, privacy={"trust": "local"})).plan.smallest_cohort == 1


def test_only_the_linear_encoder_has_a_profile_release_and_what_it_costs_is_the_updates_otherwise():
    linear, mean = (job(config(model={"encoder": kind})) for kind in ("linear", "mean"))
    assert (linear.plan.profile.participations, mean.plan.profile.participations) == (1, 0)
    assert linear.width > 0
    assert mean.width == 0
    total = mean.plan.spent(mean.plan.full())
    assert linear.plan.spent(linear.plan.full()) == pytest.approx(total)
    share = linear.config.privacy.profile_share
    assert linear.plan.profile.rho == pytest.approx(share * total, rel=1e-4)
    assert mean.plan.update.rho - linear.plan.update.rho == pytest.approx(share * total / 10, rel=1e-4)


def test_an_update_is_as_large_as_what_is_trained():
    made = job()
    assert made.encoder.trained == 30 * 4 < made.encoder.size
    assert made.plan.update.steps == grid_steps(made.encoder.trained)
    assert len(initial_state(made, np.random.default_rng(0)).optimizer.first) == made.encoder.trained


def sized(**privacy):
    made = job(config(privacy=privacy, model={"rank": "plan", "buckets": 400}), items=400)
    return made.encoder.rank, made.width


def test_the_rank_and_the_profiles_width_grow_with_what_the_noise_leaves():
    sizes = [sized(epsilon=epsilon) for epsilon in (1.0, 8.0, 64.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert sized(epsilon="none") == (LARGEST_RANK, 400)
    assert job(config(model={"rank": "plan", "encoder": "mean"})).encoder.rank == MEAN_RANK
    assert job(config(model={"rank": 7})).encoder.rank == 7


def test_the_rank_follows_from_public_numbers_alone():
    """Everybody could compute it: nothing of a history is among the arguments."""
    signal = profile_signal(target_of(config(), 20, 20, 1, "simulation"))
    assert sized() == (rank_of(signal), width_of(signal, 400))


@pytest.mark.parametrize(("encoder", "clip"), [("linear", 0.85), ("mean", 0.5)])
def test_the_clip_is_the_encoders_unless_it_is_given(encoder, clip):
    assert job(config(model={"encoder": encoder})).plan.update.clip == clip
    assert job(config(model={"encoder": encoder}, privacy={"clip": 0.25})).plan.update.clip == 0.25


@pytest.mark.parametrize("survivors", [18, 20])
def test_the_noise_of_an_update_is_that_of_the_sum_in_the_unit_of_parameters(survivors):
    plan = job().plan
    shares = plan.update.noise_multiplier * plan.update.clip / math.sqrt(plan.honest)
    assert job().update_noise(survivors) == pytest.approx(shares * math.sqrt(survivors))
    central = job(config(privacy={"trust": "central"}))
    mechanism = central.plan.update
    assert central.update_noise(survivors) == pytest.approx(mechanism.noise_multiplier * mechanism.clip)
    assert job(config(privacy={"epsilon": "none"})).update_noise(survivors) == 0.0


def test_under_local_trust_each_step_of_each_client_brings_noise_times_the_learning_rate():
    made = job(
        config(privacy={"trust": "local"}, policy={"local_iterations": 3}, training={"learning_rate": 0.2}),
    )
    step = made.plan.update.noise_multiplier * made.plan.update.clip
    assert made.update_noise(19) == pytest.approx(0.2 * step * math.sqrt(3 * 19))


def test_nothing_is_known_before_the_first_round():
    made = job(config(model={"encoder": "mean"}))
    state = initial_state(made, np.random.default_rng(0))
    assert state.round == -1
    assert state.used == {}
    assert not state.prior.any()
    parts = unpack(made.encoder, state.parameters)
    assert parts["projection"].any()
    assert not parts["identity"].any()
    assert np.array_equal(parts["behaviour"], plain_behaviour())
    linear = initial_state(job(), np.random.default_rng(0))
    assert not linear.parameters.any()
    assert linear.peak == 0.0
