"""Where the runs of a sweep happen: processes of this machine, or tasks of a Ray cluster, each of which starts one.

A run is a process of its own with one thread for arithmetic, so that as many of them as there are cores fill a machine.
Nothing is forked: every process begins with an interpreter of its own.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from shared.errors import RunError
from shared.files import write_atomically
from simulations.frontier.runs import RUNS, digest
from simulations.sweep.child import INTERRUPTED, Order

THREADS: Final = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
    "RAYON_NUM_THREADS",
)
CHILD: Final = ("-m", "simulations.sweep.child")
POLL: Final = 0.1  # seconds between two looks at the processes
PATIENCE: Final = 10.0  # seconds for a cluster to take a connection
SEEN: Final = ".seen"  # holds a word that every node of a cluster must read alike
Ended = tuple[str, str | None]
"""A run's name, and why it failed; None = it has ended well."""
Orders = Mapping[str, Order]
Begun = Callable[[str], None]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(orders: Orders, jobs: int, begun: Begun) -> Iterator[Ended]:
    """Carry all orders out, so many at once, and tell each as it ends.

    Args:
        orders: run -> what is to be done.
        jobs: at least 1.
        begun: hears the name of each run that begins.

    Raises:
        KeyboardInterrupt: passed on once every process has saved its state; at a second one they end at once.
    """
    waiting, live = [*reversed([*orders.items()])], dict[str, subprocess.Popen[bytes]]()
    try:
        while waiting or live:
            while waiting and len(live) < jobs:
                name, order = waiting.pop()
                try:
                    live[name] = start(order)
                except OSError as error:
                    yield name, _not_begun(error)
                    continue
                begun(name)
            for name, process in [*live.items()]:
                if process.poll() is not None:
                    del live[name]
                    yield name, why_failed(process, orders[name])
            time.sleep(POLL)
    except KeyboardInterrupt:
        for process in live.values():
            process.send_signal(signal.SIGINT)
        for process in live.values():
            process.wait()
        raise
    finally:
        for process in live.values():
            _end(process)


def log_of(order: Order) -> Path:
    """What a run said, beside its folder."""
    return Path(f"{order.folder}.log")


def start(order: Order) -> subprocess.Popen[bytes]:
    """A process that carries an order out; in a session of its own, so that Ctrl-C reaches it through us alone."""
    environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "TOKENIZERS_PARALLELISM": "false"}
    with log_of(order).open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, a module of this program
            [sys.executable, *CHILD],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    if process.stdin is not None:
        with suppress(BrokenPipeError):  # it ended before it read; its exit code says so
            process.stdin.write(order.to_line())
            process.stdin.flush()
    return process


def why_failed(process: subprocess.Popen[bytes], order: Order) -> str | None:
    """After its end: the last line of what a process said, or its exit code; None when it went well."""
    code = process.wait()
    _end(process)
    if code == 0:
        return None
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code == INTERRUPTED:
        return "interrupted"
    said = log_of(order).read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(said) if line.strip()), f"exit code {code}")


@contextmanager
def on_ray(address: str, jobs: int | None) -> Iterator[Callable[[Orders, Begun], Iterator[Ended]]]:
    """As :func:`in_processes`, on the cores of a Ray cluster, which is connected to at once.

    Every node sees the sweep's folder under the same path, has this program in the same state, and has its own cache.

    Args:
        address: of the cluster, as ``ray.init`` takes it: "auto", "host:port" or "ray://host:port".
        jobs: so many at once at most; None = as many as the cluster has cores.

    Raises:
        RunError: there is no cluster at that address.
        KeyboardInterrupt: passed on; the processes end at once, and the same command goes on from their checkpoints.
    """
    import ray  # noqa: PLC0415 - heavy, and asked for by an address alone

    try:
        _look(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ValueError, RuntimeError, OSError, SystemExit) as error:  # Ray ends the process where it has waited enough
        sentence = str(error).strip().partition("\n")[0]
        raise RunError(f"--ray {address}: no Ray cluster there ({sentence}); first: ray start --head") from error
    try:
        yield lambda orders, begun: _through(ray, orders, jobs, begun)
    finally:
        ray.shutdown()


def _look(address: str) -> None:
    """Whether anybody listens there: Ray itself would ask for eight minutes.

    Raises:
        OSError: nobody does.
        ValueError: the port is no number.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()


def _through(ray: Any, orders: Orders, jobs: int | None, begun: Begun) -> Iterator[Ended]:  # noqa: ANN401 - a library imported late
    task = ray.remote(num_cpus=1, max_retries=0)(_on_node)
    word, code = os.urandom(16).hex(), digest(RUNS)
    for folder in {Path(order.folder).parent for order in orders.values()}:
        write_atomically(folder / SEEN, word.encode())
    most = jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting, live = [*reversed([*orders.items()])], dict[Any, str]()
    while waiting or live:
        while waiting and len(live) < most:
            name, order = waiting.pop()
            live[task.remote(order, word, code)] = name
            begun(name)
        done, _ = ray.wait([*live], timeout=1.0)
        for one in done:
            name = live.pop(one)
            try:
                yield name, ray.get(one)
            except ray.exceptions.RayError as error:
                yield name, f"its node was lost ({str(error).strip().partition('.')[0]})"


def _on_node(order: Order, word: str, code: str) -> str | None:
    """Carry an order out on a node of a cluster: why it failed, or None."""
    shared = Path(order.folder).parent / SEEN
    if not shared.is_file() or shared.read_text(encoding="utf-8") != word:
        return f"a node does not see the folder {shared.parent}; put --out where every node has it under the same path"
    if digest(RUNS) != code:
        return "a node has fedrecall in another state than the one that asks; install the same on every node"
    try:
        process = start(order)
    except OSError as error:
        return _not_begun(error)
    try:
        process.wait()
    finally:
        _end(process)
    return why_failed(process, order)


def _not_begun(error: OSError) -> str:
    return f"cannot be begun ({error.filename}: {error.strerror})"


def _end(process: subprocess.Popen[bytes]) -> None:
    """No process stays behind, nor a pipe to it."""
    process.kill()
    process.wait()
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()
