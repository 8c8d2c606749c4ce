"""Engine ``ray``: the same ServerApp and ClientApp, started by ``flwr run`` on Flower's own simulation.

A SuperLink of our own, on free ports of the loopback, with its own Flower home inside the run's folder; it is stopped
at the end, whatever happened. Clients are separate processes here, so nothing is seeded: noise comes from the
operating system.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from server.checkpoint import load_state
from server.ending import BEST_FILE, conclude
from server.job import check_promise
from server.rows import Row
from shared.errors import ConfigError, RunError
from simulations.aggregation import promise
from simulations.config import SimulationConfig
from simulations.finish import finish
from simulations.prepare import write_home
from simulations.run import Screen, create_folder, job_of
from simulations.world import load_world

STARTUP: Final = 60.0  # seconds until the SuperLink must answer
POLL: Final = 1.0


def run_on_ray(config: SimulationConfig, folder: Path, *, cache: Path, source: Path | None, screen: Screen) -> Row:
    """Run a configuration with ``flwr run``; arguments and result as :func:`simulations.run.new_run`.

    Raises:
        ConfigError: a seed is asked for, or there is no checkout to bundle.
        RunError: Flower's run did not end as ``finished:completed``.
    """
    if config.seed != "none":
        raise ConfigError('engine = "ray": clients are separate processes and cannot be seeded; add --set seed=none')
    if config.privacy.trending_share:
        raise ConfigError(
            'engine = "ray": clients go by the real calendar, on which nothing in a data set is recent; add '
            "--set privacy.trending_share=0"
        )
    app = Path(__file__).resolve().parents[1]
    if not (app / "pyproject.toml").exists():
        raise ConfigError("engine = 'ray' bundles the source tree: run from a checkout, or use engine = 'inprocess'")
    began = time.monotonic()
    check_promise(config)
    world = load_world(config, cache, source, screen.say)
    job = job_of(config, world, folder.name)
    create_folder(folder, config)
    screen.say("\n".join(promise(config, job.plan)))
    home = folder / "home"
    count = write_home(config, world, home, None)
    loaded = time.monotonic() - began
    with _superlink(folder / "flower", home) as (environment, address):
        flower = f'[superlink]\ndefault = "own"\n\n[superlink.own]\naddress = "{address}"\ninsecure = true\n'
        (folder / "flower" / "config.toml").write_text(flower, encoding="utf-8")
        screen.say(f"flwr run: {count} nodes on Ray")
        _flwr(["run", str(app), "own", "--federation-config", f"num-supernodes={count}"], environment)
        status = _wait(environment, home, config.rounds, screen)
    if status != "finished:completed":
        raise RunError(f"flwr run ended as {status}; see {folder / 'flower' / 'superlink.log'}")
    result = next((home / "server").glob("flwr-*"))
    for name in ("ledger.jsonl", "rounds.jsonl", "checkpoint.safetensors", BEST_FILE):
        if (result / name).exists():  # no round may have been measured, or finished
            shutil.copyfile(result / name, folder / name)
    state = load_state(folder / "checkpoint.safetensors")
    if state.stopped is None:
        raise RunError(f"{folder}: flwr run came to no end; see {folder / 'flower' / 'superlink.log'}")
    return finish(config, folder, world, job, conclude(state, state.stopped, folder), loading_seconds=loaded)


@contextmanager
def _superlink(flower: Path, home: Path) -> Iterator[tuple[dict[str, str], str]]:
    """A SuperLink in a process group of its own, outside the source tree; the group ends with the block."""
    flower.mkdir()
    http, control = _free_port(), _free_port()
    environment = os.environ | {
        "FLWR_HOME": str(flower.resolve()),
        "FEDRECALL_HOME": str(home.resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", ""),
    }
    command = [str(Path(sys.executable).parent / "flower-superlink"), "--insecure", "--simulation"]
    command += ["--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(http)]
    command += ["--control-api-address", f"127.0.0.1:{control}", "--database", str((flower / "state.db").resolve())]
    with (flower / "superlink.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, cwd=flower, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _until_open(http, process)
            yield environment, f"127.0.0.1:{http}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)


def _wait(environment: Mapping[str, str], home: Path, rounds: int, screen: Screen) -> str:
    """Poll until the run has ended; ``flwr run --stream`` would exit 0 for a failed run. Rows are told as they come."""
    told = 0
    while True:
        for path in (home / "server").glob("flwr-*/rounds.jsonl"):
            rows = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
            for line in rows[told:]:
                screen.tell(json.loads(line), rounds)
            told = len(rows)
        status = str(_flwr(["ls", "--format", "json"], environment)["runs"][0]["status"])
        if status.startswith("finished"):
            return status
        time.sleep(POLL)


def _flwr(arguments: list[str], environment: Mapping[str, str]) -> dict[str, Any]:
    flwr = str(Path(sys.executable).parent / "flwr")
    form = [] if "--format" in arguments else ["--format", "json"]
    done = subprocess.run(  # noqa: S603 - our own command
        [flwr, *arguments, *form], env=dict(environment), capture_output=True, text=True, check=False
    )
    try:
        answer = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError as error:
        raise RunError(f"flwr {arguments[0]} gave no answer: {(done.stderr or done.stdout).strip()[-500:]}") from error
    if not answer.get("success"):
        raise RunError(f"flwr {arguments[0]} failed: {answer.get('error-message', answer)}")
    return dict(answer)


def _until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + STARTUP
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RunError(f"flower-superlink ended at once with code {process.returncode}; see superlink.log")
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RunError(f"flower-superlink does not listen on port {port} after {STARTUP:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
