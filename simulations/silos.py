"""A few silos adapt the text model together: low-rank adapters, federated averaging, one privacy budget.

The adapters are another kind of parameters than the encoder's, so the rounds are a loop of their own. What protects
people is not: every silo has a gate with a consent, a ledger, and the one door ``client/release.py``, which
clips each customer's gradient, adds the silo's share of the noise and charges it before anything leaves; vectors are
summed under the masks of ``shared/secagg``. Only validation is looked at here, by the simulation's eye (oracle).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from client.consent import consent_to
from client.gate import Gate, Request
from client.release import release
from client.silo import AdapterSpec, fit, item_vectors
from client.store import ClientStore
from server.aggregation import apply, initial_optimizer, mean_update
from shared.encoder.spec import Floats
from shared.errors import ConfigError, LedgerError, RunError
from shared.files import write_arrays
from shared.privacy.ledger import Ledger, create_ledger
from shared.privacy.plan import PrivacyPlan, claims, plan_to_dict
from shared.privacy.wording import sentences
from shared.proofs import LastReceipt, read_stamp, stamp
from shared.text_encoder import NO_MODEL
from simulations.config import SimulationConfig
from simulations.download import Say
from simulations.fetch import fetch_encoder
from simulations.secure_sum import secure_sum
from simulations.seeding import clock, entropy, generator, noise, signing_key
from simulations.silo_world import WIDTH, Silos, SiloSettings, make_silo_plan, make_silos
from simulations.text_ranking import text_ranking
from simulations.world import load_world


def compare_silos(
    config: SimulationConfig,
    settings: SiloSettings,
    epsilons: Sequence[float | None],
    folder: Path,
    *,
    cache: Path,
    source: Path | None,
    say: Say,
) -> dict[str, Any]:
    """The same silos and the same start, once for each promise.

    Args:
        config: names the data and the text model; nothing else of it counts.
        settings: public.
        epsilons: promises; None = none.
        folder: gets a folder for each; must not hold anything.
        cache, source: as in a run.
        say: gets sentences.

    Returns:
        JSON: "plain" (the text model as it is), and "runs" of :func:`train` in the order of ``epsilons``.

    Raises:
        FedrecallError: with one sentence: what is wrong with the data, the model, the folder or the promise.
    """
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder}: not empty; choose another --out")
    if config.model.text_encoder == NO_MODEL:
        raise ConfigError(f"model.text_encoder {NO_MODEL!r}: silos adapt a text model; name one, or its folder")
    names = [_name(epsilon) for epsilon in epsilons]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            f"--epsilon: two promises are called {twice}, and each has a folder of its own; name one of them"
        )
    for epsilon in epsilons:  # a promise that cannot be kept is refused before anything is read
        make_silo_plan(settings, AdapterSpec(WIDTH, settings.layers, settings.rank), epsilon)
    # Adapters start from the vectors as read: whitening is a start of its own in the table.
    model = config.model.model_copy(update={"adaptation": "none", "vectors": "float32"})
    world = load_world(config.model_copy(update={"model": model}), cache, source, say)
    plain = world.catalogue.groups["text"]
    silos = make_silos(world, fetch_encoder(config.model.text_encoder, cache, say), settings, say)
    runs = []
    for name, epsilon in zip(names, epsilons, strict=True):
        say("no privacy:" if epsilon is None else f"epsilon {epsilon:g}:")
        runs.append(train(silos, settings, epsilon, folder / name, say))
    return {
        "preset": config.preset,
        "silos": settings.silos,
        "customers": settings.customers,
        "plain": _looked_at(silos, plain, settings.terms.temperature),
        "runs": runs,
        "folder": str(folder),
    }


def _name(epsilon: float | None) -> str:
    """Of a promise's folder."""
    return "no-privacy" if epsilon is None else f"epsilon-{epsilon:g}"


@dataclass(frozen=True)
class _Member:
    """One silo's side: its people, its memory and its consent."""

    store: ClientStore
    gate: Gate
    ledger: Ledger


def train(silos: Silos, settings: SiloSettings, epsilon: float | None, folder: Path, say: Say) -> dict[str, Any]:
    """Train the adapters, and look at validation before and after.

    Args:
        silos: see :func:`make_silos`.
        settings: public.
        epsilon: the promise; None = none.
        folder: gets one ledger a silo, the server's, and the adapters.
        say: gets a sentence a round.

    Returns:
        JSON: "before" and "after" -> "silos" and "outsiders" -> loss, ndcg@10, recall@20; the claims, and what they
        cover.

    Raises:
        RunError: the folder cannot be written, or holds a run.
        PlanError: a promise that cannot be kept.
    """
    plan = make_silo_plan(settings, silos.spec, epsilon)
    parameters, state = np.zeros(silos.spec.size, np.float32), initial_optimizer(silos.spec.size)
    began = time.process_time()
    vectors = item_vectors(silos.tower, parameters)
    before = _looked_at(silos, vectors, settings.terms.temperature)
    with _opened(silos, plan, settings.seed, folder) as (members, ledger):
        receipts = dict.fromkeys(members, LastReceipt(0, ""))
        for number in range(1, settings.rounds + 1):
            sealed = _round(silos, settings, plan, members, ledger, receipts, parameters, vectors, number)
            mean = mean_update(sealed, plan.update.clip, plan.update.steps, settings.customers)
            parameters, state = apply("fedadam", settings.learning_rate, settings.warmup, state, parameters, mean)
            vectors = item_vectors(silos.tower, parameters)
            say(f"round {number} of {settings.rounds}: {time.process_time() - began:.0f} s of processor time")
    write_arrays(folder / "adapters.npz", {"outer": parameters})
    spent = claims(plan)
    return {
        "epsilon": spent.largest,
        "claims": asdict(spent),
        "covers": sentences(plan, spent),
        "unit": plan.unit,
        "trust": plan.trust,
        "delta": plan.delta,
        "noise_multiplier": plan.update.noise_multiplier,
        "parameters": silos.spec.size,
        "rounds": settings.rounds,
        "before": before,
        "after": _looked_at(silos, vectors, settings.terms.temperature),
        "processor_seconds": time.process_time() - began,
        "secure_aggregation": "masks of shared/secagg, in this process",
    }


