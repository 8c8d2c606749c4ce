"""A run folder as the simulator writes it, with believable numbers, for whatever reads run folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

CONFIG = """\
preset = "ml-100k"
split = "rs"
seed = {seed}
rounds = {rounds}
controller = "dual"

[privacy]
unit = "user"
trust = "distributed"
epsilon = {epsilon}
delta = 1e-5

[server]
optimizer = "adam"
learning_rate = {rate}
"""
POLICY = {
    "version": 1,
    "similarity": {"text": "cosine", "lexical": "cosine"},
    "weights": {"text": 5.0, "lexical": 0.0, "category": 0.0, "popularity": 1.0},
    "features": ["text", "popularity"],
    "depth": 200,
    "local_iterations": 1,
    "exposure_price": 0.0,
    "diversity": 0.0,
    "exploration": 0.0,
    "k": 20,
    "frozen": False,
}
METRICS = ("recall@20", "ndcg@10", "coverage@20", "effective_coverage@20", "gini@20", "head_share@20")
MOVES = {  # the round after whose measurement the controller moved -> decision, reason, the next policy's fields
    8: (
        "move",
        "effective coverage 0.121 is below the target 0.200 by more than its noise (0.014): raise the exposure price",
        {"exposure_price": 0.01, "depth": 300},
    ),
    16: (
        "move",
        "effective coverage 0.155 is still below the target 0.200: add the category group and raise the price",
        {
            "exposure_price": 0.03,
            "features": ["text", "category", "popularity"],
            "weights": {"text": 5.0, "lexical": 0.0, "category": 0.8, "popularity": 1.0},
        },
    ),
    20: (
        "rollback",
        "recall fell by 0.031, more than the guard of 0.020 and more than its noise: back to version 2, a smaller step",
        {"exposure_price": 0.015},
    ),
    28: (
        "move",
        "recall is stable and coverage short by 0.018: a smaller step",
        {"exposure_price": 0.02, "depth": 400},
    ),
}


def _rounds(rounds, epsilon, generator, every):
    policy, records = dict(POLICY), []
    for place in range(1, rounds + 1):
        grown = 1 - np.exp(-place / 9)
        price = policy["exposure_price"]
        true = {
            "recall@20": 0.175 + 0.155 * grown - 30 * max(price - 0.02, 0) * 0.1,
            "ndcg@10": 0.128 + 0.122 * grown - 20 * max(price - 0.02, 0) * 0.1,
            "coverage@20": 0.07 + 0.26 * grown + 5 * price,
            "effective_coverage@20": 0.03 + 0.09 * grown + 3 * price,
            "gini@20": 0.97 - 0.09 * grown - 2 * price,
            "head_share@20": 0.93 - 0.2 * grown - 3 * price,
        }
        wide = {
            "recall@20": 0.008,
            "ndcg@10": 0.007,
            "effective_coverage@20": 0.012,
            "gini@20": 0.01,
            "head_share@20": 0.02,
        }
        measured = place % every == 0 or place == 1
        estimate = None
        if measured:
            estimate = {"coverage@20": None}
            for metric, half in wide.items():
                value = float(true[metric] + generator.normal(0, half / 2))
                estimate[metric] = {"value": value, "low": value - half, "high": value + half}
            estimate["effective_coverage@20"]["at_least"] = 30
        decision, reason, fields = MOVES.get(place, ("hold", "every difference is smaller than its noise", {}))
        if not measured and place not in MOVES:
            decision, reason = "none", "not measured in this round"
        spent = None
        if epsilon is not None:
            share = np.sqrt(place / rounds)
            spent = {
                "everyone": epsilon * share,
                "by_kind": {
                    "update": epsilon * 0.86 * share,
                    "measurement": epsilon * 0.22 * share,
                    "statistics": 0.31,
                },
            }
        answered = 943 - int(generator.integers(0, 9))
        records.append(
            {
                "round": place,
                "policy": dict(policy),
                "decision": decision,
                "reason": reason,
                "estimate": estimate,
                "cannot_tell": {"coverage@20": "zero and one exposure look the same under this noise"}
                if measured
                else {},
                "oracle": {key: float(value) for key, value in true.items()} if measured else None,
                "epsilon": spent,
                "cohort": {"asked": 943, "answered": answered, "declined": 943 - answered, "failed": 0},
                "bytes": {"up": answered * 98_304, "down": 943 * 107_648},
                "seconds": 1.1 + float(generator.uniform(0, 0.4)) + (0.5 if measured else 0),
                "train_seconds": 0.8 + float(generator.uniform(0, 0.2)),
            }
        )
        if fields:
            policy = policy | fields | {"version": policy["version"] + 1}
    return records


def _summary(rounds, epsilon, seed, generator):
    def metrics(*values):
        return dict(zip(METRICS, values, strict=True))

    return {
        "preset": "ml-100k",
        "kind": "simulation",
        "split": "rs",
        "seed": seed,
        "unit": "user",
        "trust": "distributed",
        "adjacency": "zero-out",
        "delta": 1e-5,
        "participations": rounds,
        "rounds": rounds,
        "epsilon": epsilon,
        "epsilon_claims": {"everyone": epsilon, "recipients": epsilon, "server": epsilon},
        "epsilon_if_others_collude": None if epsilon is None else 412.4,
        "epsilon_by_kind": {} if epsilon is None else {"update": epsilon * 0.86, "measurement": epsilon * 0.22},
        "accountant": "Gaussian PLD (dp-accounting 0.6), checked against zCDP",
        "covers_tuning": False,
        "covers": "training updates, every measurement, and the one-off popularity histogram.",
        "not_covered": [
            "hyper-parameters were chosen on this data set's validation items",
            "this folder's oracle values and examples",
            "a person with several enrolments: sensitivity grows with their number",
        ],
        "test": metrics(0.3294 + float(generator.normal(0, 0.003)), 0.2503, 0.4121, 0.171, 0.842, 0.668),
        "valid": metrics(0.3312, 0.2481, 0.4087, 0.173, 0.845, 0.671),
        "baselines": {
            "popularity": metrics(0.1844, 0.1426, 0.068, 0.036, 0.972, 0.951),
            "tfidf": metrics(0.0689, 0.0410, 0.241, None, 0.93, None),
            "itemknn": metrics(0.3655, 0.2946, 0.208, 0.14, 0.91, 0.78),
            "ease": metrics(0.4060, 0.3337, 0.322, 0.19, 0.87, 0.71),
            "dp_ease": metrics(0.317, 0.253, 0.28, 0.15, 0.89, 0.75) | {"epsilon": 8.0},
        },
        "wall_seconds": 74.2,
        "client_updates": 943 * rounds,
        "client_updates_per_second": 508.3,
        "peak_rss_mb": 812.0,
        "secure_aggregation": "ideal: added up without masks",
        "model": {"round": rounds, "chosen": "last", "why": "the run did all its rounds", "estimate": None},
        "stopped": "finished",
        "users": 943,
        "clients": 943,
        "items": 1682,
        "parameters": 24576,
        "licence": "GroupLens: research, non-commercial, no redistribution",
        "public_data": True,
    }


def _examples():
    def one(title, parts, because, *, held_out=False):
        return {"title": title, "score": sum(parts.values()), "parts": parts, "because": because, "held_out": held_out}

    return [
        {
            "user": "196",
            "history": ["Kolya (1996)", "Secrets & Lies (1996)", "Babe (1995)", "Fargo (1996)"],
            "recommendations": [
                one(
                    "Shine (1996)",
                    {"text": 0.91, "popularity": 0.34},
                    "because you rated Kolya (1996) highly",
                    held_out=True,
                ),
                one(
                    "Il Postino (1994)",
                    {"text": 0.88, "popularity": 0.22},
                    "because you rated Secrets & Lies (1996) highly",
                ),
                one(
                    "Sling Blade (1996)",
                    {"text": 0.61, "popularity": 0.31, "exposure": -0.12},
                    "because you viewed Fargo (1996)",
                ),
            ],
        },
        {
            "user": "22",
            "history": ["Star Wars (1977)", "Alien (1979)", "Blade Runner (1982)"],
            "recommendations": [
                one(
                    "Aliens (1986)",
                    {"text": 1.02, "popularity": 0.41},
                    "because you rated Alien (1979) highly",
                    held_out=True,
                ),
                one("Brazil (1985)", {"text": 0.77, "popularity": 0.2}, "because you rated Blade Runner (1982) highly"),
                one(
                    "Dark City (1998)",
                    {"text": 0.72, "popularity": 0.02, "exposure": 0.11},
                    "popular with nobody yet: exploration",
                ),
            ],
        },
    ]


@pytest.fixture
def run_folder(tmp_path):
    """Return ``make(name, ...)``, which writes a whole run folder.

    ``changed`` replaces fields of the summary (... takes one away), ``each`` maps every round's record (None drops it).
    """

    def make(name="run", *, changed=None, each=None, summary=True, examples=True, **how):
        rounds, epsilon, seed = (
            how.get(key, value) for key, value in {"rounds": 40, "epsilon": 8.0, "seed": 0}.items()
        )
        generator = np.random.default_rng(seed)
        folder = Path(tmp_path) / name
        folder.mkdir()
        written = '"none"' if epsilon is None else epsilon
        config = CONFIG.format(seed=seed, rounds=rounds, epsilon=written, rate=how.get("rate", 0.01))
        (folder / "config.toml").write_text(config, encoding="utf-8")
        records = _rounds(rounds, epsilon, generator, how.get("every", 2))
        kept = [record for record in map(each or dict, records) if record is not None]
        (folder / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
        if summary:
            ended = _summary(rounds, epsilon, seed, generator) | (changed or {})
            ended = {key: value for key, value in ended.items() if value is not ...}
            (folder / "summary.json").write_text(json.dumps(ended), encoding="utf-8")
        if examples:
            (folder / "examples.json").write_text(json.dumps(_examples()), encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A folder of behaviour small enough to run in a second: 24 users, 40 items with text and categories."""
    rng = np.random.default_rng(7)
    folder = tmp_path_factory.mktemp("tiny-data")
    kinds = ["garden tool", "kitchen pot", "paper lantern", "wooden toy"]
    items = ["id,title,text,categories"]
    for n in range(40):
        kind = kinds[n % 4]
        items.append(f"i{n},{kind} {n},a {kind} for the house number {n},{kind.split()[0]}")
    rows = ["user,item,time,kind"]
    for user in range(24):
        liked = rng.permutation(10)[:10] * 4 + user % 4
        other = rng.permutation(40)[:6]
        for step, item in enumerate(dict.fromkeys([*liked, *other])):
            rows.append(f"u{user},i{item},{1_600_000_000 + 1000 * step + user},{'purchase' if step % 3 else 'view'}")
    (folder / "items.csv").write_text("\n".join(items) + "\n")
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def tiny(tiny_data):
    """Resolve a configuration on the tiny data: ``tiny("rounds=3", seed=1)``."""
    from simulations.config import resolve

    def config(*sets: str, seed: int | None = 1):
        fixed = ["rounds=3", "model.text_encoder=none", "model.rank=4", "policy.measure_every=2", "training.context=8"]
        fixed += ["training.targets=4", "training.negatives=8", "privacy.delta=1e-3", "policy.k=10", "policy.depth=20"]
        fixed += ["secure_aggregation=ideal"]  # the same integers; masks among 24 clients multiply a run's time
        return resolve("synthetic", sets=[*fixed, *sets], seed=seed, data=tiny_data)

    return config


@pytest.fixture
def silent():
    """A screen that says nothing and remembers its rows in ``rows``."""
    from simulations.run import Screen

    return Screen(say=lambda _sentence: None, tell=lambda _row, _total: None)
