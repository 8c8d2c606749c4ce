"""One entry of a ledger in words, for somebody who has not read docs/ledger.md.

Whatever an entry holds, it is said and never believed: what is missing is "?", and nothing that a terminal would take
for a command passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Event = Mapping[str, Any]

RELEASES: Final = {
    "update": "the change that training would make to the model",
    "measurement": "how good its recommendations are (recall, exposures)",
    "statistics": "which items are popular and how long histories are",
    "profile": "the second moment of profiles, which the encoder begins with",
    "trending": "which items people came to lately",
}
LARGEST: Final = 1e100  # a price beyond is none
NOISE: Final = {
    "clients": "each client draws its own share of the noise",
    "os": "the noise comes from the operating system",
    "seeded": "the noise comes from a seed, so a simulation, and no protection",
}


def explain(line_number: int, event: Event) -> str:
    """An entry in words, one to four sentences.

    Args:
        line_number: in its ledger.
        event: as it stands there; of any type, with any fields.
    """
    kind = event.get("type")
    words = WORDS.get(kind) if isinstance(kind, str) else None
    if words is None:
        return f"Line {line_number}: an entry of a type that this auditor does not know ({_short(kind)})."
    return f"Line {line_number}: {words(event)}"


def _opened(event: Event) -> str:
    return f"a client's ledger begins. It is signed with key {_key(event.get('key'))}."


def _plan(event: Event) -> str:
    plan = event.get("plan")
    said = _promise(plan) if isinstance(plan, Mapping) else "The plan cannot be read."
    run = f"run {_short(event.get('run'))}, a {_short(event.get('kind'))}"
    if "server" in event:
        who = f"The server is the one with key {_key(event.get('server'))}."
        return f"a client takes part in {run}, for the first time, and from now on holds it to this plan. {said} {who}"
    return f"a server's ledger begins, of {run}. {said} It is signed with key {_key(event.get('key'))}."


def _promise(plan: Event) -> str:
    who = "one person's whole history" if plan.get("unit") == "user" else f"one {_short(plan.get('unit'))}"
    often = []
    for name in RELEASES:
        part = plan.get(name)
        if isinstance(part, Mapping) and part.get("participations") != 0:
            often.append(f"{name} {_short(part.get('participations'))}")
    if plan.get("epsilon") is None:
        return "No differential privacy is promised."
    return (
        f"Promised to {who}: epsilon {_number(plan.get('epsilon'))} at delta {_number(plan.get('delta'))}, trust "
        f"{_short(plan.get('trust'))}; a client contributes at most: {', '.join(often) or '?'}. Fewer than "
        f"{_short(plan.get('smallest_cohort'))} answers of {_short(plan.get('population'))} clients count for nothing."
    )


def _intent(event: Event) -> str:
    task = f"{_task(event)}: {RELEASES.get(str(event.get('release')), 'something unknown')}"
    cost = _cost(event.get("rho"))
    noise = NOISE.get(str(event.get("noise_source")), f"noise from {_short(event.get('noise_source'))}")
    if "client" in event:
        return (
            f"client {_short(event.get('client'))} pays for {task}. {cost} It adds noise of deviation "
            f"{_number(event.get('share_sigma'))} grid units; {noise}. Day {_short(event.get('day'))} by its clock. It "
            f"answers the server's line with hash {_key(event.get('server'))}."
        )
    cohort = event.get("cohort")
    asked = f"{len(cohort):,} clients" if isinstance(cohort, list) else "? clients"
    return f"the server asks {asked} for {task}. {cost} Charged to each before anything is sent; {noise}."


def _result(event: Event) -> str:
    if "sealed" in event:
        return (
            f"client {_short(event.get('client'))} has clipped and noised its vector for {_task(event)}; the print "
            f"{_key(event.get('sealed'))} is of what left, before any mask."
        )
    away = f"{_count(event.get('declined'))} declined, {_count(event.get('failed'))} failed"
    said = (
        f"the server summed {_short(event.get('survivors'))} answers for {_task(event)} ({away}). The sum holds noise "
        f"of deviation {_number(event.get('sum_sigma'))} grid units; its print is {_key(event.get('sum'))}."
    )
    if event.get("aborted"):
        said += f" It was not used: {_short(event.get('why'), 200)}. It was paid for all the same."
    return f"{said} {_count(event.get('receipts'))} signed receipts came with the answers."


def _decline(event: Event) -> str:
    what = f" to take part in {_task(event)}" if "release" in event else ""
    clause = _short(event.get("clause"), 300)
    return f"client {_short(event.get('client'))} refused{what}: {clause}. The server was told no reason."


def _decision(event: Event) -> str:
    told = "It saw no numbers." if event.get("sight") is None else f"It saw {_seen(event['sight'])}."
    before, after = (_version(event.get(name)) for name in ("before", "after"))
    moved = f"version {before} stays" if before == after else f"version {before} becomes {after}"
    waits = "" if event.get("proposal") is None else " A proposal waits for a person."
    return (
        f"after round {_short(event.get('round'))} the controller {_short(event.get('controller'))} decided: "
        f"{_short(event.get('decision'))}. {told} Policy: {moved}. Reason: {_short(event.get('reason'), 300)}.{waits}"
    )


def _seen(sight: object) -> str:
    recall = sight.get("recall") if isinstance(sight, Mapping) else None
    if not isinstance(recall, Mapping):
        return "a measurement from which recall cannot be told"
    return f"recall {_number(recall.get('value'))} +- {_number(recall.get('half_width'))}, noisy and paid for"


def _order(event: Event) -> str:
    order = event.get("order")
    if not isinstance(order, Mapping):
        return f"an order about the policy could not be carried out: {_short(event.get('reason'), 300)}."
    why = f", who says: {_short(order.get('why'), 300)}" if order.get("why") else ""
    came = f"{_short(event.get('outcome'))} ({_short(event.get('reason'), 300)})"
    what = f"{_short(order.get('kind'))} after round {_short(event.get('round'))}"
    return (
        f"{_short(order.get('who'))} ordered {what}{why}. Outcome: {came}; policy version "
        f"{_version(event.get('after'))} is in force."
    )


def _end(event: Event) -> str:
    model = event.get("model")
    kept = ""
    if isinstance(model, Mapping):
        kept = f" The model kept is that of round {_short(model.get('round'))}: {_short(model.get('why'), 300)}."
    return f"the run ended: {_short(event.get('stopped'))}.{kept}"


def _head(event: Event) -> str:
    return (
        f"the owner of this ledger signed all lines before this one, closing round {_short(event.get('round'))}; "
        "nobody without the key can change them now."
    )


WORDS: Final[Mapping[str, Callable[[Event], str]]] = {
    "opened": _opened,
    "plan": _plan,
    "intent": _intent,
    "result": _result,
    "decline": _decline,
    "decision": _decision,
    "order": _order,
    "end": _end,
    "head": _head,
}


def _task(event: Event) -> str:
    attempt = event.get("attempt")
    again = "" if attempt in (1, None) else f", attempt {_short(attempt)}"
    return f"the {_short(event.get('release'))} release of round {_short(event.get('round'))}{again}"


def _cost(rho: object) -> str:
    """A price in words. No epsilon: a line alone knows neither unit nor trust, and ``verify`` says those with it."""
    if rho is None:
        return "It has no privacy to pay with."
    if not isinstance(rho, int | float) or isinstance(rho, bool) or not 0 <= rho < LARGEST:
        return f"Its price cannot be read ({_short(rho)})."
    return f"Price: rho {rho:.4g} (zCDP, adjacency zero-out)."


def _version(policy: object) -> str:
    return _short(policy.get("version")) if isinstance(policy, Mapping) else "?"


def _count(rows: object) -> str:
    return f"{len(rows):,}" if isinstance(rows, list) else "?"


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else _short(value)


def _key(value: object) -> str:
    """The start of a hash or a key: enough to compare by eye."""
    text = _short(value, 80)
    return f"{text[:16]}…" if len(text) > 16 else text


def _short(value: object, most: int = 60) -> str:
    """Any value on one printable line."""
    if value is None:
        return "?"
    if isinstance(value, list | dict):  # may be deep
        return f"{len(value)} entries"
    text = "".join(letter if letter.isprintable() else "?" for letter in str(value)[: most + 1])
    return text if len(text) <= most else f"{text[: most - 1]}…"
