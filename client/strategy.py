"""How a batch of users is trained: which way, and how many users at a time; from public sizes alone.

A pure function of the encoder, the terms of training and the number of local steps: how a user's contribution is
rounded must depend neither on who else is in the batch nor on how busy the machine is. The model counts what a way
does in three currencies (Williams, Waterman and Patterson, CACM 2009, "Roofline", with the calls as a third):

    seconds a user = (calls * CALL + shared / BANDWIDTH) / users at a time  +  writes * CALL / users written at a time
                     + operations / RATE  +  bytes / BANDWIDTH

and bandwidth falls once a chunk's arrays are too large to stay in a cache and to be kept by the allocator.
``simulations/benchmarks/ways.py`` holds it against measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from shared.encoder.spec import EncoderSpec
from shared.protocol import TrainingTerms

Name = Literal["samples", "rows", "copies"]
CHUNKS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
WRITTEN: Final = 2**22  # bytes of contributions written at a time: what clips them finds them in a cache

# Of one thread of a server processor of 2024, to one significant digit. What matters is how they relate.
CALL: Final = 8e-6  # seconds for one operation of torch with what Python and autograd do around it
RATE: Final = 2e10  # multiply-adds of small float32 matrices a second, two operations each
NEAR: Final = 1.6e10  # bytes a second between a core and its caches
FAR: Final = 5e9  # and where every chunk begins on fresh pages
KEPT: Final = 2**25  # bytes of an array from which that is so: glibc keeps no larger one (mallopt(3), M_MMAP_THRESHOLD)


@dataclass(frozen=True)
class Way:
    """One way to train.

    Attributes:
        name: "samples": Opacus' per-sample gradients of what each place reads (linear: of the layer's weights).
            "rows", linear alone: Opacus' rule without the hooks around it. "copies", two towers alone: each user's own
            copy of the projection.
        chunk: users at a time; 1 is a loop over users. Contributions are much larger than what they are made of, so
            they are written :func:`written` at a time (but for Opacus' hooks around the linear layer, which leave all).
    """

    name: Name
    chunk: int


@dataclass(frozen=True)
class Cost:
    """What a way does.

    Attributes:
        calls: for a chunk, whatever its size.
        writes: calls for those whose contributions are written at a time.
        shared: bytes read for a chunk, whatever its size.
        operations: multiply-adds for a user.
        bytes: written or read for a user, beyond the fastest cache.
        block: bytes that a user takes in the largest array of its chunk.
    """

    calls: float
    writes: float
    shared: float
    operations: float
    bytes: float
    block: float


def ways(spec: EncoderSpec) -> tuple[Way, ...]:
    """All that there are for an encoder."""
    names: tuple[Name, ...] = ("rows", "samples") if spec.kind == "linear" else ("samples", "copies")
    return tuple(Way(name, chunk) for name in names for chunk in CHUNKS)


@lru_cache(maxsize=64)  # a round asks again for every task
def chosen(spec: EncoderSpec, training: TrainingTerms, steps: int) -> Way:
    """The smallest chunk that costs hardly more than the cheapest: a client of one user pays for a whole one.

    No chunk's array takes more than ``KEPT`` bytes, but for that of one user.
    """
    costs = {
        way: seconds(way, spec, training, steps)
        for way in ways(spec)
        if way.chunk == 1 or _fits(way, spec, training, steps)
    }
    good = [way for way, cost in costs.items() if cost <= 1.1 * min(costs.values())]
    return min(good, key=lambda way: (way.chunk, costs[way]))


def seconds(way: Way, spec: EncoderSpec, training: TrainingTerms, steps: int) -> float:
    """What a user costs, in seconds of one thread; less what all ways share (histories, draws, clipping)."""
    cost = cost_of(way.name, spec, training, steps)
    bandwidth = NEAR if _fits(way, spec, training, steps) else FAR
    of_chunk = cost.calls * CALL + cost.shared / bandwidth
    of_write = cost.writes * CALL / min(way.chunk, written(spec))
    return of_chunk / way.chunk + of_write + cost.operations / RATE + cost.bytes / bandwidth


def written(spec: EncoderSpec) -> int:
    """Users whose contributions are written at a time."""
    return max(chunk for chunk in CHUNKS if chunk == 1 or chunk * 4 * spec.trained <= WRITTEN)


def _fits(way: Way, spec: EncoderSpec, training: TrainingTerms, steps: int) -> bool:
    return way.chunk * cost_of(way.name, spec, training, steps).block <= KEPT


def cost_of(name: Name, spec: EncoderSpec, training: TrainingTerms, steps: int) -> Cost:
    """See :class:`Cost`. The numbers of calls are counted from profiles, the rest from the formulas.

    Args:
        name: of a way.
        spec, training: public.
        steps: local steps.
    """
    row = 4.0 * spec.trained
    if spec.kind == "linear":  # any number of steps is one
        if name == "rows":
            return Cost(8.0, 4.0, row, 2.0 * spec.trained, row, 4.0 * spec.buckets)
        return Cost(20.0, 0.0, row, 2.0 * spec.trained, 3 * row, row)  # the product, zeros to add it to, the sum
    places, width, rank = training.context + training.targets + training.negatives, spec.text_width, spec.rank
    texts, projection = steps * places * width, width * rank
    passed = row + 8.0 * texts
    # A recurrent unit reads a place after the other.
    reading = 30.0 * training.context * steps if spec.kind == "gru" else 0.0
    if name == "samples":
        # Texts against those of all visits before, and what came of each, against all texts at the end.
        near = places * width * places * steps * (steps - 1) / 2
        return Cost(50.0 + 90.0 * steps + reading, 12.0, 0.0, 2.0 * (near + texts * rank), passed, 4.0 * texts)
    # Forward and backward through the own copy; the copy, its gradient, and both once more to take the step.
    return Cost(
        calls=40.0 + 50.0 * steps + reading,
        writes=12.0,
        shared=0.0,
        operations=4.0 * texts * rank,
        bytes=passed + 16.0 * steps * projection,
        block=4.0 * max(projection, texts),
    )
