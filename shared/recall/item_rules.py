"""Item rules: what may not be recommended, whoever asks and whatever the policy says.

Rules are public and come with every task. A barred item is never shown, never counts as an exposure or as something
to be found, and is no target of training: so no controller and no model can learn a way around them. Rules name items
by their raw ids; who names an item that does not exist is told (:func:`unknown`), for a typing error would bar nothing.

    blocked = ["1234", "77"]      # withdrawn, sold out, forbidden by law
    harmful = ["666"]             # must not be promoted
    [min_age]
    "58" = 18                     # only for users known to be at least that old
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, ProtocolError

Mask = NDArray[np.bool_]
OLDEST: Final = 150
_LONGEST_ID: Final = 1000  # characters


@dataclass(frozen=True)
class ItemRules:
    """Raw ids of barred items.

    Attributes:
        blocked: nobody is shown these.
        harmful: nor these; apart, because a report should say why.
        min_age: id -> smallest age in years; a user of unknown age is shown none of them.
    """

    blocked: tuple[str, ...] = ()
    harmful: tuple[str, ...] = ()
    min_age: Mapping[str, int] = field(default_factory=dict)


NO_RULES: Final = ItemRules()


def barred(rules: ItemRules, ids: Sequence[str], age: int | None) -> Mask:
    """Which items a user must not be shown.

    Args:
        rules: what is barred.
        ids: raw ids of the catalogue, in its order.
        age: the user's age in years; None = unknown, which bars every item with an age limit.

    Returns:
        (items,) bool.
    """
    never = {*rules.blocked, *rules.harmful}
    young = {item for item, limit in rules.min_age.items() if age is None or age < limit}
    out = never | young
    if not out:
        return np.zeros(len(ids), np.bool_)
    return np.fromiter((item in out for item in ids), np.bool_, len(ids))


def masks(rules: ItemRules, ids: Sequence[str], ages: Sequence[int | None]) -> list[Mask]:
    """:func:`barred` of every user; users of one age share one array."""
    made = {age: barred(rules, ids, age) for age in set(ages)}
    return [made[age] for age in ages]


def joined(rules: ItemRules, more: ItemRules) -> ItemRules:
    """Both sets of rules at once: a device's own on top of the server's, the stricter age limit of two."""
    ages = dict(rules.min_age)
    for item, limit in more.min_age.items():
        ages[item] = max(limit, ages.get(item, 0))
    return ItemRules(
        tuple(dict.fromkeys([*rules.blocked, *more.blocked])),
        tuple(dict.fromkeys([*rules.harmful, *more.harmful])),
        ages,
    )


def unknown(rules: ItemRules, ids: Sequence[str]) -> tuple[str, ...]:
    """Ids that the rules name and the catalogue does not have, sorted."""
    named = {*rules.blocked, *rules.harmful, *rules.min_age}
    return tuple(sorted(named - set(ids)))


def rules_to_dict(rules: ItemRules) -> dict[str, Any]:
    """Plain JSON types; inverse of :func:`rules_from_dict`."""
    return {"blocked": list(rules.blocked), "harmful": list(rules.harmful), "min_age": dict(rules.min_age)}


def rules_from_dict(raw: object) -> ItemRules:
    """Rules from JSON, every field checked.

    Raises:
        ProtocolError: names the field, its value and what would be right.
    """
    names = {f.name for f in fields(ItemRules)}
    if not isinstance(raw, Mapping) or set(raw) != names:
        raise ProtocolError(f"rules: expected exactly the fields {sorted(names)}")
    ages = raw["min_age"]
    if not isinstance(ages, Mapping):
        raise ProtocolError("rules.min_age: expected item ids with an age each")
    for item, limit in ages.items():
        if not _is_id(item) or type(limit) is not int or not 1 <= limit <= OLDEST:
            raise ProtocolError(
                f"rules.min_age: {str(item)[:40]!r} = {str(limit)[:40]}, expected an item id and whole years from 1 to "
                f"{OLDEST}"
            )
    return ItemRules(_ids(raw["blocked"], "blocked"), _ids(raw["harmful"], "harmful"), dict(ages))


def read_rules(path: Path) -> ItemRules:
    """Rules from a TOML file; a field that is not there bars nothing.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or holds something else than rules; names file and field.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        return rules_from_dict({**rules_to_dict(NO_RULES), **raw})
    except ProtocolError as error:
        raise ConfigError(f"{path}: {error}") from error


def _ids(values: object, name: str) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(_is_id(value) for value in values):
        raise ProtocolError(f"rules.{name}: {str(values)[:80]}, expected a list of item ids as texts")
    if len(set(values)) != len(values):
        raise ProtocolError(f"rules.{name}: an item is named twice; name each once")
    return tuple(values)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= _LONGEST_ID
