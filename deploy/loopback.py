"""A whole deployment on one machine's loopback: server, proxy, devices, as processes of their own, with TLS.

    python deploy/loopback.py                 # five devices, three rounds; shows it working, then stops it
    python deploy/loopback.py --keep          # leaves it running until Ctrl-C

Nothing here is a short cut: it calls the two commands that an operator and a person call, and nginx with the same
configuration as ``deploy/compose.yaml``. The tests of the deployment start it and break it. Needs nginx.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import string
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from invented import CONSENT, DEFAULTS, write_events, write_items

HERE: Final = Path(__file__).resolve().parent
BIN: Final = Path(sys.executable).parent  # the commands of this installation
PASSPHRASE: Final = "a passphrase for show"  # noqa: S105 - the demonstration's own
NGINX: Final = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/fleet.conf;
}}
"""


class LoopbackError(Exception):
    """Something did not start, or did not happen in time."""


@dataclass(frozen=True)
class Ports:
    """Free ports, taken for one deployment."""

    proxy: int
    superlink: int
    operator: int
    devices: tuple[int, ...]


@dataclass
class Deployment:
    """Running processes; not frozen, they come and go.

    Attributes:
        folder: everything lies here.
        ports: of all parties.
        token: an operator's, with every role.
        running: name -> process: "server", "proxy", "device-0", ...
    """

    folder: Path
    ports: Ports
    token: str = ""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def house(self) -> Path:
        """The server's folder."""
        return self.folder / "server"

    def device(self, number: int) -> Path:
        """A device's folder."""
        return self.folder / f"device-{number}"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def environment(**more: str) -> dict[str, str]:
    """For every process: nothing is fetched, nothing is reported, one thread."""
    quiet = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FEDRECALL_PASSPHRASE": PASSPHRASE,
        "OMP_NUM_THREADS": "1",
    }
    return {**os.environ, **quiet, **more}


