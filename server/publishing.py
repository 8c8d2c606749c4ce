"""Giving out: every enrolled device gets the current issue, whenever it is there, in as few bytes as it can.

An issue is catalogue, model, policy, what is trending and what cannot be had. It goes to devices as publications, which
carry a number that rises with every sending, so that a lost answer does no harm: the next sending has a higher number.
What a device has is known from its answers alone. One that declines, because it lost its folder or the disk was full,
is taken for one that has nothing: next time it gets the whole catalogue, and it is asked less and less often.

::

    published/issue.safetensors    the model that is given out
    published/devices.json         the last number, and what each client has
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message
from flwr.serverapp import Grid
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from server.children import Backoff
from server.enrolling import Enrolled
from server.house import House
from server.logs import event
from server.stock import Stock, change_for, served
from shared.encoder.spec import EncoderSpec
from shared.errors import FedrecallError, RunError
from shared.files import write_atomically
from shared.policy.recall_policy import policy_from_dict, policy_to_dict
from shared.publication import ROUTE, Publication, PublishedModel, is_received, publication_record
from shared.recall.item_rules import rules_from_dict, rules_to_dict

TTL: Final = 120.0  # seconds that a publication waits for its device; then it is sent again
KEPT: Final = 3  # catalogues that a device keeps beside the model's
_NOWHERE: Final = "0" * 64  # stands for the tip of a ledger before there is one


@dataclass(frozen=True)
class Given:
    """A model that is given out, and where it comes from.

    Attributes:
        run, round: of its training.
        trending: raw ids, hottest first.
        model: as devices serve with it.
    """

    run: str
    round: int
    trending: tuple[str, ...]
    model: PublishedModel


@dataclass(frozen=True)
class Issue:
    """What every device is to have; the attributes are those of a publication."""

    run: str
    round: int
    catalogue: str
    unavailable: tuple[str, ...]
    trending: tuple[str, ...]
    model: PublishedModel | None

    @property
    def name(self) -> str:
        """Of its content: a hash of all that decides it; a run's round decides the parameters."""
        model = self.model
        said = [self.run, self.round, self.catalogue, self.unavailable, self.trending]
        said += [] if model is None else [model.trained, policy_to_dict(model.policy), rules_to_dict(model.rules)]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Has:
    """What a device has, by its own answers.

    Attributes:
        issue: name of the last issue that it took whole; "" = none.
        catalogue: version of the catalogue that it serves; "" = none.
        kept: versions that it still has, newest last.
    """

    issue: str = ""
    catalogue: str = ""
    kept: tuple[str, ...] = ()


def issue_of(stock: Stock, given: Given | None, running: str) -> Issue:
    """What is to be given out.

    Args:
        stock: the operator's catalogue.
        given: the model; None before there is one.
        running: catalogue of the run that goes on, which devices need to answer its tasks; "" = none goes on.

    Raises:
        DataError: the stock does not know a version.
    """
    model = None if given is None else given.model
    trained = "" if model is None else model.trained
    catalogue = served(stock, trained)
    if running and running != trained:
        # Vectors of two bases never meet: an older model whose basis is another cannot be served with this catalogue.
        model = model if served(stock, running) == catalogue else None
        catalogue = running
    run, round_, trending = ("", 0, ()) if given is None else (given.run, given.round, given.trending)
    return Issue(run, round_, catalogue, stock.unavailable, trending, model)


