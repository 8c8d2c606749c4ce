"""What a client's users contribute to a task: rows of real numbers, one a unit, before they are clipped and noised.

Private throughout: the only reader is :func:`client.release.release`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.measuring import lists, measurement_rows, statistics_rows
from client.recent import recent_rows
from client.units import as_units
from shared.catalogue import Catalogue
from shared.device import Device, processor
from shared.encoder.profile import feature_map, packed, profiles
from shared.encoder.spec import bucket_of
from shared.history import History
from shared.policy.recall_policy import RecallPolicy
from shared.privacy.noise import NoiseSource
from shared.protocol import MeasureTask, ProfileTask, StatisticsTask, Task, TrainTask, TrendingTask, layout_of
from shared.recall.item_rules import Mask, masks

PROFILES_AT_ONCE: Final = 16  # a second moment a user is large


@dataclass(frozen=True)
class People:
    """Whose behaviour, and the public and random things that go with it.

    Attributes:
        users: client -> its users' names.
        histories: client -> one history a user, as far as consent lets them be used.
        ages: client -> age of each user in years, None where unknown.
        catalogue: public.
        key: (user, round) -> 64-bit word, a user's chance in training; no privacy rests on it.
        rng: (user, round) -> generator for exploration in measuring; no privacy rests on it.
        noise: client -> source of the noise inside local steps (trust local).
        today: by this side's clock.
        device: where torch works: "auto", "cpu" or "cuda".
    """

    users: Callable[[str], Sequence[str]]
    histories: Callable[[str], Sequence[History]]
    ages: Callable[[str], Sequence[int | None]]
    catalogue: Catalogue
    key: Callable[[str, int], int]
    rng: Callable[[str, int], np.random.Generator]
    noise: Callable[[str], NoiseSource]
    today: date
    device: Device = "cpu"


def contributions(
    people: People, clients: Sequence[str], task: Task, *, private: bool
) -> Iterator[NDArray[np.floating]]:
    """The unclipped rows of the clients' users, in order, in chunks.

    Args:
        people: their behaviour.
        clients: whose.
        task: what for.
        private: the rows are to be private already (updates under trust local); one a client.
    """
    if private and isinstance(task, TrainTask):
        for client in clients:
            yield _private_update(people, client, task)[None]
        return
    users = [user for client in clients for user in people.users(client)]
    histories = [history for client in clients for history in people.histories(client)]
    if isinstance(task, TrendingTask):
        yield from recent_rows(histories, len(people.catalogue.ids), people.today, task.window)
        return
    bucket = bucket_of(people.catalogue.ids, task.header.encoder.buckets)
    if isinstance(task, StatisticsTask):
        yield statistics_rows(histories, bucket, task.header.encoder.buckets)
    elif isinstance(task, ProfileTask):
        yield from _profiles(people, task, histories, bucket)
    else:
        barred = masks(task.rules, people.catalogue.ids, [age for client in clients for age in people.ages(client)])
        if isinstance(task, TrainTask):
            yield from _updates(people, task, users, histories, barred, bucket)
        else:
            yield from _measurements(people, task, users, histories, barred, bucket)


def _profiles(
    people: People, task: ProfileTask, histories: Sequence[History], bucket: NDArray[np.int64]
) -> Iterator[NDArray[np.floating]]:
    compact = people.catalogue.groups[task.header.encoder.reads]
    features = feature_map(compact, bucket, task.prior, task.width, task.typical)
    for start in range(0, len(histories), PROFILES_AT_ONCE):
        yield packed(profiles(features, histories[start : start + PROFILES_AT_ONCE]))


def _updates(
    people: People,
    task: TrainTask,
    users: Sequence[str],
    histories: Sequence[History],
    barred: Sequence[Mask],
    bucket: NDArray[np.int64],
) -> Iterator[NDArray[np.floating]]:
    from client.model import Items  # noqa: PLC0415 - torch and opacus, which measuring and serving never need
    from client.training import fit  # noqa: PLC0415 - as above

    encoder = task.header.encoder
    # The linear encoder leaves nothing to chance.
    keys = [0 if encoder.kind == "linear" else people.key(user, task.header.round) for user in users]
    items = Items(dict(people.catalogue.groups), bucket, task.prior)
    yield from fit(
        encoder,
        task.parameters,
        items,
        task.policy,
        task.training,
        histories,
        keys,
        barred,
        device=processor(people.device),
    )


def _private_update(people: People, client: str, task: TrainTask) -> NDArray[np.floating]:
    from client.model import Items  # noqa: PLC0415 - torch and opacus, which measuring and serving never need
    from client.training import fit_locally_private  # noqa: PLC0415 - as above

    header = task.header
    keys = [people.key(user, header.round) for user in people.users(client)]
    users = people.histories(client)
    histories, keys = as_units(header.plan.unit, users, keys)
    each = len(histories) // max(len(users), 1)  # samples of one user, next to one another
    barred = [mask for mask in masks(task.rules, people.catalogue.ids, people.ages(client)) for _ in range(each)]
    mechanism = header.plan.update
    return fit_locally_private(
        header.encoder,
        task.parameters,
        Items(dict(people.catalogue.groups), bucket_of(people.catalogue.ids, header.encoder.buckets), task.prior),
        task.policy,
        task.training,
        histories,
        keys,
        barred,
        clip=mechanism.clip,
        noise_multiplier=mechanism.noise_multiplier,
        noise=people.noise(client),
    )


def _measurements(
    people: People,
    task: MeasureTask,
    users: Sequence[str],
    histories: Sequence[History],
    barred: Sequence[Mask],
    bucket: NDArray[np.int64],
) -> Iterator[NDArray[np.floating]]:
    encoder, layout = task.header.encoder, layout_of(task)

    rngs = [people.rng(user, -task.header.round) for user in users]

    def ranked(policy: RecallPolicy) -> Iterator[NDArray[np.int64]]:
        groups = dict(people.catalogue.groups)
        # The same draws for every policy, so that exploration by chance does not part them.
        same = deepcopy(rngs)
        return lists(encoder, task.parameters, groups, bucket, task.prior, policy, histories, same, barred)

    start = 0
    for chunk, *shadows in zip(ranked(task.policy), *(ranked(policy) for policy in task.shadows), strict=True):
        part = slice(start, start + len(chunk))
        start += len(chunk)
        yield measurement_rows(chunk, shadows, histories[part], barred[part], task.activity, layout, bucket)
