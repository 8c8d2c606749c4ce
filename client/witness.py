"""A second witness: Opacus' own accountants on what a ledger says was paid for.

The printed claims come from another library (``shared/privacy/accounting.py``). Whoever doubts it asks here: the PRV
accountant (Gopi, Lee, Wutschitz 2021) must agree within two percent, the RDP accountant (Mironov, Talwar, Zhang 2019)
must not be below. Neither is ever a claim. Nothing is kept between calls: the ledger is the only memory, so a client
that is restarted, at whatever round, is accounted from its first intent on.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np

from shared.privacy.accounting import Sampled
from shared.privacy.calibration import plan_from_dict
from shared.privacy.chain import Event
from shared.privacy.plan import PrivacyPlan, Release

_REACH: Final = 300.0  # epsilon beyond which Opacus' PRV overflows


class Witness(NamedTuple):
    """Upper bounds of epsilon by Opacus.

    Attributes:
        prv: numerical composition, its upper end; None where its grid does not reach (epsilon of hundreds).
        rdp: Renyi; looser.
    """

    prv: float | None
    rdp: float


def paid_for(events: Iterable[Event]) -> dict[str, tuple[Sampled, ...]]:
    """What each client of a ledger has paid for, over all its runs, whether or not a result followed.

    Args:
        events: of a client's ledger, in order; ``plan`` and ``intent`` are read, all else is skipped.

    Returns:
        client -> Gaussian releases against everybody, every noisy local step one of them (trust local), one entry for
        each run and kind of release.

    Raises:
        PlanError: a plan that is none.
        KeyError: an intent of a run that no plan was pinned for.
    """
    plans: dict[str, PrivacyPlan] = {}
    counts: dict[str, Counter[tuple[str, Release]]] = {}
    for event in events:
        if event["type"] == "plan":
            plans[event["run"]] = plan_from_dict(event["plan"])
        elif event["type"] == "intent":
            counts.setdefault(event["client"], Counter())[event["run"], event["release"]] += 1
    return {
        client: tuple(one for (run, kind), count in paid.items() for one in plans[run].events({kind: count}))
        for client, paid in counts.items()
    }


def second_witness(events: Sequence[Sampled], delta: float) -> Witness:
    """Epsilon at ``delta`` of a composition of Gaussian releases, by Opacus' PRV and RDP accountants.

    Edge cases: nothing spent -> 0; no noise -> infinity.
    """
    from opacus.accountants import PRVAccountant, RDPAccountant  # noqa: PLC0415 - torch, which a device may lack

    history = [(event.noise_multiplier, event.rate, event.times) for event in events if event.rate * event.times > 0]
    if not history:
        return Witness(0.0, 0.0)
    if min(multiplier for multiplier, _, _ in history) == 0.0:
        return Witness(math.inf, math.inf)
    renyi, numeric = RDPAccountant(), PRVAccountant()
    renyi.history = numeric.history = history
    # At rate 1 Opacus takes a logarithm of 0, which it survives; an order at the end of its list is only looser.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        rdp = float(renyi.get_epsilon(delta))
        if rdp > _REACH:
            return Witness(None, rdp)
        return Witness(float(numeric.get_epsilon(delta, eps_error=min(0.01, 0.002 * rdp))), rdp)
