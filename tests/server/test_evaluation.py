"""From noisy sums to estimates: exact without noise, unbiased and covered with it, silent where nothing can be told."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import exposures
from server.evaluation import _gap, estimate, on_grid, with_distinct
from shared.privacy.calibration import make_plan
from shared.privacy.clipping import clip_to_grid
from shared.privacy.plan import RELEASES, Target
from shared.recall.metrics import coverage, effective_coverage, gini, head_share
from shared.recall.report import ACTIVITY, CENTRE, SCALARS, ReportLayout, useful_users

K, ITEMS = 20, 600
GROUPS = tuple(f"ndcg@10:{group}" for group in ACTIVITY)
MEANS = (f"recall@{K}", "ndcg@10", *GROUPS)
EXPOSURES = (f"effective_coverage@{K}", f"gini@{K}", f"head_share@{K}")
EVERYTHING = {*MEANS, "gap@10", *EXPOSURES, f"coverage@{K}"}


@pytest.fixture(autouse=True)
def _few_bootstraps(monkeypatch):
    monkeypatch.setattr(exposures, "BOOTSTRAPS", 8)


def plan(users, epsilon=8.0, measured=8, trust="distributed"):
    return make_plan(
        Target(
            kind="simulation",
            unit="user",
            trust=trust,
            epsilon=epsilon,
            delta=1e-6,
            population=users,
            smallest_cohort=math.ceil(0.9 * users),
            collusion=0.0,
            rounds=40,
            update_participations=40,
            measurement_participations=measured,
            shares={**dict.fromkeys(RELEASES, 0.0), "update": 0.8, "measurement": 0.2},
            update_dimension=10_000,
            clip=0.5,
            users=users,
        )
    )


def reports(users, rng, items=ITEMS, layout=None, skew=1.0):
    """The grid sum of honest reports and what is true of them; shadow j finds 2^-j of what the policy finds."""
    layout = layout or ReportLayout(K, items)
    odds = (np.arange(items) + 5.0) ** -skew
    recall, ndcg = rng.choice([0.0, 0.25, 0.5, 1.0], users), rng.uniform(0, 1, users)
    group = rng.choice(ACTIVITY, users)
    ndcg = np.where(group == "low", ndcg * 0.5, ndcg)
    keys = np.log(odds) + rng.gumbel(size=(users, items))  # each user's k items, by chance but popular ones first
    lists = np.argpartition(-keys, K - 1, axis=1)[:, :K]
    exposure = np.bincount(lists.ravel(), minlength=items)
    said = {"recall": recall - CENTRE, "ndcg": ndcg - CENTRE, "users": np.ones(users)}
    for name in ACTIVITY:
        said |= {f"ndcg:{name}": (ndcg - CENTRE) * (group == name), f"users:{name}": 1.0 * (group == name)}
    total = np.zeros(layout.length, np.int64)
    for start in range(0, users, 500):
        part = slice(start, start + 500)
        rows = np.zeros((len(recall[part]), layout.length))
        rows[:, : len(SCALARS)] = np.stack([said[name][part] * layout.weight(name) for name in SCALARS], axis=1)
        for j in range(layout.shadows):
            rows[:, len(SCALARS) + j] = (recall[part] * 0.5**j - CENTRE) * layout.weight("shadow")
        np.put_along_axis(rows, layout.exposures.start + lists[part], layout.weight("exposure"), 1)
        total += clip_to_grid(rows, 1.0, 1 << 16).sum(0, dtype=np.int64)
    means = [ndcg[group == name].mean() if (group == name).any() else 0.0 for name in ACTIVITY]
    truth = dict(zip(MEANS, [recall.mean(), ndcg.mean(), *means], strict=True)) | {"gap@10": np.ptp(means)}
    return total, exposure, truth


def truth_of(exposure, at_least):
    return {
        f"coverage@{K}": coverage(exposure),
        f"effective_coverage@{K}": effective_coverage(exposure, at_least),
        f"gini@{K}": gini(exposure),
        f"head_share@{K}": head_share(exposure),
    }


def noisy(total, made, survivors, rng):
    return np.rint(total + rng.normal(0, made.sum_sigma("measurement", survivors), len(total))).astype(np.int64)


def read(made, total, users, rng, items=ITEMS, layout=None):
    return estimate(made, total, users, layout or ReportLayout(K, items), items, rng)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), users=st.integers(30, 400), shadows=st.integers(0, 3))
def test_without_noise_everything_is_exact(seed, users, shadows):
    layout = ReportLayout(K, 60, shadows)
    total, exposure, truth = reports(users, np.random.default_rng(seed), items=60, layout=layout)
    measured = read(plan(users, epsilon=None), total, users, np.random.default_rng(0), 60, layout)
    assert measured.cannot_tell == {}
    assert measured.at_least == 1
    assert measured.attainable == pytest.approx(min(1.0, users * K / 60), abs=1e-12)
    assert measured.exposures == tuple(exposure)
    assert measured.lists == pytest.approx(users * K)
    for name, value in truth_of(exposure, 1).items():
        said = measured.estimates[name]
        assert said.value == said.low == said.high == pytest.approx(value, abs=1e-12)
    for name, value in truth.items():
        said = measured.estimates[name]
        assert said.low == said.high
        assert said.value == pytest.approx(value, abs=2e-4)  # truncation to the grid
    for j, shadow in enumerate(measured.shadows):
        assert shadow.value == pytest.approx(truth[f"recall@{K}"] * (0.5**j - 1.0), abs=2e-4)


def test_counts_stay_exact_for_many_users():
    users, layout = 2_000_000, ReportLayout(K, 3)
    row = np.zeros(layout.length)
    row[SCALARS.index("users")] = layout.weight("users")
    row[SCALARS.index("users:low")] = layout.weight("users:low")
    row[layout.exposures.start] = layout.weight("exposure")
    total = clip_to_grid(row[None], 1.0, 1 << 16)[0].astype(np.int64) * users
    measured = read(plan(2, epsilon=None), total, 2, np.random.default_rng(0), 3)
    assert measured.estimates[f"coverage@{K}"].value == pytest.approx(1 / 3)
    assert measured.estimates[f"recall@{K}"].value == pytest.approx(CENTRE, abs=1e-4)
    assert measured.exposures == (users, 0, 0)
    assert measured.lists == users * K


def test_below_a_useful_cohort_exposures_cannot_be_told_but_means_can():
    made, layout, rng = plan(900, epsilon=2.0), ReportLayout(K, ITEMS), np.random.default_rng(1)
    users = useful_users(made, layout) - 200
    total, _, truth = reports(users, rng)
    measured = read(made, noisy(total, made, 900, rng), 900, rng)
    assert measured.exposures is None
    assert {*EXPOSURES, f"coverage@{K}"} <= set(measured.cannot_tell)
    assert f"fewer than {useful_users(made, layout)}" in measured.cannot_tell[f"gini@{K}"]
    recall = measured.estimates[f"recall@{K}"]
    assert abs(recall.value - truth[f"recall@{K}"]) < 3 * recall.half_width


def test_with_noise_raw_coverage_cannot_be_told_unless_the_server_sees_the_sum():
    users, rng = 400, np.random.default_rng(2)
    made = plan(users)
    measured = read(made, noisy(reports(users, rng)[0], made, users, rng), users, rng)
    assert list(measured.cannot_tell) == [f"coverage@{K}"]
    assert "trust distributed" in measured.cannot_tell[f"coverage@{K}"]
    assert set(measured.estimates) == EVERYTHING - {f"coverage@{K}"}
    assert len(measured.exposures) == ITEMS
    assert measured.exposure_sigma > 0
    said = measured.to_dict()
    assert said[f"coverage@{K}"] is None
    assert said[f"effective_coverage@{K}"]["at_least"] == measured.at_least
    assert said[f"effective_coverage@{K}"]["attainable"] == measured.attainable
    assert "exposures" not in said  # as long as the catalogue
    assert "shadows" not in said


def test_m_is_the_same_whoever_answers():
    users, rng = 1000, np.random.default_rng(3)
    made = plan(users)
    total = reports(users, rng)[0]
    seen = {read(made, noisy(total, made, n, rng), n, rng).at_least for n in (900, 950, 1000)}
    assert len(seen) == 1


def test_when_nobody_has_anything_held_out_nothing_can_be_told():
    users, rng = 300, np.random.default_rng(3)
    made, empty = plan(users, epsilon=1.0), np.zeros(ReportLayout(K, ITEMS).length, np.int64)
    measured = read(made, noisy(empty, made, users, rng), users, rng)
    assert measured.estimates == {}
    assert measured.shadows == ()
    assert measured.exposures is None
    assert set(measured.cannot_tell) == EVERYTHING
    assert read(plan(5, epsilon=None), empty, 5, rng).estimates == {}


def test_a_group_that_nobody_is_in_silences_all_groups_and_the_gap_alone():
    """As where thresholds are not known, and everybody counts as one group."""
    users, layout, rng = 2000, ReportLayout(K, ITEMS), np.random.default_rng(4)
    total, _, truth = reports(users, rng)
    for what in ("ndcg", "users"):
        places = [SCALARS.index(f"{what}:{group}") for group in ACTIVITY]
        total[places[-1]] = total[places].sum()
        total[places[:-1]] = 0
    made = plan(users)
    measured = read(made, noisy(total, made, users, rng), users, rng, layout=layout)
    assert set(measured.cannot_tell) == {*GROUPS, "gap@10", f"coverage@{K}"}
    assert "activity group 'low'" in measured.cannot_tell["gap@10"]
    assert abs(measured.estimates["ndcg@10"].value - truth["ndcg@10"]) < 0.05


def test_items_that_share_buckets_have_no_coverage_of_their_own():
    users, rng = 500, np.random.default_rng(5)
    total = reports(users, rng)[0]
    for epsilon in (None, 8.0):
        measured = estimate(plan(users, epsilon=epsilon), total, users, ReportLayout(K, ITEMS), 2 * ITEMS, rng)
        assert {*EXPOSURES, f"coverage@{K}"} <= set(measured.cannot_tell)
        assert "1200 items share 600 exposure buckets" in measured.cannot_tell[f"coverage@{K}"]
        assert len(measured.exposures) == ITEMS  # buckets can be priced all the same


def rounds(times, users, seed, *, layout=None, trust="distributed", skew=1.0, **how):
    """Simulated measured rounds of the same reports: name -> (value, low, high, truth) rows."""
    layout = layout or ReportLayout(K, ITEMS, 0, trust == "central")
    made, rng = plan(users, trust=trust, **how), np.random.default_rng(seed)
    total, exposure, truth = reports(users, rng, layout=layout, skew=skew)
    if trust == "central":
        total = with_distinct(layout, made.measurement.steps, total)
    out = {}
    for _ in range(times):
        measured = read(made, noisy(total, made, users, rng), users, rng, layout=layout)
        true = truth | truth_of(exposure, measured.at_least)
        for name, said in measured.estimates.items():
            assert 0 <= said.low <= said.value <= said.high <= 1
            out.setdefault(name, []).append((said.value, said.low, said.high, true[name]))
        for j, said in enumerate(measured.shadows):
            row = (said.value, said.low, said.high, truth[f"recall@{K}"] * (0.5**j - 1.0))
            out.setdefault(f"shadow {j}", []).append(row)
    return {name: np.array(rows) for name, rows in out.items()}


def test_means_and_shadows_are_unbiased_and_their_bars_cover(monkeypatch):
    monkeypatch.setattr("server.evaluation.useful_users", lambda *_: 10**9)  # exposures take their time
    found = rounds(400, 2000, 6, layout=ReportLayout(K, ITEMS, 2))
    assert set(found) == {*MEANS, "gap@10", "shadow 0", "shadow 1"}
    for name in (*MEANS, "shadow 0", "shadow 1"):
        rows = found[name]
        covered = (rows[:, 1] <= rows[:, 3]) & (rows[:, 3] <= rows[:, 2])
        assert 0.91 <= covered.mean() <= 0.985, name
        assert abs(rows[:, 0].mean() - rows[0, 3]) < 4 * rows[:, 0].std() / math.sqrt(400), name


def test_a_difference_may_be_negative_and_is_not_cut_off(monkeypatch):
    monkeypatch.setattr("server.evaluation.useful_users", lambda *_: 10**9)
    rows = rounds(20, 2000, 7, layout=ReportLayout(K, ITEMS, 2))["shadow 1"]
    assert (rows[:, 0] < -0.1).all()
    assert (rows[:, 1] < rows[:, 0]).all()


@pytest.mark.parametrize("means", [[0.3, 0.3, 0.3], [0.25, 0.3, 0.35], [0.1, 0.3, 0.32], [0.2, 0.2, 0.5]], ids=str)
@pytest.mark.parametrize("errors", [[0.01, 0.01, 0.01], [0.03, 0.03, 0.03], [0.02, 0.04, 0.06]], ids=str)
def test_the_gap_is_freed_of_what_noise_adds_to_a_largest_difference(means, errors):
    rng, true = np.random.default_rng(8), np.ptp(means)
    seen = np.array(means) + np.array(errors) * rng.normal(size=(300, 3))
    said = [_gap(row, np.array(errors), rng) for row in seen]
    plain = np.ptp(seen, axis=1).mean() - true
    corrected = np.mean([s.value for s in said]) - true
    assert abs(corrected) < max(0.85 * abs(plain), 0.3 * max(errors))
    assert 0.90 <= np.mean([s.low <= true <= s.high for s in said]) <= 0.99


def test_a_gap_without_noise_is_the_gap():
    said = _gap(np.array([0.2, 0.5, 0.3]), np.zeros(3), np.random.default_rng(0))
    assert said.value == said.low == said.high == pytest.approx(0.3)


@given(seed=st.integers(0, 2**32), central=st.just(True), shadows=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_with_the_distinct_count_one_user_still_moves_the_sum_by_at_most_the_clip(seed, central, shadows):
    """Zero-out under trust central: the vector and the coordinate that the server adds, together."""
    layout, rng, steps = ReportLayout(K, 60, shadows, central), np.random.default_rng(seed), 1 << 16
    rows = np.zeros((3, layout.length))
    for row in rows:
        row[: len(SCALARS)] = [layout.weight(n) * (CENTRE if n in ("recall", "ndcg") else 1.0) for n in SCALARS]
        for group in ACTIVITY[:2]:  # of groups only one is ever set
            row[[SCALARS.index(f"{what}:{group}") for what in ("ndcg", "users")]] = 0.0
        row[SCALARS.index("ndcg:high")] *= CENTRE
        row[layout.shadowed] = layout.weight("shadow") * CENTRE
        row[layout.exposures.start + rng.permutation(60)[:K]] = layout.weight("exposure")
    grid = clip_to_grid(rows, 1.0, steps).astype(np.int64)
    whole = with_distinct(layout, steps, grid.sum(0))
    for user in range(3):
        without = with_distinct(layout, steps, grid.sum(0) - grid[user])
        assert np.sqrt(np.square(whole - without).sum()) <= steps
    alone = with_distinct(layout, steps, grid[0])
    assert np.sqrt(np.square(alone).sum()) == pytest.approx(steps, rel=1e-3)  # the bound is met, so it is the right one


def test_the_distinct_count_counts_buckets_shown():
    layout, steps = ReportLayout(K, 5, 0, central=True), 1 << 16
    total = np.zeros(layout.length, np.int64)
    total[layout.exposures] = [7, 0, 3, 0, 1]
    made = with_distinct(layout, steps, total)
    assert made[:-1].tolist() == total.tolist()
    assert made[-1] == 3 * on_grid(layout.weight("distinct"), steps)


def test_under_trust_central_raw_coverage_is_told_with_a_bar_that_covers(monkeypatch):
    monkeypatch.setattr("server.evaluation.useful_users", lambda *_: 10**9)
    rows = rounds(300, 1500, 9, trust="central", epsilon=20.0, measured=1, skew=3.0)[f"coverage@{K}"]
    covered = (rows[:, 1] <= rows[:, 3]) & (rows[:, 3] <= rows[:, 2])
    assert 0.0 < rows[0, 3] < 1.0
    assert 0.91 <= covered.mean() <= 0.985
    assert abs(rows[:, 0].mean() - rows[0, 3]) < 4 * rows[:, 0].std() / math.sqrt(300)


def test_a_bar_that_holds_everything_is_no_estimate():
    users, rng, layout = 400, np.random.default_rng(10), ReportLayout(K, ITEMS, 0, central=True)
    made = plan(users, epsilon=1.0, trust="central")
    total = with_distinct(layout, made.measurement.steps, reports(users, rng, layout=layout)[0])
    measured = read(made, noisy(total, made, users, rng), users, rng, layout=layout)
    assert "would hold all that" in measured.cannot_tell[f"coverage@{K}"]


def test_lists_that_are_not_full_are_no_surprise():
    """Where a catalogue is nearly used up, exposures do not add up to users times k."""
    users, layout, rng = 2000, ReportLayout(K, ITEMS), np.random.default_rng(11)
    total, exposure, _ = reports(users, rng)
    total[layout.exposures] //= 2
    made = plan(users)
    measured = read(made, noisy(total, made, users, rng), users, rng)
    assert abs(measured.estimates[f"gini@{K}"].value - gini(exposure)) < 0.1  # halving changes no Gini index
    assert measured.lists == pytest.approx(users * K, rel=0.05)


def test_bars_of_exposures_cover_in_a_few_rounds():
    found = rounds(8, 1500, 5, skew=2.0)
    for name in EXPOSURES:
        covered = ((found[name][:, 1] <= found[name][:, 3]) & (found[name][:, 3] <= found[name][:, 2])).sum()
        assert covered >= 6, (name, covered)
