"""What silos share and what each of them has: customers dealt out, the text model's tower, the plan."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from client.silo import AdapterSpec, SiloTerms, Tower, read_catalogue
from client.store import ClientStore
from server.adaptation import STRENGTH, whitening
from shared.catalogue import Catalogue
from shared.errors import ConfigError
from shared.history import History
from shared.privacy.calibration import make_plan
from shared.privacy.plan import RELEASES, PrivacyPlan, Target
from simulations.download import Say
from simulations.seeding import generator
from simulations.world import World

WIDTH: Final = 384  # of the default text model; only checks a promise before the model is there
TERMS: Final = SiloTerms(temperature=0.1, context=96, read=8, targets=8, negatives=8)


@dataclass(frozen=True)
class SiloSettings:
    """All public.

    Attributes:
        silos: organisations that train together.
        customers: of all silos together, drawn from the data set; dealt out evenly.
        outsiders: customers of nobody, at most, whom the result is tried on as well.
        rounds: of training; every silo takes part in each.
        delta, collusion: of the promise; collusion is the share of silos that may work with the server.
        rank, layers: of the adapters.
        clip: largest L2 norm of one customer's gradient.
        learning_rate, warmup: of the server's Adam, and the rounds over which its rate rises.
        terms: of the silos' training.
        tokens: texts are cut there.
        head: "whiten" trains on top of the catalogue's whitened text vectors, "none" on the plain ones.
        seed: of everything random.
    """

    silos: int = 4
    customers: int = 600
    outsiders: int = 1500
    rounds: int = 6
    delta: float = 1e-5
    collusion: float = 0.25
    rank: int = 2
    layers: int = 1
    clip: float = 0.5
    learning_rate: float = 0.01
    warmup: int = 2
    terms: SiloTerms = TERMS
    tokens: int = 12
    head: str = "whiten"
    seed: int = 0


@dataclass(frozen=True)
class Silos:
    """What the silos share and what each has.

    Attributes:
        stores: silo -> its customers' behaviour.
        outsiders: histories of customers of nobody.
        tower: the adapted layers over the public catalogue; its adapters are set anew by whoever uses it.
        spec: sizes.
        catalogue: version of the public catalogue.
    """

    stores: Mapping[str, ClientStore]
    outsiders: Sequence[History]
    tower: Tower
    spec: AdapterSpec
    catalogue: str


def make_silos(world: World, model: str, settings: SiloSettings, say: Say) -> Silos:
    """Deal out customers, load the text model and send the catalogue through its frozen layers, once.

    Args:
        world: the data; its catalogue must have been built without an adaptation.
        model: folder of the text model.
        settings: public.
        say: gets sentences.

    Raises:
        ConfigError: fewer customers than wanted, or a text model without adapters' layers.
    """
    if not 0 < settings.silos <= settings.customers <= len(world.histories):
        raise ConfigError(
            f"{settings.customers} customers of {settings.silos} silos: there are {len(world.histories)}, and "
            "each silo needs one"
        )
    order = generator(settings.seed, "customers").permutation(len(world.histories))
    stores = {}
    for number, part in enumerate(np.array_split(order[: settings.customers], settings.silos), 1):
        names = tuple(world.dataset.users[user] for user in part)
        stores[f"silo-{number}"] = ClientStore(f"silo-{number}", names, tuple(world.histories[user] for user in part))
    rest = order[settings.customers : settings.customers + settings.outsiders]
    began = time.process_time()
    tower, spec = make_tower(world.catalogue, model, settings)
    say(
        f"text model: {len(world.catalogue.ids):,} texts through its frozen layers once, "
        f"{time.process_time() - began:.0f} s of processor time; {spec.size:,} trained parameters"
    )
    return Silos(stores, [world.histories[user] for user in rest], tower, spec, world.catalogue.version())


def make_tower(catalogue: Catalogue, model: str, settings: SiloSettings) -> tuple[Tower, AdapterSpec]:
    """The adapted layers over a catalogue, under the public head that ``settings`` name."""
    text = catalogue.groups["text"]
    spec = AdapterSpec(text.shape[1], settings.layers, settings.rank)
    how = whitening(text, STRENGTH) if settings.head == "whiten" else None
    mean = np.zeros(spec.width) if how is None else how.mean
    mix = np.eye(spec.width) if how is None else how.mix
    layers, states = read_catalogue(
        catalogue.texts,
        model,
        spec,
        mean=mean.astype(np.float32),
        mix=mix.astype(np.float32),
        tokens=settings.tokens,
        seed=settings.seed,
    )
    return Tower(layers, states), spec


def make_silo_plan(settings: SiloSettings, spec: AdapterSpec, epsilon: float | None) -> PrivacyPlan:
    """All of the budget goes to updates; one unit is one customer, every silo is in every round.

    Raises:
        PlanError: a promise that cannot be kept.
    """
    return make_plan(
        Target(
            kind="simulation",
            unit="user",
            trust="distributed",
            epsilon=epsilon,
            delta=settings.delta,
            population=settings.silos,
            smallest_cohort=settings.silos,
            collusion=settings.collusion,
            rounds=settings.rounds,
            update_participations=settings.rounds,
            measurement_participations=0,
            shares={kind: float(kind == "update") for kind in RELEASES},
            update_dimension=spec.size,
            clip=settings.clip,
            users=settings.customers,
        )
    )
