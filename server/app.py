"""Flower's entry point on the server: thin, so that the round loop runs without Flower's runtime.

``flwr run`` gives it a Grid; the folder of the run comes from the operator's environment.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.coordinator import run_rounds
from server.desk import Desk
from server.folder import read_service, wait_for_nodes
from server.job import initial_state, make_job
from server.rows import Row
from shared.catalogue import load_catalogue
from shared.keys import own_key
from shared.privacy.ledger import create_ledger
from shared.privacy.noise import os_noise
from shared.privacy.plan import plan_to_dict

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that ``FEDRECALL_HOME/server`` describes, on the nodes that Flower has."""
    home = Path(os.environ.get("FEDRECALL_HOME", "."))
    service = read_service(home / "server" / "service.json")
    catalogue = load_catalogue(home / "catalogue.npz")
    nodes = {str(node): node for node in wait_for_nodes(grid, service.clients, service.config.cohort.deadline)}
    job = make_job(
        f"flwr-{context.run_id}",
        service.config,
        catalogue,
        nodes,
        users_per_client=service.users_per_client,
        users=service.users,
        kind=service.kind,
    )
    folder = home / "server" / job.run
    folder.mkdir(parents=True)
    genesis = {"kind": job.plan.kind, "run": job.run, "plan": plan_to_dict(job.plan), "catalogue": job.catalogue}
    ledger = create_ledger(folder / "ledger.jsonl", own_key(home / "server" / "ledger-key.pem"), genesis)
    desk = Desk(
        grid=grid,
        ledger=ledger,
        folder=folder,
        noise=lambda _round, _release: os_noise(),
        rng=lambda _round, _purpose: np.random.default_rng(),
        oracle=lambda _state, _measured: None,
        masked=True,
        registered={bytes.fromhex(key) for key in service.registered},
        ledgers=lambda: {"ledger.jsonl": ledger.count},
        attempts={},
        tell=_tell,
    )
    try:
        ending = run_rounds(job, desk, initial_state(job, np.random.default_rng()))
    finally:
        ledger.close()
    result = {"stopped": ending.stopped, "round": ending.rounds_done, "model": ending.to_dict()}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def _tell(row: Row) -> None:
    logging.getLogger("fedrecall.server").info("round %s: %s", row["round"], json.dumps(row["cohort"]))
