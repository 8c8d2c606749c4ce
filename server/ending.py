"""How a run ends, and with which model.

A run that did all its rounds ends with its last model. One that ended early (the budget is used up, nobody answers)
ends with the best model by private estimate: its last one may be mid-way through something that did not work out.

The rule, in the spirit of the one-standard-error rule (Breiman, Friedman, Olshen and Stone 1984, section 3.4.3): *of
the measured rounds whose recall cannot be told from the highest one, the latest*. The plain maximum of noisy estimates
picks the luckiest draw of noise, and the more rounds are measured the luckier; among rounds that the noise does not
tell apart the estimates say nothing, so what decides is that a later model has seen more of what was paid for. Later
estimates are compared with the highest one, not with the one kept, so that many small losses cannot add up. The noise
is that of privacy; where a cohort is a part of all clients, who was asked adds to it: the rule is a little too sure.

Choosing costs no privacy: the estimates were released and paid for, everything here is post-processing. The estimate of
the model kept is still a little flattering, as that of any model that was chosen by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from server.checkpoint import Best, State, Stopped, load_state, save_state
from shared.policy.recall_policy import RecallPolicy, policy_to_dict
from shared.policy.sight import Seen

Chosen = Literal["last", "best private estimate"]

BEST_FILE: Final = "best.safetensors"


@dataclass(frozen=True)
class Ending:
    """The end of a run.

    Attributes:
        stopped: why it ended.
        rounds_done: rounds finished.
        model: the state whose model is given out; its policy is frozen.
        last: the state after the last round: what was spent, and how many updates went in.
        chosen, why: how ``model`` was picked.
        estimate: private recall of ``model``; None when its round was not measured.
    """

    stopped: Stopped
    rounds_done: int
    model: State
    last: State
    chosen: Chosen
    why: str
    estimate: Seen | None

    def to_dict(self) -> dict[str, Any]:
        """The choice in plain JSON types, as the ledger and the summary hold it."""
        seen = None if self.estimate is None else {"value": self.estimate.value, "half_width": self.estimate.half_width}
        return {"round": max(0, self.model.round), "chosen": self.chosen, "why": self.why, "estimate": seen}

    def event(self) -> dict[str, Any]:
        """The ledger's line: enough to check the choice against the decisions before it."""
        policy = policy_to_dict(self.model.policy)
        return {"type": "end", "stopped": self.stopped, "model": self.to_dict(), "policy": policy}


def better(best: Best | None, round_: int, policy: RecallPolicy, recall: Seen | None) -> Best | None:
    """The round to keep after one more was measured; see the rule above.

    Args:
        best: kept so far; None = nothing was measured yet.
        round_: the round just measured.
        policy: under which its recall was measured.
        recall: its private estimate; None = it cannot be told, and the round is no candidate.
    """
    if recall is None:
        return best
    if best is None:
        return Best(round_, policy, recall, recall)
    highest = best.highest
    if recall.value < highest.value - math.hypot(recall.half_width, highest.half_width):
        return best
    return Best(round_, policy, recall, recall if recall.value > highest.value else highest)


def keep_best(state: State, folder: Path) -> None:
    """Write the best model's own checkpoint, when it is the one that ``state`` has just closed.

    Called after the checkpoint was written, and again when a run goes on from one: a kill between the two files is
    mended from the checkpoint, and the file never holds a round that the checkpoint does not know.
    """
    if state.best is not None and state.best.round == state.round:
        save_state(replace(state, policy=state.best.policy), folder / BEST_FILE)


def conclude(state: State, stopped: Stopped, folder: Path) -> Ending:
    """Pick the model that a run ends with, and freeze its policy.

    Args:
        state: after the last round.
        stopped: why there is no other.
        folder: of the run, with the best model's checkpoint.

    Raises:
        RunError: the best model's checkpoint is missing or broken.
    """
    best, model = state.best, state
    chosen: Chosen = "last"
    if stopped == "finished":
        why = "the run did all its rounds"
    elif stopped == "no contexts":
        why = "the one-off statistics or profile did not come, so there are no contexts to read histories by"
    elif best is None:
        why = "no round could be measured before the run ended"
    else:
        chosen = "best private estimate"
        why = (
            f"the run ended early; of the rounds whose private recall cannot be told from the highest one "
            f"({best.highest.value:.3f} +- {best.highest.half_width:.3f}) this is the latest"
        )
        model = load_state(folder / BEST_FILE)
    measured = best is not None and best.round == model.round
    model = replace(model, policy=replace(model.policy, frozen=True))
    estimate = best.recall if best is not None and measured else None
    return Ending(stopped, max(0, state.round), model, state, chosen, why, estimate)
