"""What a session costs one client that shares its process with nobody.

Clients of one process share what they all compute alike (parsed rosters, verified signatures); a phone has nobody to
share with. Here the clients watched start every step with empty caches, and only they are timed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Final, ParamSpec, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.secagg import client, keys, messages, server, terms

MODULES: Final = (client, keys, messages, server, terms)
P = ParamSpec("P")
T = TypeVar("T")


class _Watch:
    """Adds up the processor time of the clients watched; a class because all their steps add to it."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self.seconds = dict.fromkeys(numbers, 0.0)

    def __call__(self, number: int, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if number not in self.seconds:
            return step(*args, **kwargs)
        _forget()
        began = time.process_time()
        out = step(*args, **kwargs)
        self.seconds[number] += time.process_time() - began
        return out


def clients_alone(members: int, smallest: int, colluders: int, values: int, watched: int) -> list[float]:
    """Processor seconds of each client watched, over all five steps of one session.

    Args:
        members: on the roster; nobody drops out, which is the most work for a client.
        smallest, colluders: of the plan.
        values: length of a vector.
        watched: how many clients, spread over the roster.
    """
    session, watch = os.urandom(keys.KEY), _Watch(range(0, members, max(1, members // watched)))
    identities = [Ed25519PrivateKey.generate() for _ in range(members)]
    none = messages.NO_REGISTRATION
    joined = [
        watch(n, client.join, session, smallest, colluders, key, os.urandom, none) for n, key in enumerate(identities)
    ]
    adverts = {str(n): advert.pack() for n, (_, advert) in enumerate(joined)}
    assembly = server.assemble(session, smallest, colluders, adverts, None)
    roster = assembly.roster.raw
    dealt = [watch(n, client.deal, joined[n][0], roster, key, os.urandom, None) for n, key in enumerate(identities)]
    collected = server.collect(assembly, {str(n): deals.pack() for n, (_, deals) in enumerate(dealt)})
    boxes = server.boxes_for(assembly, collected)
    survivors = messages.bitmap(range(members), members)
    said = client.transcript(roster, keys.digest(collected.raw), survivors)
    # Of those who are not watched nothing more is needed than their signatures.
    signatures = {str(n): keys.sign(key, "survivors", session, said) for n, key in enumerate(identities)}
    endorsed, vector = server.endorse(assembly, collected, survivors, signatures, {}), np.zeros(values, np.int32)
    for n in watch.seconds:
        masked, _ = watch(n, client.mask, dealt[n][0], collected.raw, boxes[str(n)], vector)
        watch(n, client.attest, masked, identities[n])
        agreed, _ = watch(n, client.agree, masked, survivors, identities[n])
        watch(n, client.reveal, agreed, endorsed)
    return list(watch.seconds.values())


def _forget() -> None:
    """Empty every cache of the protocol."""
    for module in MODULES:
        for function in vars(module).values():
            clear = getattr(function, "cache_clear", None)
            if clear is not None:
                clear()
