"""A user's vector is its own, to the last bit, whoever else is looked at."""

from __future__ import annotations

import numpy as np
import pytest

from shared.encoder.encode import context_vectors, item_vectors, pad, user_groups
from shared.encoder.spec import EncoderSpec, initial_parameters
from shared.history import History

ITEMS = 1500


def history(seed, length):
    rng = np.random.default_rng(seed)
    return History(
        item=rng.choice(ITEMS, length, replace=False).astype(np.int32),
        kind=rng.integers(0, 5, length).astype(np.int8),
        count=rng.integers(1, 9, length).astype(np.float32),
        dwell=rng.uniform(0, 1, length).astype(np.float32),
        rating=np.full(length, np.nan, np.float32),
        time=np.sort(rng.uniform(1.6e9, 1.7e9, length)),
        held_out=np.zeros(length, bool),
    )


@pytest.mark.parametrize("kind", ["linear", "mean", "attention", "gru"])
def test_a_users_vectors_depend_on_nobody_else(kind):
    """A list is cut off behind its k-th item: a last bit can be an item, and more than the clip that was paid for."""
    rng = np.random.default_rng(0)
    spec, bucket = EncoderSpec(text_width=16, rank=32, buckets=ITEMS, kind=kind), np.arange(ITEMS)
    parameters = initial_parameters(spec, rng) + rng.normal(0, 0.1, spec.size).astype(np.float32)
    text, lexical = (rng.standard_normal((ITEMS, 16)).astype(np.float32) for _ in range(2))
    items = {"text": item_vectors(spec, parameters, text, bucket), "lexical": lexical}
    context = context_vectors(spec, parameters, text, bucket)

    def vectors(histories):
        return user_groups(spec, parameters, items, context, pad(histories))

    everybody = [history(seed, int(rng.integers(1, 90))) for seed in range(70)]
    longest = history(99, 400)
    together, without = vectors([longest, *everybody]), vectors([history(0, 0), *everybody])
    for group in items:
        assert np.array_equal(together[group][1:], without[group][1:])
        for row in (1, 30, 70):
            alone = vectors([everybody[row - 1]])[group]
            if kind != "gru" or group != "text":  # its steps are products of matrices over users
                assert np.array_equal(alone[0], together[group][row])