def command(deployment: Deployment, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """One command of the two, to its end.

    Raises:
        LoopbackError: it failed; with what it said.
    """
    name, *rest = (str(word) for word in words)
    done = subprocess.run(  # noqa: S603 - our own commands
        [str(BIN / name), *rest],
        env=environment(FEDRECALL_TOKEN=deployment.token),
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    if check and done.returncode != 0:
        raise LoopbackError(f"{' '.join([name, *rest])}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def start(deployment: Deployment, name: str, words: Sequence[str | Path], *, wrapper: Sequence[str] = ()) -> None:
    """Start a process that goes on, its output in ``logs/NAME.log``."""
    log = deployment.folder / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as out:
        deployment.running[name] = subprocess.Popen(  # noqa: S603 - our own commands
            [*wrapper, *(str(word) for word in words)],
            env=environment(FEDRECALL_TOKEN=deployment.token),
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def stop(deployment: Deployment, name: str, how: signal.Signals = signal.SIGTERM, patience: float = 40.0) -> None:
    """End one process and everything that it started."""
    process = deployment.running.pop(name, None)
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(how)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def wait_for(what: str, happened: Any, patience: float, every: float = 0.3) -> Any:  # noqa: ANN401 - what it returns
    """Poll until something true comes back.

    Raises:
        LoopbackError: it does not in time.
    """
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if value := happened():
            return value
        time.sleep(every)
    raise LoopbackError(f"{what}: not within {patience:.0f} s")


def start_server(deployment: Deployment) -> None:
    """The server, until it says that it is healthy."""
    start(deployment, "server", [BIN / "fedrecall-server", "up", deployment.house])
    wait_for("the server's health", lambda: healthy(deployment), 90)


def healthy(deployment: Deployment) -> bool:
    """Whether the server says so."""
    return command(deployment, "fedrecall-server", "health", deployment.house, check=False).returncode == 0


def start_proxy(deployment: Deployment) -> None:
    """Start nginx with the configuration of the deployment."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if nginx is None:
        raise LoopbackError("nginx is not installed; on Debian: apt-get install nginx-light")
    folder = deployment.folder / "proxy"
    folder.mkdir(exist_ok=True)
    values = {
        "FEDRECALL_LISTEN": f"127.0.0.1:{deployment.ports.proxy}",
        "FEDRECALL_TLS": str(deployment.house / "tls"),
        "FEDRECALL_SUPERLINK": f"127.0.0.1:{deployment.ports.superlink}",
        "FEDRECALL_SUPERLINK_NAME": "localhost",
        "FEDRECALL_LARGEST": "64m",
        "FEDRECALL_REQUESTS": "200",
        "FEDRECALL_BURST": "400",
    }
    template = string.Template((HERE / "fleet.conf.template").read_text(encoding="utf-8"))
    (folder / "fleet.conf").write_text(template.safe_substitute(values), encoding="utf-8")
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder), encoding="utf-8")
    start(deployment, "proxy", [nginx, "-c", folder / "nginx.conf", "-e", folder / "error.log"])
    wait_for("the proxy", lambda: listens(deployment.ports.proxy), 10)


def start_device(deployment: Deployment, number: int, *, wrapper: Sequence[str] = ()) -> None:
    """One agent."""
    words = [BIN / "fedrecall-client", "run", "--home", deployment.device(number)]
    start(deployment, f"device-{number}", words, wrapper=wrapper)


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def set_up_server(deployment: Deployment, clients: int, rounds: int, sets: Mapping[str, str]) -> None:
    """Catalogue, folder, first operator."""
    items = deployment.folder / "items.csv"
    write_items(items)
    given = {"rounds": str(rounds), **DEFAULTS, **sets}
    options = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    ports = deployment.ports
    service = {
        "service.superlink_port": ports.superlink,
        "service.operator_port": ports.operator,
    }
    options += [word for key, value in service.items() for word in ("--set", f"{key}={value}")]
    address = f"127.0.0.1:{ports.proxy}"
    command(
        deployment,
        "fedrecall-server",
        "init",
        deployment.house,
        "--address",
        address,
        "--clients",
        str(clients),
        "--items",
        items,
        *options,
    )
    said = command(
        deployment, "fedrecall-server", "operator", "add", deployment.house, "first", "--role", "approve", "--json"
    )
    deployment.token = json.loads(said.stdout)["token"]


def set_up_device(deployment: Deployment, number: int) -> None:
    """One person's device: behaviour, consent, enrolment."""
    home, events = deployment.device(number), deployment.folder / f"events-{number}.csv"
    port = deployment.ports.devices[number]
    write_events(events, number)
    command(deployment, "fedrecall-client", "init", home, "--port", str(port))
    command(deployment, "fedrecall-client", "consent", "set", "--home", home, *CONSENT)
    command(deployment, "fedrecall-client", "import", events, "--home", home)
    invitation, request = deployment.folder / f"invitation-{number}.json", deployment.folder / f"request-{number}.json"
    command(deployment, "fedrecall-server", "enroll", "invite", deployment.house, "--out", invitation)
    command(deployment, "fedrecall-client", "enroll", invitation, "--out", request, "--home", home)
    command(deployment, "fedrecall-server", "enroll", "approve", deployment.house, request)


def status(deployment: Deployment) -> dict[str, Any]:
    """What the server says of itself; {} while it does not answer."""
    said = command(deployment, "fedrecall-server", "status", deployment.house, "--json", check=False)
    return dict(json.loads(said.stdout)) if said.returncode == 0 else {}


def wait_for_round(deployment: Deployment, number: int, patience: float) -> dict[str, Any]:
    """Until the server has finished a round."""

    def reached() -> dict[str, Any]:
        now = status(deployment)
        return now if (now.get("round") or -1) >= number else {}

    return dict(wait_for(f"round {number}", reached, patience, every=1.0))


def ask_device(deployment: Deployment, number: int, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
    """One request to a device's local API, with its token."""
    token = (deployment.device(number) / "api-token").read_text(encoding="ascii").strip()
    port = deployment.ports.devices[number]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - loopback
        return json.load(answer)


def through_proxy(deployment: Deployment, path: str, method: str = "POST") -> int:
    """The HTTP status that the proxy answers a stranger with."""
    trusted = ssl.create_default_context(cafile=str(deployment.house / "tls" / "ca.pem"))
    request = urllib.request.Request(
        f"https://127.0.0.1:{deployment.ports.proxy}{path}",
        data=b"" if method == "POST" else None,
        headers={"Content-Type": "application/protobuf"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=20, context=trusted) as answer:  # noqa: S310 - loopback
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@contextmanager
def deployed(folder: Path, clients: int, rounds: int, sets: Mapping[str, str] | None = None) -> Iterator[Deployment]:
    """A running deployment; everything is stopped at the end, whatever happens."""
    folder.mkdir(parents=True, exist_ok=True)
    proxy, superlink, operator, *devices = free_ports(3 + clients)
    deployment = Deployment(folder.resolve(), Ports(proxy, superlink, operator, tuple(devices)))
    try:
        set_up_server(deployment, clients, rounds, sets or {})
        start_server(deployment)
        start_proxy(deployment)
        for number in range(clients):
            set_up_device(deployment, number)
            start_device(deployment, number)
        yield deployment
    finally:
        for name in sorted(deployment.running, key=lambda name: name in {"server", "proxy"}):
            stop(deployment, name)


def audit(deployment: Deployment, clients: int) -> tuple[int, str]:
    """What ``fedrecall-audit verify`` makes of both sides' ledgers: exit code, and what it said."""
    ledgers, keys = deployment.folder / "device-ledgers", deployment.folder / "keys.toml"
    ledgers.mkdir(exist_ok=True)
    for number in range(clients):
        shutil.copy(deployment.device(number) / "ledger.jsonl", ledgers / f"device-{number}.jsonl")
    command(deployment, "fedrecall-server", "enroll", "keys", deployment.house, "--out", keys)
    run = deployment.house / "runs" / str(status(deployment)["run"])
    given = ["--client-ledgers", ledgers, "--keys", keys, "--no-empirical", "--out", deployment.folder / "audit"]
    done = command(deployment, "fedrecall-audit", "verify", run, *given, check=False)
    return done.returncode, done.stdout + done.stderr


def show(deployment: Deployment, clients: int, rounds: int) -> int:
    """The demonstration: rounds, a recommendation, an event that changes it, the proxy's refusals, the audit."""
    say(f"{clients} devices run; waiting for {rounds} rounds")
    began = time.monotonic()
    now = wait_for_round(deployment, rounds, 120.0 + 60.0 * rounds)
    say(f"round {now['round']} after {time.monotonic() - began:.0f} s. fedrecall-server status:")
    say(told(deployment, "fedrecall-server", "status", deployment.house))
    wait_for("a model on device 0", lambda: ask_device(deployment, 0, "/v1/recommendations?k=5")["model_round"], 60)
    before = titles(deployment)
    say(f"device 0 is offered: {', '.join(before)}")
    bought = ask_device(deployment, 0, "/v1/recommendations?k=5")["offers"][0]
    ask_device(deployment, 0, "/v1/events", {"events": [{"item": bought["id"], "kind": "purchase"}]})
    say(f"after buying {bought['title']}, at once and without the network: {', '.join(titles(deployment))}")
    say("fedrecall-client budget, on device 0:")
    say(told(deployment, "fedrecall-client", "budget", "--home", deployment.device(0)))
    for path in ("/", "/health", "/v1/control/list-runs", "/v1/runtime/acquire-task", "/v1/fleet/pull-messages"):
        say(f"a stranger asks the proxy for {path}: HTTP {through_proxy(deployment, path)}")
    code, said = audit(deployment, clients)
    say(f"fedrecall-audit verify: exit {code}\n{textwrap.indent(said.strip(), '    ')}")
    return code


def told(deployment: Deployment, *words: str | Path) -> str:
    """What a command prints for people, moved in."""
    return textwrap.indent(command(deployment, *words).stdout.rstrip(), "    ")


def titles(deployment: Deployment) -> list[str]:
    """What device 0 is offered."""
    return [offer["title"] for offer in ask_device(deployment, 0, "/v1/recommendations?k=5")["offers"]]


def say(text: str) -> None:
    """A line for whoever waits."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="A whole deployment on one machine's loopback.")
    parser.add_argument("--folder", type=Path, default=Path("runs/deployment"), help="where everything lies; made anew")
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="goes on until Ctrl-C")
    given = parser.parse_args()
    if given.folder.exists() and any(given.folder.iterdir()):
        say(f"{given.folder}: not empty; remove it or choose another --folder")
        return 2
    try:
        with deployed(given.folder, given.clients, given.rounds) as deployment:
            say(f"proxy https://127.0.0.1:{deployment.ports.proxy}, everything in {deployment.folder}")
            code = show(deployment, given.clients, given.rounds)
            if given.keep:
                say("Running. A person's page: fedrecall-client open --home " + str(deployment.device(0)))
                with contextlib.suppress(KeyboardInterrupt):
                    signal.pause()
            return code
    except LoopbackError as error:
        say(f"{error}\nWhat the processes said is in {given.folder / 'logs'}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