@contextmanager
def _opened(silos: Silos, plan: PrivacyPlan, seed: int, folder: Path) -> Iterator[tuple[dict[str, _Member], Ledger]]:
    """Every silo's ledger with a consent to exactly this plan, and the server's."""
    opened: list[Ledger] = []

    def begin(name: str, first: dict[str, Any]) -> Ledger:
        signer = signing_key(seed, name) or Ed25519PrivateKey.generate()
        opened.append(create_ledger(folder / f"{name}.jsonl", signer, first))
        return opened[-1]

    try:
        folder.mkdir(parents=True, exist_ok=True)
        server = begin("server", {"kind": plan.kind, "plan": plan_to_dict(plan), "catalogue": silos.catalogue})
        members = {
            name: _Member(store, Gate(silos.catalogue, {name: consent_to(plan)}), begin(name, {"type": "opened"}))
            for name, store in silos.stores.items()
        }
        yield members, server
    except (OSError, LedgerError) as error:
        raise RunError(f"{folder}: cannot hold this run ({error}); choose another --out") from error
    finally:
        for ledger in opened:
            ledger.close()


def _round(
    silos: Silos,
    settings: SiloSettings,
    plan: PrivacyPlan,
    members: Mapping[str, _Member],
    ledger: Ledger,
    receipts: dict[str, LastReceipt],
    parameters: Floats,
    vectors: Floats,
    number: int,
) -> NDArray[np.int64]:
    """Intent, one sealed vector a silo, their masked sum, result; ``receipts`` are brought up to date.

    Raises:
        RunError: a silo declines, which its consent to this very plan leaves no reason for.
    """
    request = _asked(silos, settings, plan, ledger, parameters, number)
    sealed: dict[str, NDArray[np.int32]] = {}
    for name, member in members.items():
        sealed[name], receipts[name] = _answer(member, request, receipts[name], silos, settings, parameters, vectors)
    chance = np.random.SFC64(entropy(settings.seed, "masks", number, plan.epsilon))
    total = secure_sum(
        sealed,
        plan.smallest_cohort,
        plan.colluders,
        lambda count: np.asarray(chance.random_raw((count + 7) // 8), "<u8").tobytes()[:count],
    ).total
    result = {
        "type": "result",
        "round": number,
        "attempt": 1,
        "release": "update",
        "survivors": len(sealed),
        "sum_sigma": plan.sum_sigma("update", len(sealed)),
        "sum": hashlib.sha256(total.tobytes()).hexdigest(),
    }
    ledger.append([result], head=number)
    return total


def _asked(
    silos: Silos, settings: SiloSettings, plan: PrivacyPlan, ledger: Ledger, parameters: Floats, number: int
) -> Request:
    """The server's intent, in its ledger, and the task as the silos' gates see it, signed over that line."""
    public = {"round": number, "spec": asdict(silos.spec), "terms": asdict(settings.terms), "plan": plan_to_dict(plan)}
    digest = hashlib.sha256(json.dumps(public, sort_keys=True).encode() + parameters.tobytes()).hexdigest()
    intent = {
        "type": "intent",
        "round": number,
        "attempt": 1,
        "release": "update",
        "task": digest,
        "cohort": list(silos.stores),
        "rho": None if plan.epsilon is None else plan.update.rho,
        "noise_source": "clients",
    }
    ledger.append([intent])
    return Request(
        release="update",
        run=f"silos-{settings.seed}",
        round=number,
        attempt=1,
        plan=plan,
        catalogue=silos.catalogue,
        features=("text",),
        server=read_stamp(stamp(digest, ledger.signer, ledger.tip), digest),
        digest=digest,
        length=silos.spec.size,
        private=False,
    )


def _answer(
    member: _Member,
    request: Request,
    last: LastReceipt,
    silos: Silos,
    settings: SiloSettings,
    parameters: Floats,
    vectors: Floats,
) -> tuple[NDArray[np.int32], LastReceipt]:
    """One silo, through the one door."""
    store, seed, number = member.store, settings.seed, request.round

    def contribute(_admitted: Sequence[str]) -> Iterator[Floats]:
        rngs = [generator(seed, "user", user, number) for user in store.users]
        return iter(list(fit(silos.tower, parameters, vectors, settings.terms, store.histories, rngs)))

    sealed, receipt = release(
        request,
        {store.client: last},
        lambda _client: len(store.users),
        contribute,
        gate=member.gate,
        today=clock(seed)(),
        ledger=member.ledger,
        noise=lambda client: noise(seed, client, number, f"adapters {request.plan.epsilon}"),
    )
    if receipt is None:
        raise RunError(f"{member.ledger.path}: the silo declined round {number}; its ledger says why")
    return sealed[store.client], LastReceipt(receipt.seq, receipt.tip)


def _looked_at(silos: Silos, vectors: Floats, temperature: float) -> dict[str, dict[str, float]]:
    """Validation of the silos' customers and of others, whom training never saw."""
    inside = [history for store in silos.stores.values() for history in store.histories]
    return {
        "silos": text_ranking(vectors, inside, temperature),
        "outsiders": text_ranking(vectors, silos.outsiders, temperature),
    }
