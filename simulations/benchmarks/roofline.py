"""What bounds a client update on one core: operations at the rate of a matrix product, bytes at that of a copy.

Both rates are measured in the same run. A row's bound is the larger of the two times (Williams et al. 2009): no order
of the same work is faster unless it does less of it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from shared.encoder.spec import EncoderSpec

_PRODUCT: Final = 1024  # rows and columns of the matrices
_SECONDS: Final = 0.2  # of each measurement
_REPEATS: Final = 5
_NUMBER: Final = 4  # bytes of a float32, and of a grid point
# What a dense row of contributions passes through at least: training writes it (1); clipping reads it for its length
# (1), reads it again and writes the grid (2); the sum reads the grid (1) and reads and writes 32-bit totals (2).
_PASSES: Final = 7


@dataclass(frozen=True)
class Work:
    """Of one client and round, at least.

    Attributes:
        operations: floating point, of the products of matrices.
        bytes: moved to and from the rows of parameters.
        row: bytes of one dense contribution; decides which memory it lives in.
    """

    operations: float
    bytes: float
    row: int


def work_of(spec: EncoderSpec, steps: int, places: int) -> Work:
    """What a client's update takes.

    linear: one product with the targets, one outer product, whatever the number of steps (their sum has a closed
    form); the parameters are read once for many users. Two towers: each step projects its places' texts and sends
    gradients back; tables of parameters are touched in a few rows only.

    Args:
        spec: the encoder.
        steps: local steps.
        places: items that a step looks at.
    """
    row = _NUMBER * spec.trained
    if spec.kind == "linear":
        return Work(4.0 * spec.trained, float(_PASSES) * row, row)
    return Work(4.0 * steps * places * spec.text_width * spec.rank, float(_PASSES) * row, row)


def product_rate() -> float:
    """Floating-point operations a second of a float32 matrix product, on the threads that numpy has."""
    a = np.ones((_PRODUCT, _PRODUCT), np.float32)
    out = np.empty_like(a)
    return 2.0 * _PRODUCT**3 * _rate(lambda: np.matmul(a, a, out=out))


def copy_rate(size: int) -> float:
    """Bytes a second, read and written, of copying one array to another: of the memory that holds both.

    Args:
        size: bytes of each array.
    """
    source = np.ones(max(size // 4, 1), np.float32)
    target = np.empty_like(source)
    return 2.0 * source.nbytes * _rate(lambda: np.copyto(target, source))


def bound_of(work: Work, operations: float, copied: float) -> dict[str, Any]:
    """The bound, as JSON values: updates a second, and what sets it.

    Args:
        work: of one update.
        operations, copied: rates of this machine.
    """
    by_product, by_memory = work.operations / operations, work.bytes / copied
    return {
        "operations": work.operations,
        "bytes": work.bytes,
        "rate": 1.0 / max(by_product, by_memory),
        "by": "operations" if by_product > by_memory else "bytes",
    }


def _rate(call: Any) -> float:  # noqa: ANN401 - any function without arguments
    """Calls a second of processor time: the median of repeats, after one that is not counted."""
    rates = []
    for _ in range(_REPEATS + 1):
        began, calls = time.process_time(), 0
        while (taken := time.process_time() - began) < _SECONDS:
            call()
            calls += 1
        rates.append(calls / taken)
    return statistics.median(rates[1:])
