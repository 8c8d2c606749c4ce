"""One session of secure aggregation in memory, with clients that vanish on command: for benchmarks and tests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from shared.secagg import client, server
from shared.secagg.keys import KEY
from shared.secagg.messages import NO_REGISTRATION
from shared.secagg.shamir import Entropy

PHASES = ("join", "deal", "upload", "agree", "reveal")


@dataclass(frozen=True)
class SecureSum:
    """What came out, and what it cost.

    Attributes:
        total: (length,) int64.
        survivors: clients in it.
        seconds_client, seconds_server: processor time of all clients together, and of the server.
        bytes_up, bytes_down: payload from and to all clients.
    """

    total: NDArray[np.int64]
    survivors: tuple[str, ...]
    seconds_client: float
    seconds_server: float
    bytes_up: int
    bytes_down: int


class _Meter:
    """Adds up time and bytes; a class because both sides share it while they take turns."""

    def __init__(self) -> None:
        self.seconds = {"client": 0.0, "server": 0.0}
        self.up = self.down = 0

    @contextmanager
    def on(self, side: str) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self.seconds[side] += time.process_time() - began


def secure_sum(
    vectors: Mapping[str, NDArray[np.integer]],
    smallest: int,
    colluders: int,
    entropy: Entropy = os.urandom,
    drop: Mapping[str, Collection[str]] | None = None,
) -> SecureSum:
    """Sum vectors that nobody sees.

    Args:
        vectors: client -> (length,) integers, all of one length.
        smallest, colluders: of the plan.
        entropy: of all clients.
        drop: phase -> clients that vanish before they answer it, and stay away.

    Raises:
        ProtocolError: too few clients stayed.
    """
    gone: set[str] = set()
    phases = iter(PHASES)

    def present(names: Collection[str]) -> list[str]:
        gone.update((drop or {}).get(next(phases), ()))
        return [name for name in names if name not in gone]

    meter = _Meter()
    identities = {name: Ed25519PrivateKey.from_private_bytes(entropy(KEY)) for name in vectors}
    members, assembly, dealt = _deal(smallest, colluders, identities, entropy, present, meter)
    with meter.on("server"):
        boxes = server.boxes_for(assembly, dealt)
    total = np.zeros(len(next(iter(vectors.values()))), np.uint32)
    attestations, signatures, reveals = (dict[str, bytes]() for _ in range(3))
    for name in present(list(boxes)):
        with meter.on("client"):
            members[name], words = client.mask(members[name], dealt.raw, boxes[name], vectors[name])
            attestations[name] = client.attest(members[name], identities[name])
        with meter.on("server"):
            server.admit(assembly, dealt, name, attestations[name])
            total += words
        meter.up += words.nbytes + len(attestations[name])
    meter.down += sum(map(len, boxes.values())) + len(boxes) * len(dealt.raw)
    with meter.on("server"):
        survivors = server.survivors_of(assembly, attestations)
    with meter.on("client"):
        for name in present(list(attestations)):
            members[name], signatures[name] = client.agree(members[name], survivors, identities[name])
            meter.up += len(signatures[name])
    meter.down += len(attestations) * len(survivors)
    with meter.on("server"):
        endorsed = server.endorse(assembly, dealt, survivors, signatures, attestations)
    with meter.on("client"):
        for name in present(list(signatures)):
            reveals[name] = client.reveal(members[name], endorsed).pack()
            meter.up += len(reveals[name])
    meter.down += len(signatures) * len(endorsed)
    with meter.on("server"):
        result = server.unmask(assembly, dealt, survivors, total, reveals)
    spent = meter.seconds["client"], meter.seconds["server"]
    return SecureSum(result, tuple(attestations), *spent, meter.up, meter.down)


def _deal(
    smallest: int,
    colluders: int,
    identities: Mapping[str, Ed25519PrivateKey],
    entropy: Entropy,
    present: Callable[[Collection[str]], list[str]],
    meter: _Meter,
) -> tuple[dict[str, client.Member], server.Assembly, server.Dealt]:
    """The first two steps: keys, and shares of the secrets; the same for whatever vector."""
    session, members = entropy(KEY), dict[str, client.Member]()
    adverts, deals = dict[str, bytes](), dict[str, bytes]()
    with meter.on("client"):
        for name in present(list(identities)):
            keys = identities[name], entropy, NO_REGISTRATION
            members[name], advert = client.join(session, smallest, colluders, *keys)
            adverts[name] = advert.pack()
            meter.up += len(adverts[name])
    with meter.on("server"):
        assembly = server.assemble(session, smallest, colluders, adverts, None)
    with meter.on("client"):
        for name in present(assembly.names):
            members[name], dealt_by = client.deal(members[name], assembly.roster.raw, identities[name], entropy, None)
            deals[name] = dealt_by.pack()
            meter.up += len(deals[name])
    meter.down += len(assembly.names) * len(assembly.roster.raw)
    with meter.on("server"):
        return members, assembly, server.collect(assembly, deals)
