"""Numbers that pages derive from the default configuration are recomputed, so that a new default breaks its page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from server.budget import LEAST, MOST, profile_signal
from server.job import MEAN_RANK, layout_of_reports, target_of
from server.warm_start import rank_of, width_of
from shared.encoder.profile import profile_length
from shared.encoder.spec import EncoderSpec
from shared.privacy.accounting import epsilon_by_zcdp
from shared.privacy.calibration import make_plan
from shared.privacy.clipping import grid_steps
from shared.privacy.plan import ROUNDED, TAU, claims
from shared.recall.report import HISTORY_BINS
from simulations.config import resolve

DOCS = Path(__file__).parents[2] / "docs"
USERS, ITEMS, TEXT_WIDTH, COMPACT = 943, 1682, 384, 32  # MovieLens 100K, MiniLM, compact text vectors


@pytest.fixture(scope="module")
def config():
    return resolve("ml-100k")


@pytest.fixture(scope="module")
def target(config):
    return target_of(config, USERS, USERS, 1, "simulation")


@pytest.fixture(scope="module")
def spec(target):
    return EncoderSpec(COMPACT, rank_of(profile_signal(target)), ITEMS, "linear")


@pytest.fixture(scope="module")
def plan(target, spec):
    return make_plan(replace(target, update_dimension=spec.trained))


def page(name: str) -> str:
    return " ".join((DOCS / name).read_text("utf-8").split())


def test_the_collusion_example_is_the_default_plan(plan):
    left = claims(plan).if_others_collude
    text = page("privacy.md")
    assert f"0.9 of them must answer ({plan.smallest_cohort})" in text
    assert f"so h = {plan.honest}" in text
    assert f"{plan.honest} times the rho, epsilon about {left:.0f} instead of {plan.epsilon:.0f}" in text


def test_the_accounting_example_is_the_default_plan(plan):
    rho = plan.spent(plan.full())
    assert f"At epsilon {plan.epsilon:.0f} and delta 1e-5 rho is {rho:.4f}" in page("privacy.md")
    assert f"the plain conversion would say {epsilon_by_zcdp(rho, plan.delta):.2f}" in page("privacy.md")
    assert f"rho is {rho:.4f}" in page("adr/0004-zcdp-inside-pld-printed.md")


def test_the_budget_split_is_the_default(config, target):
    assert config.privacy.measurement_share == "plan"
    share = {kind: f"{value:.0%}".replace("%", " %") for kind, value in target.shares.items()}
    text = page("privacy.md")
    assert f"{share['profile']} profiles, {share['statistics']} statistics" in text
    assert f"updates get the rest, {share['update']} in the default preset" in text
    assert f"by default {LEAST * 100:.0f} to {MOST * 100:.0f} % measurements" in text


def test_the_sizes_of_the_default_model_are_stated(config, target, plan, spec):
    mean = EncoderSpec(TEXT_WIDTH, MEAN_RANK, ITEMS)
    assert f"{mean.size:,} parameters".replace(",", " ") in page("adr/0006-low-dimensional-adapters.md")
    assert f"({grid_steps(spec.trained):,} for the default model)" in page("privacy.md")
    assert f"({spec.rank} x {ITEMS:,} at epsilon {plan.epsilon:.0f} instead of" in page("adr/0012-linear-encoder.md")
    report = layout_of_reports(config, spec.buckets).length
    profile = profile_length(width_of(profile_signal(target), ITEMS) + COMPACT)
    draws = plan.update.participations * spec.trained + plan.measurement.participations * report
    draws += spec.buckets + HISTORY_BINS + profile
    assert f"T d is {draws / 1e6:.1f} million" in page("privacy.md")
    assert f"eta at most {draws * (TAU + ROUNDED):.0e}" in page("privacy.md")
