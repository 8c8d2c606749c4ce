"""Client updates by Flower's Ray simulation with Opacus in every client.

``python -m simulations.benchmarks.peers.flower_updates TASK SUM``. Each user is a client, and one Opacus sample is
one user's row, so clipping is per user as on our side. Every advantage is Flower's: as many supernodes as a cohort
has, no noise drawn, no strategy (messages and a sum), logs off, data read and cut once per worker, the first round
not counted. What is timed is the processor time of the driver and of everything that Ray started, from a round's
first message to its sum.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from importlib.metadata import version
from os import environ, getpid, sysconf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from simulations.benchmarks.peers.flower_client import TASK, client_app
from simulations.benchmarks.peers.task import PeerTask, read_task


def _server(task: PeerTask, out: dict[str, Any]) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, _context: Context) -> None:
        arrays = ArrayRecord({name: torch.from_numpy(np.array(value)) for name, value in task.parameters.items()})
        nodes: list[int] = []
        while len(nodes) < task.terms.cohort:
            nodes = list(grid.get_node_ids())
            time.sleep(0.1)
        _round(grid, arrays, nodes)
        for _ in range(task.terms.repeats):
            began = processor_seconds()
            out["sum"] = _round(grid, arrays, nodes)
            out["rates"].append(len(nodes) / (processor_seconds() - began))

    return app


def _round(grid: Grid, arrays: ArrayRecord, nodes: list[int]) -> dict[str, Any]:
    content = RecordDict({"parameters": arrays})
    replies = grid.send_and_receive([Message(content, dst_node_id=node, message_type="train") for node in nodes])
    total: dict[str, Any] = {}
    for reply in replies:
        if reply.has_error():
            raise RuntimeError(f"a client failed: {reply.error.reason}")
        for name, array in reply.content.array_records["change"].items():
            total[name] = total.get(name, 0.0) + array.numpy()
    return total


def processor_seconds() -> float:
    """Of this process and all its descendants: Ray's daemons and workers are some. Linux."""
    parents, spent = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        pid = int(stat.parent.name)
        parents[pid], spent[pid] = int(fields[1]), sum(map(int, fields[11:15]))  # children that ended count, too

    def ours(pid: int) -> bool:
        while pid > 1 and pid != getpid():
            pid = parents.get(pid, 0)
        return pid == getpid()

    return sum(ticks for pid, ticks in spent.items() if ours(pid)) / sysconf("SC_CLK_TCK")


def main(task_path: str, sum_path: str) -> None:
    """Measure, write the sum of the last round, and print the rest as JSON."""
    from flwr.simulation import run_simulation  # noqa: PLC0415 - workers do without

    environ[TASK] = task_path
    logging.disable(logging.CRITICAL)
    task = read_task(Path(task_path))
    out: dict[str, Any] = {"rates": []}
    run_simulation(
        server_app=_server(task, out),
        client_app=client_app,
        num_supernodes=task.terms.cohort,
        backend_config={
            "init_args": {"include_dashboard": False, "log_to_driver": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    np.savez(sum_path, **out["sum"])
    versions = {name: version(name) for name in ("flwr", "ray", "opacus", "torch")}
    print(json.dumps({"rates": out["rates"], "versions": versions}))  # noqa: T201 - the result, on standard output


if __name__ == "__main__":
    main(*sys.argv[1:])
