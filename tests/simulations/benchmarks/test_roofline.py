"""The bound of a client update: counts of operations and bytes, and which of them sets it."""

from __future__ import annotations

import pytest

from shared.encoder.spec import EncoderSpec
from simulations.benchmarks.roofline import Work, bound_of, copy_rate, product_rate, work_of


def test_the_slower_of_the_two_sets_the_bound():
    by_operations, by_bytes = (bound_of(Work(*work, 4), 100.0, 100.0) for work in ((200.0, 10.0), (10.0, 400.0)))
    assert (by_operations["rate"], by_operations["by"]) == (0.5, "operations")
    assert (by_bytes["rate"], by_bytes["by"]) == (0.25, "bytes")


def test_several_steps_of_the_linear_encoder_cost_what_one_costs():
    spec = EncoderSpec(32, 16, 625, "linear")
    assert work_of(spec, 1, 10) == work_of(spec, 5, 10)
    assert work_of(spec, 1, 10) == Work(40_000.0, 280_000.0, 40_000)


def test_a_two_tower_encoder_pays_for_each_step_with_products_and_once_with_bytes():
    spec = EncoderSpec(384, 16, 225, "mean")
    one, five = work_of(spec, 1, 10), work_of(spec, 5, 10)
    assert one.operations == 4 * 10 * 384 * 16
    assert five.operations == 5 * one.operations
    assert five.bytes == one.bytes == 7 * 4 * spec.size


@pytest.mark.slow
def test_this_machine_has_rates():
    assert product_rate() > 1e8
    assert copy_rate(40_000) > 1e8
