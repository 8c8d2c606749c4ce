"""Why an item is on a list: the feature groups' shares of its score, and the history items that carry it.

A reason is what would be missing without it: every history item is left out in turn, the user's vectors are computed
again from the rest, and the fall of the item's score is the history item's effect (leave one out; R. D. Cook,
Technometrics 1977, for regressions). So a reason is faithful for any encoder: without the named item the score *is*
lower, by as much as it says. Nearness of two items alone promises nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from client.recommending import Personal, Rows, Shown, parts_of, summed, user_sides
from shared.encoder.encode import pad
from shared.encoder.history import attention_weights
from shared.encoder.left_out import groups_without
from shared.encoder.spec import Floats, unpack
from shared.history import History
from shared.policy.recall_policy import RecallPolicy

TELLING: Final = 1e-3  # logits: below, an effect is not worth a word, and may be a rounding error
CHUNK: Final = 64  # histories at a time
REMEMBERED: Final = (
    128  # newest rows of a history that a GRU, which forgets, is asked about; an older one's effect is 0
)
VERBS: Final = ("viewed", "bought", "rated", "spent time on", "turned down")  # of each kind of behaviour
Placed = Literal["score", "score and diversity", "chance"]


@dataclass(frozen=True)
class Reason:
    """A history item and what it does to the score of a shown item.

    Attributes:
        row: in the history.
        effect: logits by which the score would fall without it; below 0 where it would rise.
    """

    row: int
    effect: float


@dataclass(frozen=True)
class Explanation:
    """Why one item is shown.

    Attributes:
        item: index into the catalogue.
        score: sum of the parts, in logits.
        parts: feature group (and exposure price) -> logits.
        shares: the same over the sum of their sizes, signs kept: between -1 and 1, sizes add up to 1.
        because: history items without which the score would be lower, strongest first.
        despite: history items without which it would be higher, strongest first.
        placed: what put it there: its score, its score and its unlikeness to the items above, or chance (exploration).
        policy_version: of the policy that did.
    """

    item: int
    score: float
    parts: Mapping[str, float]
    shares: Mapping[str, float]
    because: tuple[Reason, ...]
    despite: tuple[Reason, ...]
    placed: Placed
    policy_version: int


def explain(
    shelf: Rows,
    policy: RecallPolicy,
    history: History,
    shown: Shown,
    *,
    personal: Personal | None = None,
    reasons: int = 3,
) -> list[Explanation]:
    """An explanation of each item of a list.

    Args:
        shelf, policy, history, personal: what the list was made with.
        shown: the list.
        reasons: most history items to name on either side.
    """
    effect = effects(shelf, policy, history, shown.item, personal=personal)
    size = summed({name: np.abs(part) for name, part in shown.parts.items()}, shown.item.shape)
    out = []
    for place, item in enumerate(shown.item):
        parts = {name: float(part[place]) for name, part in shown.parts.items()}
        out.append(
            Explanation(
                item=int(item),
                score=float(shown.score[place]),
                parts=parts,
                shares={name: part / float(size[place]) if size[place] > 0 else 0.0 for name, part in parts.items()},
                because=_strongest(effect[:, place], reasons),
                despite=tuple(Reason(r.row, -r.effect) for r in _strongest(-effect[:, place], reasons)),
                placed=_placed(policy, chance=bool(shown.chance[place])),
                policy_version=policy.version,
            )
        )
    return out


def in_words(said: Explanation, history: History, titles: Sequence[str]) -> str | None:
    """The first reason as a sentence, or None where there is none worth one.

    Args:
        said: an explanation.
        history: that it was made with.
        titles: of the catalogue's items.
    """
    if said.placed == "chance":
        return "by chance: the policy keeps places for items that are shown too rarely to be known"
    if said.because:
        row = said.because[0].row
        return f"because you {VERBS[history.kind[row]]} {titles[history.item[row]]}"
    if said.shares and max(said.shares, key=said.shares.__getitem__) == "popularity" and said.shares["popularity"] > 0:
        return "because many others chose it"
    return None


def effects(
    shelf: Rows,
    policy: RecallPolicy,
    history: History,
    item: NDArray[np.int64],
    *,
    personal: Personal | None = None,
) -> Floats:
    """By how much the score of each item falls when a row of the history is left out.

    Everything that depends on the history counts as it would then, recency too: without the newest row another is the
    newest. Of a GRU's history the newest ``REMEMBERED`` rows are asked about; the effect of an older one is given as 0.

    Returns:
        (rows, items) logits; positive where the row speaks for the item.
    """
    out = np.zeros((len(history), len(item)), np.float32)
    if not len(history):
        return out

    def totals(users: Mapping[str, Floats]) -> Floats:
        count = len(users["text"])
        return summed(parts_of(shelf, policy, users, personal, item=item), (count, len(item)))

    whole = totals(user_sides(shelf, policy, [history], personal))
    if shelf.spec.kind != "gru":
        out[:] = whole - totals(_sides_without(shelf, policy, history, personal))
    anew = _anew(shelf, history)
    for start in range(0, len(anew), CHUNK):
        rows = anew[start : start + CHUNK]
        out[rows] = whole - totals(user_sides(shelf, policy, [without(history, row) for row in rows], personal))
    return out


def _sides_without(shelf: Rows, policy: RecallPolicy, history: History, personal: Personal | None) -> dict[str, Floats]:
    """:func:`user_sides` of the history without each of its rows, as far as they pool it."""
    counted = {group: vectors for group, vectors in shelf.items.items() if group == "text" or policy.weight(group)}
    padded = pad([history], visible="all")
    users = groups_without(shelf.spec, shelf.parameters, counted, shelf.context, padded)
    if personal is not None:
        users["text"] = users["text"] + personal.offset
    return users


def _anew(shelf: Rows, history: History) -> list[int]:
    """Rows without which the encoder weighs the others in another way: the history is read again for each."""
    kind = shelf.spec.kind
    if kind == "linear":
        return []
    if kind == "gru":
        return list(range(max(0, len(history) - REMEMBERED), len(history)))
    newest = np.flatnonzero(history.time == history.time.max())
    rows = {int(newest[0])} if len(newest) == 1 else set()  # recency is counted from it
    if kind == "attention":  # a softmax may leave next to nothing for the others
        padded = pad([history], visible="all")
        weights = attention_weights(unpack(shelf.spec, shelf.parameters), shelf.context, padded.item, padded.behaviour)
        rows.add(int(np.abs(weights[0]).argmax()))
    return sorted(rows)


def without(history: History, row: int) -> History:
    """A history that lacks one row."""
    return replace(history, **{f.name: np.delete(getattr(history, f.name), row) for f in fields(History)})


def _strongest(effect: Floats, most: int) -> tuple[Reason, ...]:
    """The largest effects that are telling, in order; ties by the older row."""
    order = np.argsort(-effect, kind="stable")[:most]
    return tuple(Reason(int(row), float(effect[row])) for row in order if effect[row] > TELLING)


def _placed(policy: RecallPolicy, *, chance: bool) -> Placed:
    """What decided about a place of the list."""
    if chance:
        return "chance"
    return "score and diversity" if policy.diversity > 0 else "score"
