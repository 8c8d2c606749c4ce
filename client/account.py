"""What a device tells its owner of its ledger and its consent: the records, without a word of how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Released:
    """Something that was paid for; it left unless the device stopped before it could be sent.

    Attributes:
        line: in the ledger.
        day: by this device's clock, UTC.
        release: its kind.
        run, round, attempt: of which task.
        epsilon: what it would cost alone, at consent's delta; None = unbounded. Epsilons do not add up: see the budget.
        noise: where its noise came from.
        sealed: the vector was made; False = the device stopped in between, and the cost stands all the same.
    """

    line: int
    day: str
    release: str
    run: str
    round: int
    attempt: int
    epsilon: float | None
    noise: str
    sealed: bool


@dataclass(frozen=True)
class Declined:
    """A task that this device refused; nothing left.

    Attributes:
        line: in the ledger.
        since: the ledger's last day before it; "" = none. A refusal itself has no date.
        release, run, round: of which task; "", "" and None where the message was no task at all.
        clause: why; the server never hears of it.
    """

    line: int
    since: str
    release: str
    run: str
    round: int | None
    clause: str


@dataclass(frozen=True)
class Left:
    """What left and what was declined, both newest first."""

    released: tuple[Released, ...]
    declined: tuple[Declined, ...]


@dataclass(frozen=True)
class Cap:
    """Spent against one cap of consent.

    Attributes:
        span: "round" (the dearest so far), "period" or "lifetime".
        epsilon: spent, at consent's delta; None = unbounded: something left without privacy.
        cap: most that consent allows; None = there is no consent that can be read.
    """

    span: str
    epsilon: float | None
    cap: float | None


@dataclass(frozen=True)
class RunSpend:
    """What one run of one server cost.

    Attributes:
        run, kind, server: its name, "deployment" or "simulation", its server's key.
        unit, trust, adjacency: what the epsilon is about; see the glossary.
        used: kind of release -> how often it was paid for, and the most that the plan allows.
        epsilon: spent so far, at consent's delta; None = unbounded.
        if_others_collude: the same if everybody else works with the server (trust distributed), else None.
        smallest_cohort, colluders: fewest clients in a sum, and how many of them may work with the server.
    """

    run: str
    kind: str
    server: str
    unit: str
    trust: str
    adjacency: str
    used: Mapping[str, tuple[int, int]]
    epsilon: float | None
    if_others_collude: float | None
    smallest_cohort: int
    colluders: int


@dataclass(frozen=True)
class Budget:
    """The privacy budget of this device.

    Attributes:
        taking_part: whether consent lets anything leave at all.
        why_not: why there is no consent that counts; "" = there is one.
        caps: the three caps, in order of length.
        period_days: length of the period, today included.
        delta, accountant: of every epsilon here.
        runs: what each run cost, oldest first.
        covers: what the epsilons promise, and what they do not, in words.
    """

    taking_part: bool
    why_not: str
    caps: tuple[Cap, ...]
    period_days: int
    delta: float
    accountant: str
    runs: tuple[RunSpend, ...]
    covers: tuple[str, ...]
