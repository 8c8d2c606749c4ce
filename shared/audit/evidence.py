"""What the ledgers of a run say, one typed record a line, each with its line number. Plain data; nothing is judged.

``reading.py`` makes it of files, and ``records.py`` of events; the checks see nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from shared.audit.findings import Finding
from shared.privacy.chain import Receipt
from shared.privacy.plan import Kind, PrivacyPlan, Release

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Charge:
    """An ``intent`` of the server: what was asked, before anything was.

    Attributes:
        line, hash: of the ledger.
        cohort: clients asked.
        rho: zCDP that it costs each of them; None = no privacy.
        noise_source: "clients", "os" or "seeded".
    """

    line: int
    hash: str
    round: int
    attempt: int
    release: Release
    task: str
    cohort: tuple[str, ...]
    rho: float | None
    noise_source: str


@dataclass(frozen=True, slots=True)
class Sum:
    """A ``result`` of the server: what came of a charge.

    Attributes:
        survivors: clients in the sum.
        sum_sigma: deviation of the noise in the sum, grid units.
        digest: SHA-256 of the sum.
        receipts: (receipt, the clients that it is of).
    """

    line: int
    round: int
    attempt: int
    release: Release
    survivors: int
    declined: tuple[str, ...]
    failed: tuple[str, ...]
    sum_sigma: float
    digest: str
    aborted: bool
    why: str
    receipts: tuple[tuple[Receipt, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Head:
    """A signed head; its signature was verified when it was read.

    Attributes:
        tip: hash of the line before.
        signature: hex; "" = not kept.
    """

    line: int
    round: int
    tip: str
    signature: str = ""


@dataclass(frozen=True, slots=True)
class ServerLog:
    """One server's ledger, as far as it could be read.

    Attributes:
        file: its name.
        key: hex; None = not even the first line could be read.
        kind, run, plan: of the first line; plan None = it cannot be read.
        named: the plan as the line has it.
        catalogue, config: digests.
        events: (line, event) of decisions and orders, in order, for the replay; intents too (they tell of retries).
        ends: (line, event) of ``end`` lines.
        lines: how many were read.
        broken: why reading stopped at line ``lines + 1``; None = the whole file was read.
    """

    file: str
    key: str | None
    kind: Kind | None
    run: str
    plan: PrivacyPlan | None
    named: Event
    catalogue: str
    config: str
    charges: tuple[Charge, ...]
    sums: tuple[Sum, ...]
    heads: tuple[Head, ...]
    events: tuple[tuple[int, Event], ...]
    ends: tuple[tuple[int, Event], ...]
    lines: int
    broken: str | None


@dataclass(frozen=True, slots=True)
class Pin:
    """A ``plan`` line of a client: a run that it takes part in."""

    line: int
    run: str
    kind: Kind
    plan: PrivacyPlan | None
    named: Event
    catalogue: str
    server: str


@dataclass(frozen=True, slots=True)
class Payment:
    """An ``intent`` of a client.

    Attributes:
        server: hash of the server's intent that it answers.
        day: ISO date by the client's clock.
        share_sigma: deviation of its own noise, grid units.
    """

    line: int
    client: str
    run: str
    round: int
    attempt: int
    release: Release
    task: str
    server: str
    day: str
    rho: float | None
    share_sigma: float
    noise_source: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """A ``result`` of a client: SHA-256 of the vector, before a mask."""

    line: int
    client: str
    run: str
    round: int
    attempt: int
    release: Release
    digest: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A ``decline`` of a client; ``round`` and the like are None where the message was no task."""

    line: int
    client: str
    clause: str
    run: str | None
    round: int | None
    release: str | None


@dataclass(frozen=True, slots=True)
class ClientLog:
    """One ledger of clients: many in a simulation, one in a deployment; attributes as in :class:`ServerLog`."""

    file: str
    key: str | None
    pins: tuple[Pin, ...]
    payments: tuple[Payment, ...]
    results: tuple[Sealed, ...]
    refusals: tuple[Refusal, ...]
    heads: tuple[Head, ...]
    lines: int
    broken: str | None


@dataclass(frozen=True, slots=True)
class Printed:
    """What the run's ``summary.json`` tells people, if there is one; what an audit compares with the ledgers.

    Attributes:
        file: its name.
        content: the JSON.
    """

    file: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that an audit looks at.

    Attributes:
        server: None = the auditor has a client's ledger only.
        clients: ledgers of clients; empty = none were given.
        keys: name ("server" or a client's name) -> Ed25519 public key, hex, from the auditor's own source; empty = the
            keys are those that the ledgers name.
        printed: claims told to people; None = none found.
        attack: content of ``attack.json``; None = there is none.
        attack_file: its name.
        empirical: False = the auditor left clause 9 out.
        reading: findings made while reading (a file too large, a line that is none).
    """

    server: ServerLog | None
    clients: tuple[ClientLog, ...]
    keys: Mapping[str, str]
    printed: Printed | None
    attack: Mapping[str, Any] | None
    attack_file: str
    empirical: bool
    reading: tuple[Finding, ...]


Standing = Literal["simulation", "deployment", "unknown"]
