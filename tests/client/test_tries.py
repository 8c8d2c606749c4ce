"""A second try of a round is a new charge with new noise."""

from __future__ import annotations

import numpy as np

from client.host import answer


def test_a_second_try_of_a_measurement_has_noise_of_its_own_also_under_a_seed(host, task, history, message):
    one = host([history(1)])
    answers = [answer(one, "1", message(task("measurement", attempt=attempt))) for attempt in (1, 2)]
    vectors = [each.array_records["sealed"]["vector"].numpy() for each in answers]
    assert not np.array_equal(*vectors)  # the rows of one user in one round are the same


def test_the_same_try_under_the_same_seed_has_the_same_noise(host, task, history, message):
    vectors = []
    for name in ("one", "two"):
        reply = answer(host([history(1)], name=name), "1", message(task("measurement")))
        vectors.append(reply.array_records["sealed"]["vector"].numpy())
    assert np.array_equal(*vectors)
