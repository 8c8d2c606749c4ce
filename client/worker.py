"""The child that looks into messages: trains, seals, answers. What goes wrong in it, the agent outlives.

The agent speaks to it over its standard input and output, in frames of eight bytes of length and as many bytes. The
first frame is the vault's key: never an argument, never in the environment, never on disk. Then, for each message, a
frame of JSON (the root's id, the ids, the metadata's length) and one frame for the metadata and each object; the answer
is two frames: JSON facts for the agent, and the record. An agent that is gone is a closed input: the worker stops at
once, wherever it is, for it may be killed anywhere (``client/release.py``).

Kept from one message to the next while nothing changed that it depends on: the open ledger, the history, the
catalogue. Seats lie on disk, as with Flower's own SuperNodes, and are taken out for good before a step is answered.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import struct
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from flwr.app import RecordDict

from client import host as hosts
from client.enrolling import own_name, read_server
from client.fleet_link import Incoming, content_of
from client.folder import REGISTRATION, keep_seat, open_device_host, take_seat
from client.home import Home
from client.own_log import log
from client.published import catalogue_path, current, present, take
from client.vault import Vault, open_vault
from shared.catalogue import load_catalogue
from shared.errors import DataError, FedrecallError
from shared.protocol import declined_record
from shared.publication import is_publication, received_record
from shared.wire import pack

LENGTH: Final = struct.Struct(">Q")
LARGEST_FRAME: Final = 1 << 30  # bytes; between two of our own processes
Facts = dict[str, Any]


@dataclass
class Open:
    """What a worker keeps open. Not frozen: it is opened anew when something changed.

    Attributes:
        home: the device.
        vault: its behaviour.
        host: None before the first task.
        stamp: what the host was opened with.
    """

    home: Home
    vault: Vault
    host: hosts.Host | None = None
    stamp: tuple[object, ...] = ()


def answer(kept: Open, incoming: Incoming) -> tuple[RecordDict, Facts]:
    """The answer to one message, and what the agent is to know. Never raises what the server could hear of."""
    try:
        record = content_of(incoming)
        if is_publication(record):
            return _publication(kept, record)
        return _task(kept, record), {}
    except Exception as error:  # noqa: BLE001 - the net: the server hears one word, the person reads why
        log(kept.home, "declined", kind=incoming.kind, why=f"{type(error).__name__}: {error}")
        return declined_record(), {}


def _publication(kept: Open, record: RecordDict) -> tuple[RecordDict, Facts]:
    issue = take(kept.home, record, read_server(kept.home).server)
    log(kept.home, "publication taken", number=issue.number, round=issue.round, catalogue=issue.catalogue[:12])
    return received_record(), {"published": issue.number}


def _task(kept: Open, record: RecordDict) -> RecordDict:
    host = _host(kept, record)
    name = next(iter(host.stores))
    host.seats.clear()
    seat = take_seat(kept.home.folder)
    if seat is not None:
        host.seats[name] = seat
    try:
        answered = hosts.answer(host, name, record)
        if name in host.seats:
            keep_seat(kept.home.folder, host.seats[name])
    except BaseException:
        _forget_host(kept)
        raise
    if host.ledger.handle.closed:
        _forget_host(kept)  # the disk refused; opening it again cuts off what is torn
    return answered


def _host(kept: Open, record: RecordDict) -> hosts.Host:
    """The host for a message: the one that is open, unless the person, the catalogue or the events changed.

    Raises:
        DataError: there is no catalogue yet.
        LedgerError: the ledger is broken, or in use.
    """
    version = _catalogue_for(kept, record)
    home = kept.home
    stamp = (version, kept.vault.changed(), _content(home.consent), _content(home.folder / REGISTRATION))
    if kept.host is None or stamp != kept.stamp:
        catalogue = kept.host.catalogue if kept.host is not None and kept.stamp[0] == version else None
        _forget_host(kept)
        catalogue = catalogue or load_catalogue(catalogue_path(home, version))
        kept.host = open_device_host(home, kept.vault, catalogue, own_name(home))
        kept.stamp = stamp
    return kept.host


def _catalogue_for(kept: Open, record: RecordDict) -> str:
    """The catalogue that a message names, if it is here; a step names none, and goes on with the one that is open."""
    named = None
    for part in ("task", "invitation"):
        if part in record.config_records:
            try:
                named = json.loads(str(record.config_records[part]["json"]))["header"]["catalogue"]
            except (ValueError, LookupError, TypeError, RecursionError):
                named = None  # the gate says what is wrong with it
    here = present(kept.home)
    if isinstance(named, str) and named in here:
        return named
    if kept.host is not None:
        return str(kept.stamp[0])
    if not here:
        raise DataError("no catalogue is here yet: a publication brings the first")
    issue = current(kept.home)
    return issue.catalogue if issue is not None and issue.catalogue in here else min(here)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _forget_host(kept: Open) -> None:
    if kept.host is not None:
        kept.host.close()
    kept.host, kept.stamp = None, ()


def send_frame(to: BinaryIO, content: bytes) -> None:
    """One frame."""
    to.write(LENGTH.pack(len(content)))
    to.write(content)


def read_frame(source: BinaryIO) -> bytes | None:
    """One frame; None = the other side is gone."""
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    [length] = LENGTH.unpack(head)
    if length > LARGEST_FRAME:
        return None
    content = source.read(length)
    return content if len(content) == length else None


def send_message(to: BinaryIO, incoming: Incoming) -> None:
    """A message, from the agent to the worker."""
    send_frame(to, json.dumps({"root": incoming.root, "ids": list(incoming.objects)}).encode())
    for content in (incoming.raw, *incoming.objects.values()):
        send_frame(to, content)
    to.flush()


def read_message(source: BinaryIO) -> Incoming | None:
    """What :func:`send_message` sent; None = the agent is gone."""
    head = read_frame(source)
    if head is None:
        return None
    said = json.loads(head)
    frames = [read_frame(source) for _ in range(len(said["ids"]) + 1)]
    whole = [frame for frame in frames if frame is not None]
    if len(whole) < len(frames):
        return None
    return Incoming(whole[0], said["root"], dict(zip(said["ids"], whole[1:], strict=True)))


def serve(home: Home, source: BinaryIO, to: BinaryIO) -> None:
    """Answer until the agent is gone."""
    key = read_frame(source)
    if key is None:
        return
    waiting: queue.SimpleQueue[Incoming | None] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(source, waiting, busy), daemon=True).start()
    with open_vault(home.vault, key) as vault:
        kept = Open(home, vault)
        while (incoming := waiting.get()) is not None:
            record, facts = answer(kept, incoming)
            busy.clear()
            send_frame(to, json.dumps(facts).encode())
            send_frame(to, pack(record))
            to.flush()
        _forget_host(kept)


def _listen(source: BinaryIO, waiting: queue.SimpleQueue[Incoming | None], busy: threading.Event) -> None:
    """Read ahead, so that the end of the agent is noticed in the middle of a training."""
    while True:
        incoming = read_message(source)
        if incoming is None and busy.is_set():
            os._exit(1)  # nobody waits for the answer; what was paid stands in the ledger
        if incoming is not None:
            busy.set()
        waiting.put(incoming)
        if incoming is None:
            return


def peak_memory() -> float:
    """Largest resident memory of this process so far, MB of 2^20 bytes."""
    with suppress(OSError):  # Linux: ru_maxrss begins at what the agent had when it started this process
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """``python -m client.worker HOME``: one device's worker, started by its agent."""
    home = Home(Path(sys.argv[1]))
    with suppress(OSError):  # Linux: where memory runs out over a message, this process goes, and not the agent
        Path("/proc/self/oom_score_adj").write_text("800", encoding="ascii")
    source, to = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no frame
    try:
        serve(home, source, to)
    except (FedrecallError, OSError) as error:
        log(home, "worker failed", why=f"{type(error).__name__}: {error}")
        os._exit(1)  # a thread may be reading the input, which Python's own way out would trip over
    log(home, "worker ended", peak_mb=round(peak_memory(), 1))


if __name__ == "__main__":
    main()
