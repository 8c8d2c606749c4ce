"""Seeds, for simulations only: every draw has a name, so that an interrupted run repeats it, whatever the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import date
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.folder import system_day, system_randomness
from client.host import Randomness
from shared.privacy.noise import NoiseSource, os_noise
from shared.secagg.shamir import Entropy

Seed = int | None


def entropy(seed: int, *names: object) -> list[int]:
    """Eight 32-bit words that a name stands for under a seed."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return [int(word) for word in np.frombuffer(digest, np.uint32)]


def generator(seed: Seed, *names: object) -> np.random.Generator:
    """A generator for one purpose; from the operating system without a seed."""
    return np.random.default_rng(None if seed is None else entropy(seed, *names))


def key(seed: int, *names: object) -> int:
    """The 64-bit word that a name stands for under a seed: enough where one generator a name would be dear."""
    return int.from_bytes(hashlib.sha256(repr((seed, "key of", *names)).encode()).digest()[:8], "little")


def noise(seed: Seed, *names: object) -> NoiseSource:
    """A noise source for one release; ledgers call it "seeded", and no audit passes it as a deployment."""
    if seed is None:
        return os_noise()
    # Begun when it is asked for: under central trust a client is not.
    stream = cache(lambda: np.random.SFC64(entropy(seed, "noise", *names)))
    return NoiseSource("seeded", lambda count: stream().random_raw(count))


def client_randomness(seed: Seed) -> Randomness:
    """The clients' chance."""
    if seed is None:
        return system_randomness()
    return Randomness(
        noise=lambda client, round_, release: noise(seed, client, round_, release),
        key=lambda user, round_: key(seed, "user", user, round_),
        rng=lambda user, round_: generator(seed, "user", user, round_),
        entropy=lambda client, session, step: _bytes(np.random.SFC64(entropy(seed, "session", client, session, step))),
    )


def _bytes(stream: np.random.SFC64) -> Entropy:
    return lambda count: np.asarray(stream.random_raw((count + 7) // 8), "<u8").tobytes()[:count]


def identities(seed: Seed) -> Callable[[str], Ed25519PrivateKey]:
    """The clients' registered keys, made when asked for; in one process, so nothing is kept of them on disk."""
    return cache(lambda client: signing_key(seed, f"client {client}") or Ed25519PrivateKey.generate())


def clock(seed: Seed) -> Callable[[], date]:
    """The clients' calendar; under a seed it stands still, so that a run repeats itself on any day."""
    return system_day if seed is None else lambda: date(1970, 1, 1)


def signing_key(seed: Seed, role: str) -> Ed25519PrivateKey | None:
    """A repeatable ledger key, or None to draw one."""
    if seed is None:
        return None
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(repr((seed, "key", role)).encode()).digest())
