"""A prepared home: what each client agrees to is the plan that its server will make, once."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from client.consent import read_consent
from client.folder import CONSENT, client_folder
from client.gate import Gate, Request, learn, refusals
from server.folder import read_service
from server.job import make_job
from shared.catalogue import load_catalogue
from shared.privacy.plan import RELEASES
from shared.proofs import ServerStamp
from simulations.prepare import write_home
from simulations.world import load_world

DAY = date(2026, 3, 1)


@pytest.mark.parametrize("sets", [(), ("privacy.trust=local",), ("privacy.trust=central",), ("privacy.epsilon=none",)])
def test_every_client_agrees_to_the_servers_plan_and_to_no_second_one(sets, tiny, tmp_path):
    config = tiny(*sets)
    world = load_world(config, tmp_path / "cache", None, lambda _said: None)
    home = tmp_path / "home"
    count = write_home(config, world, home, None)
    service = read_service(home / "server" / "service.json")
    nodes = {str(n): n for n in range(count)}
    sizes = {"users_per_client": service.users_per_client, "users": service.users, "kind": service.kind}
    job = make_job("flwr-1", service.config, load_catalogue(home / "catalogue.npz"), nodes, **sizes)
    server = ServerStamp("a" * 64, "5" * 64)
    for number in range(count):
        consent = read_consent(client_folder(home, number) / CONSENT)
        gate = Gate(job.catalogue, {"c": consent})
        for kind in RELEASES:
            for again in range(job.plan.mechanism(kind).participations):
                asked = Request(
                    *(kind, job.run, again + 1, 1, job.plan, job.catalogue, ("text", "category"), server, "d" * 64, 9),
                    private=False,
                )
                assert refusals(gate, asked, {"c": False}, today=DAY) == {}
                learn(gate, paid(asked), "here")
        second = replace(asked, run="flwr-2", round=1)
        if job.plan.epsilon is not None:
            assert refusals(gate, second, {"c": False}, today=DAY)["c"].startswith("consent.epsilon_")


def paid(asked):
    task = dict(zip(("run", "round", "attempt", "release"), asked.name, strict=True))
    rho = None if asked.plan.epsilon is None else asked.rho
    return {"type": "intent", "client": "c", **task, "rho": rho, "day": DAY.isoformat()}