@dataclass
class Publisher:
    """Gives out. Not frozen: it counts, and waits for answers.

    Attributes:
        house: the server's.
        grid: Flower's.
        signer: the server's ledger key.
        tip: of the ledger of the run that goes on; gives 64 hex digits.
        clock: seconds that never go back.
        now: seconds since 1970.
    """

    house: House
    grid: Grid
    signer: Ed25519PrivateKey
    tip: Callable[[], str] = lambda: _NOWHERE
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    number: int = 0
    devices: dict[str, Has] = field(default_factory=dict)
    waiting: dict[str, tuple[str, Has]] = field(default_factory=dict)  # message -> client, what it has if it takes it
    refused: dict[str, tuple[float, Backoff]] = field(default_factory=dict)  # client -> when to try again

    def __post_init__(self) -> None:
        """Learn what was given out before.

        Raises:
            RunError: the file is damaged.
        """
        path = self.house.published / "devices.json"
        if not path.exists():
            return
        try:
            said = json.loads(path.read_bytes())
            self.number = int(said["number"])
            known = said["devices"].items()
            self.devices = {name: Has(has["issue"], has["catalogue"], tuple(has["kept"])) for name, has in known}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(f"{path}: not what this server wrote; delete it, and devices get all anew") from error

    def give(self, issue: Issue, clients: Iterable[Enrolled], online: frozenset[int]) -> int:
        """Take the answers that came; send what is missing to whom is there and is not asked already.

        Returns:
            How many of the clients do not have the issue yet.

        Raises:
            FedrecallError: the stock is damaged.
        """
        self._collect()
        behind = [client for client in clients if self._has(client).issue != issue.name]
        asked = {client for client, _ in self.waiting.values()}
        due = [client for client in behind if client.node in online and client.name not in asked and self._may(client)]
        if due:
            # By the clock where that is ahead: a server that was put back from a backup is behind its devices' numbers.
            self.number = max(self.number + 1, int(self.now()))
            self._write()  # before it is used: a number never comes twice
            self._send(issue, due)
        return len(behind)

    def _send(self, issue: Issue, clients: list[Enrolled]) -> None:
        change = cache(lambda base, version: change_for(self.house, base, version))
        messages, after = [], []
        for client in clients:
            publication, then = self._next(issue, client, change)
            record = publication_record(publication, self.signer, self.tip())
            node = cast("int", client.node)
            messages.append(Message(record, dst_node_id=node, message_type=ROUTE, group_id="publication", ttl=TTL))
            after.append((client.name, then))
        sent = list(self.grid.push_messages(messages))
        self.waiting |= {number: then for number, then in zip(sent, after, strict=False) if number}
        event("published", number=self.number, run=issue.run, round=issue.round, to=len(sent))

    def _next(
        self, issue: Issue, client: Enrolled, change: Callable[[str, str], tuple[str, bytes]]
    ) -> tuple[Publication, Has]:
        """The next publication for a device, and what it has once it took it."""
        has, model = self._has(client), issue.model
        if model is not None and model.trained not in {*has.kept, issue.catalogue}:
            # It takes a model only beside the catalogue that it was trained with: that one comes first, whole.
            step = replace(issue, catalogue=model.trained, model=None)
            base, content = change("", model.trained)
        else:
            step = issue
            base, content = change(has.catalogue, issue.catalogue)
        publication = Publication(
            number=self.number,
            run=step.run,
            round=step.round,
            base=base,
            catalogue=step.catalogue,
            change=content,
            unavailable=step.unavailable,
            trending=step.trending,
            registration=bytes.fromhex(client.registration),
            model=step.model,
        )
        kept = (*(one for one in has.kept if one != step.catalogue), step.catalogue)[-KEPT:]
        return publication, Has(step.name if step is issue else "", step.catalogue, kept)

    def _collect(self) -> None:
        if not self.waiting:
            return
        taken = False
        for reply in self.grid.pull_messages(list(self.waiting)):
            client, then = self.waiting.pop(reply.metadata.reply_to_message_id, ("", Has()))
            if not client:
                continue
            if not reply.has_error() and is_received(reply.content):
                self.devices[client] = then
                self.refused.pop(client, None)
                taken = True
                continue
            wait = self.refused.get(client, (0.0, Backoff()))[1]
            self.refused[client] = (self.clock() + wait.failed(), wait)
            if not reply.has_error():  # an error says that it is gone, or was too late; it has what it had
                self.devices.pop(client, None)
        if taken:
            self._write()

    def _has(self, client: Enrolled) -> Has:
        return self.devices.get(client.name, Has())

    def _may(self, client: Enrolled) -> bool:
        return self.clock() >= self.refused.get(client.name, (0.0, None))[0]

    def _write(self) -> None:
        said = {"number": self.number, "devices": {name: asdict(has) for name, has in sorted(self.devices.items())}}
        write_atomically(self.house.published / "devices.json", json.dumps(said, indent=1).encode())


def write_given(house: House, given: Given) -> None:
    """Keep the model that is given out.

    Raises:
        OSError: the disk refuses.
    """
    model = given.model
    said = {
        "run": given.run,
        "round": given.round,
        "trending": list(given.trending),
        "spec": asdict(model.spec),
        "trained": model.trained,
        "policy": policy_to_dict(model.policy),
        "rules": rules_to_dict(model.rules),
    }
    arrays = {"parameters": model.parameters, "prior": model.prior}
    content = save(arrays, metadata={"issue": json.dumps(said, sort_keys=True)})
    write_atomically(house.published / "issue.safetensors", content)


def read_given(house: House) -> Given | None:
    """Inverse of :func:`write_given`; None before there is one.

    Raises:
        RunError: the file is damaged.
    """
    path = house.published / "issue.safetensors"
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            said: Mapping[str, Any] = json.loads(file.metadata()["issue"])
            parameters, prior = file.get_tensor("parameters"), file.get_tensor("prior")
        model = PublishedModel(
            spec=EncoderSpec(**said["spec"]),
            parameters=parameters,
            prior=prior,
            trained=said["trained"],
            policy=policy_from_dict(said["policy"]),
            rules=rules_from_dict(said["rules"]),
        )
        return Given(said["run"], said["round"], tuple(said["trending"]), model)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, FedrecallError) as error:
        raise RunError(f"{path}: no readable model ({error}); delete it, and the next round gives one out") from error
