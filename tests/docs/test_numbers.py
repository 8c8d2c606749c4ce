"""Numbers that pages derive from the default configuration are recomputed, so that a new default breaks its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.job import target_of
from shared.encoder.spec import EncoderSpec
from shared.privacy.accounting import epsilon_by_zcdp
from shared.privacy.calibration import make_plan
from shared.privacy.clipping import grid_steps
from shared.privacy.plan import claims
from simulations.config import resolve

DOCS = Path(__file__).parents[2] / "docs"
USERS, ITEMS, TEXT_WIDTH = 943, 1682, 384  # MovieLens 100K and MiniLM


@pytest.fixture(scope="module")
def config():
    return resolve("ml-100k")


@pytest.fixture(scope="module")
def spec(config):
    return EncoderSpec(TEXT_WIDTH, config.model.rank, min(config.model.buckets, ITEMS))


@pytest.fixture(scope="module")
def plan(config, spec):
    return make_plan(target_of(config, USERS, USERS, spec.size, "simulation"))


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


def test_the_budget_split_is_the_default(config):
    privacy = config.privacy
    updates = 1 - privacy.measurement_share - privacy.statistics_share
    split = f"{updates:.0%} updates, {privacy.measurement_share:.0%} measurements, {privacy.statistics_share:.0%} popul"
    assert split.replace("%", " %") in page("privacy.md")


def test_the_sizes_of_the_default_model_are_stated(plan, spec):
    assert f"{spec.size:,} parameters".replace(",", " ") in page("adr/0006-low-dimensional-adapters.md")
    assert f"({grid_steps(spec.size):,} for the default model)" in page("privacy.md")
    draws = plan.update.participations * spec.size + plan.measurement.participations * (3 + spec.buckets) + spec.buckets
    assert f"T d is {draws / 1e6:.1f} million" in page("privacy.md")
