"""Peers that a federated run is measured against: classical recommenders with and without differential privacy.

All of them see the same train rows, are tuned on the same validation items and ranked by the same protocol.
"""

from __future__ import annotations

from simulations.baselines.protocol import Interactions, Scorer, evaluate, interactions
from simulations.baselines.run import BASELINES, PRIVATE_BASELINES, run_baselines, table

__all__ = [
    "BASELINES",
    "PRIVATE_BASELINES",
    "Interactions",
    "Scorer",
    "evaluate",
    "interactions",
    "run_baselines",
    "table",
]
