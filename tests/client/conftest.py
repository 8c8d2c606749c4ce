"""A small federation in memory: a catalogue, histories, plans, tasks and hosts."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, replace
from datetime import date
from threading import Thread

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict

from client.answers import Answer, Explained, Offer, Standing
from client.api import api_server, listening_on, make_api
from client.consent import Consent
from client.forgetting import Receipt
from client.host import Host, Randomness
from client.mapped import open_folder
from client.recommending import shelf_of
from client.shelf_files import Origin, Ready, write_shelf
from client.shelving import CURRENT, Current
from client.store import ClientStore
from client.vault import Forgotten, Summary
from shared.catalogue import Catalogue
from shared.encoder.spec import EncoderSpec, initial_parameters
from shared.errors import DataError
from shared.files import write_atomically
from shared.history import KINDS, History
from shared.policy.recall_policy import RecallPolicy
from shared.privacy.calibration import make_plan
from shared.privacy.noise import NoiseSource
from shared.privacy.plan import Target
from shared.proofs import addressed, sign_task
from shared.protocol import (
    Header,
    MeasureTask,
    ProfileTask,
    StatisticsTask,
    TrainingTerms,
    TrainTask,
    TrendingTask,
    task_record,
)
from shared.recall.item_rules import NO_RULES

ITEMS = 48
SPEC = EncoderSpec(text_width=16, rank=16, buckets=ITEMS)
TERMS = TrainingTerms("softmax", 1.0, 16, 16, 32)
SERVER = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
TIP = "5" * 64  # of the server's ledger
TODAY = date(2026, 3, 1)
WINDOW = 365  # days, which hold some of a history


def unit_rows(rng, items, width):
    rows = rng.normal(size=(items, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="session")
def catalogue():
    rng = np.random.default_rng(1)
    names = tuple(f"i{n}" for n in range(ITEMS))
    groups = {"text": unit_rows(rng, ITEMS, 16), "lexical": unit_rows(rng, ITEMS, 7)}
    groups |= {"category": unit_rows(rng, ITEMS, 5), "compact": unit_rows(rng, ITEMS, 16)}
    return Catalogue(names, names, names, ((),) * ITEMS, groups)


@pytest.fixture(scope="session")
def history():
    """``history(seed, length, held_out)``: a believable history; the newest rows are held out."""

    def make(seed, length=12, held_out=3):
        rng = np.random.default_rng(seed)
        rating = rng.uniform(0.2, 1, length).astype(np.float32)
        return History(
            item=rng.choice(ITEMS, length, replace=False).astype(np.int32),
            kind=rng.integers(0, 5, length).astype(np.int8),
            count=rng.integers(1, 9, length).astype(np.float32),
            dwell=rng.uniform(0, 1, length).astype(np.float32),
            rating=np.where(rng.random(length) < 0.5, np.float32(np.nan), rating),
            time=np.sort(rng.uniform(1.67e9, 1.77e9, length)),
            held_out=np.arange(length) >= length - held_out,
        )

    return make


@pytest.fixture
def policy():
    """``policy(**changes)``."""
    first = RecallPolicy(
        version=1,
        similarity={"text": "cosine", "lexical": "cosine", "category": "cosine"},
        weights={"text": 5.0, "lexical": 1.0, "category": 2.0, "popularity": 1.0},
        features=("text", "lexical", "category", "popularity"),
        depth=30,
        local_iterations=1,
        exposure_price=0.0,
        diversity=0.0,
        exploration=0.0,
        k=10,
    )
    return lambda **changes: replace(first, **changes)


@pytest.fixture
def plan():
    """``plan(**changes)`` of a target for six clients and three rounds."""

    def make(**changes):
        target = Target(
            kind="simulation",
            unit="user",
            trust="distributed",
            epsilon=8.0,
            delta=1e-3,
            population=6,
            smallest_cohort=4,
            collusion=0.0,
            rounds=3,
            update_participations=3,
            measurement_participations=2,
            trending_participations=2,
            shares={"update": 0.65, "measurement": 0.15, "statistics": 0.05, "profile": 0.1, "trending": 0.05},
            update_dimension=SPEC.size,
            clip=0.5,
            users=6,
        )
        return make_plan(replace(target, **changes))

    return make


@pytest.fixture
def task(catalogue, plan, policy):
    """``task("update", plan=..., policy=..., round=...)``; also "measurement", "statistics", "profile", "trending"."""
    parameters = initial_parameters(SPEC, np.random.default_rng(5))
    prior = np.linspace(-1, 1, ITEMS).astype(np.float32)

    def make(kind="update", *, training=TERMS, values=parameters, shadows=(), rules=NO_RULES, **changes):
        chosen = changes.pop("policy", None) or policy()
        header = Header("run", 1, 1, changes.pop("plan", None) or plan(), catalogue.version(), SPEC)
        header = replace(header, **changes)
        if kind == "statistics":
            return StatisticsTask(header)
        if kind == "profile":
            return ProfileTask(header, 8, 12, prior)
        if kind == "trending":
            return TrendingTask(header, WINDOW, ITEMS)
        if kind == "measurement":
            return MeasureTask(header, chosen, shadows, (4, 8), rules, values, prior)
        return TrainTask(header, chosen, training, rules, values, prior)

    return make


@pytest.fixture
def message():
    """``message(task_or_record, last=receipt, signer=key)``: as it comes from the server."""

    def make(what, last=None, signer=SERVER, tip=TIP):
        record = what if isinstance(what, RecordDict) else task_record(what)
        return addressed(sign_task(record, signer, tip), last)

    return make


@pytest.fixture
def consent():
    """``consent(**changes)`` of somebody who agrees to anything."""

    def make(**changes):
        caps = dict.fromkeys(("epsilon_per_round", "epsilon_per_period", "epsilon_lifetime"), 1000.0)
        wide = {"delta": 1e-3, "allow_without_privacy": True, "smallest_noise": 0.0, "smallest_cohort": 1}
        wide |= {"largest_clip": 1e6, "unit": ("user", "interaction"), "trust": ("local", "distributed", "central")}
        return Consent(**(caps | wide | changes))

    return make


def words(*names):
    digest = hashlib.sha256(repr(names).encode()).digest()
    return np.random.SFC64(np.frombuffer(digest, np.uint32).tolist())


@pytest.fixture
def randomness():
    """Repeatable chance, keyed by name as in a simulation."""
    return Randomness(
        noise=lambda *names: NoiseSource("seeded", words("noise", *names).random_raw),
        key=lambda *names: int(words("user", *names).random_raw()),
        rng=lambda *names: np.random.Generator(words("user", *names)),
        entropy=lambda *names: np.random.Generator(words("entropy", *names)).bytes,
    )


@pytest.fixture
def host(catalogue, randomness, consent, tmp_path):
    """``host(histories, users_per_client, name)``: its clients are called "1", "2", ...; its ledger is name.jsonl.

    All agree to anything, on ``TODAY``, and answer without masks, unless other arguments of a host are given.
    """
    opened = []

    def make(histories, users_per_client=1, name="ledger", **changes):
        stores = {}
        for number, start in enumerate(range(0, len(histories), users_per_client), 1):
            part = tuple(histories[start : start + users_per_client])
            users = tuple(f"u{start + i}" for i in range(len(part)))
            stores[str(number)] = ClientStore(str(number), users, part)
        key = Ed25519PrivateKey.from_private_bytes(bytes(32))
        given = {"consents": dict.fromkeys(stores, consent()), "clock": lambda: TODAY}
        given |= {"identity": lambda _client: key, "masked": False} | changes
        opened.append(Host(stores, catalogue, tmp_path / f"{name}.jsonl", key, randomness, **given))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


class StandInDevice:
    """A device of eight items without a model: the last recorded item is never offered again."""

    def __init__(self):
        self.events, self.forgotten = [], []
        self.error = None  # what the next call raises

    def _fail(self):
        if self.error is not None:
            raise self.error

    def record(self, events):
        self._fail()
        self.events += events
        return len(events)

    def recommend(self, wish):
        self._fail()
        self.wish = wish
        seen = {event.item for event in self.events}
        offers = [
            Offer(
                f"i{n}",
                f"Item <b>{n}</b>",
                ("drama", "war"),
                3.0 - n / 4,
                {"text": 2.0, "popularity": 1.0 - n / 4},
                "you",
            )
            for n in range(8)
            if f"i{n}" not in seen
        ]
        return Answer(tuple(offers[: wish.k]), "c" * 64, 3, 7, "From what you did: the model is that of round 7.")

    def explain(self, item):
        if not item.startswith("i"):
            raise DataError(f"item {item!r}: the catalogue has none")
        because = (("Item one", 0.8), ("Item two", 0.21))
        said = ("because you bought Item one",)
        return Explained(item, "Item", said, 3.0, {"text": 2.0, "popularity": 1.0}, because, (("Item five", -0.3),), 3)

    def forget(self, items=None, before=None):
        self.forgotten.append((items, before))
        gone, self.events = len(self.events), []
        return Receipt(1, 1.7e9, None, before, Forgotten(gone, 0, 1, 0, 2, 24, 16_384, 0), "e" * 64)

    def stored(self):
        times = [event.time for event in self.events]
        by_kind = {kind: sum(event.kind == kind for event in self.events) for kind in KINDS}
        return Summary(len(times), by_kind, min(times, default=None), max(times, default=None), 16_384)

    def status(self):
        return Standing(len(self.events), 8, "c" * 64, "run", 7, 3, 2, 0, 0, 0, "exact", "")


@pytest.fixture
def stand_in():
    return StandInDevice()


@pytest.fixture
def local_api():
    """``local_api(device, home, **changes)``: the API of a device on a free port of 127.0.0.1; gives (port, token)."""
    running = []

    def start(device, home, **changes):
        listening = listening_on(0)
        port, token = listening.getsockname()[1], "t" * 43
        server = api_server(make_api(device, home, token, port, **changes))
        thread = Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        running.append((server, thread, listening))
        return port, token

    yield start
    for server, thread, listening in running:
        server.should_exit = True
        thread.join(10)
        listening.close()


@pytest.fixture
def serving(catalogue, policy, tmp_path):
    """``serving(kind, **changes)``: a mapped shelf of 48 items in four categories, and the same in memory.

    Changes are of the policy. ``bare``: without a model. ``home``: as that device's current shelf.
    """
    made = itertools.count()

    def make(kind="linear", *, rules=NO_RULES, home=None, bare=False, **changes):
        spec = replace(SPEC, kind=kind)
        rng = np.random.default_rng(3)
        parameters = initial_parameters(spec, rng) + rng.normal(0, 0.3, spec.size).astype(np.float32)
        kinds = tuple((f"c{n % 4}",) for n in range(ITEMS))
        whole = replace(catalogue, categories=kinds, titles=tuple(f"Title {n}" for n in range(ITEMS)))
        shelf = shelf_of(spec, parameters, np.linspace(-1, 1, ITEMS).astype(np.float32), whole, rules=rules)
        name = f"shelf{next(made)}"
        folder = (home.shelf if home else tmp_path) / name
        ready = None if bare else Ready(shelf, policy(**changes))
        write_shelf(folder, Origin(name, whole.version(), "run", 3, rules), whole, ready)
        if home:
            write_atomically(home.shelf / CURRENT, json.dumps(asdict(Current(name, 1, ("i5",)))).encode())
        return open_folder(folder), shelf

    return make


# --- a device, as a person has one


@pytest.fixture(scope="session")
def made_device(tmp_path_factory):
    """A device's folder and its vault's key; made once, as a passphrase is slow on purpose. Copy it, never use it."""
    from client.setting_up import make_device

    folder = tmp_path_factory.mktemp("made") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.vault_key.COST", 1 << 14)
        home = make_device(folder, 0, "correct horse")
        from client.vault_key import unlock

        return home, unlock(home, lambda: "correct horse")


@pytest.fixture
def device(made_device, tmp_path, catalogue, consent):
    """A device that agrees to anything of ``SERVER``, with the catalogue, twelve events, and its vault's key."""
    import json
    import shutil
    import time

    from client.consent import write_consent
    from client.home import Home
    from client.published import catalogue_path
    from client.vault import Behaviour, open_vault
    from shared.catalogue import save_catalogue
    from shared.privacy.chain import public_hex

    made, key = made_device
    home = Home(shutil.copytree(made.folder, tmp_path / "device"))
    write_consent(consent(servers=(public_hex(SERVER),)), home.consent)
    said = {"address": "127.0.0.1:1", "ca": "", "server": public_hex(SERVER), "roster": "0" * 64}
    home.server.write_text(json.dumps(said), encoding="utf-8")
    save_catalogue(catalogue, catalogue_path(home, catalogue.version()))
    with open_vault(home.vault, key) as vault:
        yesterday = time.time() - 86_400  # an agent deletes what is years old
        vault.record([Behaviour(f"i{3 * n}", "purchase", yesterday + n) for n in range(12)])
    return home, key


@pytest.fixture
def incoming():
    """``incoming(record, kind)``: as the agent pulled it."""
    from flwr.app.message.message import make_message
    from flwr.app.metadata import Metadata
    from flwr.common.serde import metadata_to_proto
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    from client.fleet_link import Incoming

    def make(record, kind="train.update"):
        metadata = Metadata(1, "", 1, 7, "", "", 1.8e9, 60.0, kind)
        message = make_message(metadata, content=record)
        objects = {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
        metadata.__dict__["_message_id"] = message.object_id
        return Incoming(metadata_to_proto(metadata).SerializeToString(), message.object_id, objects)

    return make


@pytest.fixture(scope="module")
def superlink(tmp_path_factory):
    """A real SuperLink over TLS, this process as its ServerApp; see ``superlink_rig.py``."""
    import importlib.util
    import sys
    from pathlib import Path

    found = importlib.util.spec_from_file_location("superlink_rig", Path(__file__).with_name("superlink_rig.py"))
    rig = importlib.util.module_from_spec(found)
    sys.modules["superlink_rig"] = rig  # dataclasses look their module up
    found.loader.exec_module(rig)
    made = rig.SuperLink(tmp_path_factory.mktemp("superlink"))
    try:
        yield made.start()
    finally:
        made.close()
