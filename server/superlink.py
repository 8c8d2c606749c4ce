"""Flower's side of a server: its processes, its command line and its control client; no other file knows them.

The SuperLink keeps its state in SQLite, takes registered node keys only, and starts no ServerApp itself: superexec
does, which proves to it that it holds the shared secret. Runs are handed in by ``flwr run``, whose answer in JSON is
public; nodes by the control client, because only it tells which key has which id.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from httpx import HTTPError, HTTPStatusError

from server.house import House, ServiceSection
from shared.errors import RunError
from shared.files import write_atomically

HOUSE: Final = "FEDRECALL_SERVER"  # the environment variable that tells the run loop where its house is
CONNECTION: Final = "house"
BIN: Final = Path(sys.executable).parent
ENDED: Final = "finished:"  # how the status of a run that goes on no more begins
_PATIENCE: Final = 60.0  # seconds for one command of Flower's
_KEY_IN_USE: Final = 23  # Flower's codes of errors
_NO_SUCH_NODE: Final = frozenset({24, 28})


def environment(house: House) -> dict[str, str]:
    """For every process of Flower's: nothing is fetched or reported, and ``PATH`` begins with this installation."""
    quiet = {
        "FLWR_HOME": str(house.flwr_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        HOUSE: str(house.folder),
    }
    return {**os.environ, **quiet, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}


def superlink_command(house: House, service: ServiceSection) -> list[str]:
    """How the SuperLink is started."""
    files = {
        "--ssl-certfile": house.certificate,
        "--ssl-keyfile": house.certificate_key,
        "--ssl-ca-certfile": house.ca,
        "--superexec-auth-secret-file": house.superexec_secret,
        "--database": house.database,
    }
    where = ["--host", service.superlink_host, "--port", str(service.superlink_port)]
    switches = ["--isolation", "process", "--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    return [
        str(BIN / "flower-superlink"),
        *where,
        *switches,
        *(str(word) for pair in files.items() for word in pair),
    ]


def superexec_command(house: House, service: ServiceSection) -> list[str]:
    """How superexec is started; a ServerApp that it started ends with it."""
    trust = ["--root-certificates", str(house.ca), "--superexec-auth-secret-file", str(house.superexec_secret)]
    return [str(BIN / "flower-superexec"), "--runtime-api-address", address(service), *trust]


def write_connection(house: House, service: ServiceSection) -> None:
    """Tell ``flwr`` where the SuperLink is.

    Raises:
        OSError: the disk refuses.
    """
    content = (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f"address = {json.dumps(address(service))}\nroot-certificates = {json.dumps(str(house.ca))}\n"
    )
    write_atomically(house.flwr_home / "config.toml", content.encode())


def address(service: ServiceSection) -> str:
    """Where the SuperLink is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(service.superlink_host, service.superlink_host)  # noqa: S104
    return f"[{host}]:{service.superlink_port}" if ":" in host else f"{host}:{service.superlink_port}"


def silence(house: House, service: ServiceSection, patience: float = 5.0) -> str:
    """Why the SuperLink does not say that it is there; "" = it does."""
    try:
        context = ssl.create_default_context(cafile=str(house.ca))
        url = f"https://{address(service)}/health"
        with urllib.request.urlopen(url, timeout=patience, context=context) as reply:
            return "" if reply.status == 200 else f"status {reply.status}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__


def submit(house: House) -> str:
    """Hand the shim in; Flower's id of the run that begins.

    Raises:
        RunError: the SuperLink did not take it.
    """
    return str(_flwr(house, "run", str(house.app))["run-id"])


def unfinished(house: House) -> tuple[str, ...]:
    """Flower's ids of the runs that have not ended.

    Raises:
        RunError: the SuperLink does not say.
    """
    runs = _flwr(house, "ls")["runs"]
    return tuple(str(run["run-id"]) for run in runs if not str(run["status"]).startswith(ENDED))


def stop(house: House, run: str) -> None:
    """End a run of Flower's; one that has ended meanwhile is fine.

    Raises:
        RunError: the SuperLink does not say what runs.
    """
    try:
        _flwr(house, "stop", run)
    except RunError:
        if run in unfinished(house):
            raise


def register(house: House, node_key: str) -> int:
    """Let a node in; Flower's id for it, also when its key was registered before.

    Args:
        house: the server's.
        node_key: EC P-384 public key in OpenSSH form.

    Raises:
        RunError: the SuperLink does not answer, or the key was unregistered once: Flower never takes it again.
    """
    key = load_ssh_public_key(node_key.encode()).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with _control(house) as control, _said():
        try:
            return int(control.RegisterNode(RegisterNodeRequest(public_key=key)).node_id)
        except Exception as error:
            if _code(error) != _KEY_IN_USE:
                raise
        nodes = control.ListNodes(ListNodesRequest()).nodes_info
    found = [int(node.node_id) for node in nodes if node.public_key == key and not node.unregistered_at]
    if not found:
        raise RunError("a node key that was unregistered before is never taken again; the device needs a new one")
    return found[0]


def unregister(house: House, node: int) -> None:
    """Shut a node out for good; one that is out already is fine.

    Raises:
        RunError: the SuperLink does not answer.
    """
    with _control(house) as control, _said():
        try:
            control.UnregisterNode(UnregisterNodeRequest(node_id=node))
        except Exception as error:
            if _code(error) not in _NO_SUCH_NODE:
                raise


def _flwr(house: House, *words: str) -> Mapping[str, Any]:
    """One command of ``flwr`` on this server's SuperLink: its answer in JSON."""
    command = [str(BIN / "flwr"), *words, CONNECTION, "--format", "json"]
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            command, env=environment(house), capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
        said: Mapping[str, Any] = json.loads(done.stdout[max(0, done.stdout.find("{")) :])
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise RunError(f"flwr {words[0]}: no answer ({type(error).__name__})") from error
    if not said.get("success"):
        raise RunError(f"flwr {words[0]}: {str(said.get('error-message', 'no reason given')).strip()[-300:]}")
    return said


@contextmanager
def _control(house: House) -> Iterator[ControlHttpClient]:
    client = ControlHttpClient.from_server_address(
        server_address=address(house.config().service),
        insecure=False,
        root_certificates=house.ca.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _said() -> Iterator[None]:
    """Whatever Flower's client raises, as one sentence."""
    try:
        yield
    except HTTPError as error:
        raise RunError(f"the SuperLink: {type(error).__name__} {str(error)[:200]}") from error


def _code(error: Exception) -> int | None:
    """Flower's code of an error that the SuperLink answered with."""
    if not isinstance(error, HTTPStatusError):
        return None
    known = FlowerError.from_json(error.response.text)
    return None if known is None else int(known.code)
