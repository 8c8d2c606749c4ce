"""What a deployment costs on this machine: seconds a round, memory of each process, time to serve after a restart.

    python deploy/measure.py              # five devices, six rounds, two minutes
    python deploy/measure.py --json

Rounds are timed by the server itself (``rounds.jsonl``). Training is trivial, 40 events a person: a round is what the
parts around it cost: five exchanges of a masked sum, twice where the round is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from loopback import Deployment, LoopbackError, ask_device, deployed, listens, say, start_device, stop, wait_for

SETTLED: Final = 5.0  # seconds


def resident(pid: int) -> float:
    """Megabytes that a process and its children hold in memory."""
    return round(own_resident(pid) + sum(resident(child) for child in children(pid)), 1)


def own_resident(pid: int) -> float:
    """Megabytes that one process holds; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return []


def restart_to_serve(deployment: Deployment) -> float:
    """Seconds from the start of an agent to its first recommendation."""
    stop(deployment, "device-0")
    began = time.monotonic()
    start_device(deployment, 0)

    def served() -> bool:
        try:
            return bool(ask_device(deployment, 0, "/v1/recommendations")["offers"])
        except OSError:
            return False

    wait_for("the first recommendation", served, 30, every=0.02)
    return round(time.monotonic() - began, 2)


def event_to_list(deployment: Deployment, tries: int = 50) -> dict[str, float]:
    """Milliseconds from sending an event to holding the list that knows of it, over the local API.

    The first one is the first request at all of an agent that was started some seconds before.
    """
    stop(deployment, "device-0")
    start_device(deployment, 0)
    wait_for("the agent", lambda: listens(deployment.ports.devices[0]), 30)
    time.sleep(SETTLED)
    took = []
    for number in range(tries):
        began = time.perf_counter()
        ask_device(deployment, 0, "/v1/events", {"events": [{"item": f"i{number:03d}", "kind": "view"}]})
        ask_device(deployment, 0, "/v1/recommendations")
        took.append(1000.0 * (time.perf_counter() - began))
        time.sleep(0.1)
    first, *took = took
    took.sort()
    return {
        "first_ms": round(first, 1),
        "median_ms": round(statistics.median(took), 1),
        "p99_ms": round(took[int(0.99 * (tries - 2))], 1),
    }


def measured(deployment: Deployment, rounds: int) -> dict[str, Any]:
    """All figures of one deployment."""

    def rows_of() -> list[dict[str, Any]]:
        """Read where they are written: asking the server costs a process each time, which the round would wait for."""
        paths = list((deployment.house / "runs").glob("*/rounds.jsonl"))
        lines = paths[0].read_text(encoding="utf-8").splitlines() if paths else []
        return [json.loads(line) for line in lines] if len(lines) >= rounds else []

    rows: list[dict[str, Any]] = wait_for(f"{rounds} rounds", rows_of, 180.0 + 60.0 * rounds, every=1.0)
    later = [row for row in rows if row["round"] > 2]  # workers have torch by then
    plain = [row["seconds"] for row in later if row["estimate"] is None]
    twice = [row["seconds"] for row in later if row["estimate"] is not None]
    server = deployment.running["server"].pid
    agent = deployment.running["device-1"].pid
    return {
        "seconds_a_round": {"training": plain, "training and measuring": twice},
        "agent_mb": own_resident(agent),
        "worker_mb": round(sum(resident(child) for child in children(agent)), 1),
        "server_mb_all_processes": resident(server),
        "event_to_list": event_to_list(deployment),
        "restart_to_serve_seconds": restart_to_serve(deployment),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="What a deployment costs on this machine.")
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            with deployed(Path(folder) / "deployment", given.clients, given.rounds) as deployment:
                figures = measured(deployment, given.rounds)
        except LoopbackError as error:
            say(str(error))
            return 1
    if given.json:
        say(json.dumps(figures))
    else:
        for name, value in figures.items():
            say(f"{name.replace('_', ' ')}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
