"""A real SuperLink on loopback, over TLS, with this process as its ServerApp. Used through ``conftest.superlink``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from flwr.app import Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.server.superlink.linkstate.linkstate_factory import LinkStateFactory
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.config_loader import get_federation_manager
from flwr.superlink.grid.http_grid import HttpGrid

from server.flower_grid import FlowerGrid


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def certificates(folder: Path) -> tuple[str, Path, Path]:
    """An authority (PEM), and a certificate and a key for 127.0.0.1 that it signed."""
    now, name = datetime.now(UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def begun(subject, public):
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(name).public_key(public)
        made = made.serial_number(x509.random_serial_number())
        return made.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))

    ca = begun(name, ca_key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ca = ca.sign(ca_key, hashes.SHA256())
    server = begun(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]), key.public_key())
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
    server = server.add_extension(names, critical=False).sign(ca_key, hashes.SHA256())
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "server.pem", folder / "server-key.pem"
    paths[0].write_bytes(server.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    return ca.public_bytes(Encoding.PEM).decode(), *paths


@dataclass
class SuperLink:
    """One SuperLink and its database."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen | None = None
    _grid: HttpGrid | None = None

    def __post_init__(self):
        self.ca, self.certificate, self.key = certificates(self.folder / "tls")
        self.address = f"127.0.0.1:{self.port}"
        self.database = str(self.folder / "state.db")
        objects = ObjectStoreFactory(self.database)
        self.state = LinkStateFactory(self.database, get_federation_manager(), objects).state()

    def start(self) -> SuperLink:
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        quiet |= {"FLWR_HOME": str(self.folder / "home"), "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1"}
        command = [str(Path(sys.executable).with_name("flower-superlink")), "--database", self.database]
        command += ["--isolation", "process", "--enable-supernode-auth", "--port", str(self.port)]
        command += ["--ssl-certfile", str(self.certificate), "--ssl-keyfile", str(self.key)]
        command += ["--ssl-ca-certfile", str(self.folder / "tls" / "ca.pem")]
        log = (self.folder / "superlink.log").open("ab")
        self.process = subprocess.Popen(command, env=os.environ | quiet, cwd=self.folder, stdout=log, stderr=log)
        log.close()
        self.wait()
        return self

    def wait(self):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError((self.folder / "superlink.log").read_text()[-2000:])

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self):
        if self._grid is not None:
            self._grid.close()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def register(self, key: ec.EllipticCurvePrivateKey) -> int:
        return self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key_to_bytes(key.public_key()), 0)

    def unregister(self, node: int) -> None:
        self.state.delete_node(NOOP_FLWR_AID, node)

    @property
    def grid(self) -> HttpGrid:
        """This process as the ServerApp of a run; begun at the first use."""
        if self._grid is None:
            self.state.create_run(
                fab_id="fedrecall/test",
                fab_version="1",
                fab_hash="0" * 64,
                override_config={},
                federation_id=NOOP_FEDERATION_ID,
                federation_config=None,
                flwr_aid=NOOP_FLWR_AID,
                primary_task_type=TaskType.SERVER_APP,
            )
            ca = self.ca.encode()
            client = RuntimeHttpClient.from_server_address(
                self.address, insecure=False, root_certificates=ca, interceptors=[]
            )
            task = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
            client.close()
            number, run = task.task.task_id, task.task.run_id
            assert self.state.activate_task(number)
            self._grid = HttpGrid(self.address, insecure=False, root_certificates=ca, token=task.token)
            self._grid.set_run(self.state.get_run_info(run_ids=[run])[0])
            TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = number, run, 1
        self.state.acknowledge_task_heartbeat(TaskIdentity.task_id)
        return self._grid

    def wait_for(self, node: int, seconds: float = 40.0) -> None:
        """Until the node is present: a message to one that is not is answered with an error at once."""
        end = time.monotonic() + seconds
        while node not in self.grid.get_node_ids():
            assert time.monotonic() < end
            time.sleep(0.1)

    def ask(self, node: int, record: RecordDict, kind: str = "query.publication", ttl: float = 60.0) -> str:
        [number] = self.grid.push_messages([Message(record, dst_node_id=node, message_type=kind, ttl=ttl)])
        assert number is not None
        return number

    def answer(self, number: str, seconds: float = 20.0):
        """The reply to one message; None = none came."""
        end, grid = time.monotonic() + seconds, FlowerGrid(self.grid)  # as a deployed server reads answers
        while time.monotonic() < end:
            for message in grid.pull_messages([number]):
                return message
        return None
