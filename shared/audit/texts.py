"""All that an audit says, in English and in Chinese: what findings mean, and every other word of its page.

The sentences stand in ``sentences.toml`` (one a check and outcome), the other words in ``words.toml``: translators need
no Python. Numbers are written so that they never flatter: an upper bound is rounded up, a lower bound down.
"""

from __future__ import annotations

import math
import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Final, Literal

from shared.audit.findings import Finding, Value

Language = Literal["en", "zh"]

LANGUAGES: Final[tuple[Language, ...]] = ("en", "zh")
LONGEST: Final = 300  # letters of a value: a hostile ledger fills no page
_ID: Final = 12  # leading letters of a key or digest that a person compares


@dataclass(frozen=True)
class Text:
    """The same in both languages."""

    en: str
    zh: str

    def of(self, language: Language) -> str:
        """In one of them."""
        return self.en if language == "en" else self.zh


def sentence(finding: Finding, language: Language) -> str:
    """What a finding means, in one sentence or two.

    Raises:
        RuntimeError: nobody wrote a sentence for this check and outcome.
    """
    entry = _file("sentences.toml").get(finding.check, {}).get(finding.outcome)
    if entry is None:
        raise RuntimeError(f"sentences.toml has nothing for {finding.check}, {finding.outcome}")
    return _filled(entry[language], finding.check, finding.values, language)


def both(finding: Finding) -> Text:
    """The sentence of a finding in both languages."""
    return Text(*(sentence(finding, language) for language in LANGUAGES))


def uncovered(key: str, language: Language) -> str:
    """What the claim leaves open, by its key.

    Raises:
        RuntimeError: no such key.
    """
    return word("uncovered", key).of(language)


def clause_title(clause: int, language: Language) -> str:
    """The name of a clause.

    Raises:
        RuntimeError: no such clause.
    """
    return word("clauses", str(clause)).of(language)


def word(table: str, key: str, /, **values: Value) -> Text:
    """A text of ``words.toml``, its placeholders filled.

    Raises:
        RuntimeError: no such text.
    """
    entry = _file("words.toml").get(table, {}).get(key)
    if entry is None:
        raise RuntimeError(f"words.toml has nothing for {table}, {key}")
    if not values:
        return Text(entry["en"], entry["zh"])
    return Text(*(_filled(entry[language], "", values, language) for language in LANGUAGES))


def words(table: str) -> dict[str, Text]:
    """All texts of one table, in their order, placeholders as they stand."""
    return {key: Text(entry["en"], entry["zh"]) for key, entry in _file("words.toml")[table].items()}


def term(value: str, language: Language) -> str:
    """A word of the code ("update", "seeded") as people call it; what is none stays as it is; lists word by word."""
    known = _file("words.toml")["terms"]
    if value in known:
        return str(known[value][language])
    pieces = value.split(", ")
    if len(pieces) > 1 and all(piece in known or piece.isdecimal() for piece in pieces):
        return ("、" if language == "zh" else ", ").join(term(piece, language) for piece in pieces)
    return value


def number(value: float, language: Language, spec: str = "") -> str:
    """A number for people.

    Args:
        value: the number.
        language: of the reader.
        spec: "up" or "down" and digits (two unless said) for bounds; "%"; a format of Python's; "" = as it is.
    """
    if not math.isfinite(value):
        return word("terms", "NaN" if math.isnan(value) else "infinite").of(language)
    for name, rounded in (("up", math.ceil), ("down", math.floor)):
        if spec.startswith(name):
            digits = int(spec.removeprefix(name) or 2)
            return f"{rounded(value * 10**digits) / 10**digits:.{digits}f}" if abs(value) < 1e12 else f"{value:.3g}"
    if spec == "%":
        return f"{value:.0%}" if round(value * 100, 9) == round(value * 100) else f"{value:.4g}"
    if spec:
        return format(value, spec)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


class _Words(string.Formatter):
    """Fills placeholders in one language; see the head of ``sentences.toml``."""

    def __init__(self, language: Language, check: str) -> None:
        self._language: Language = language
        self._named = _file("sentences.toml").get(check, {})
        self._field = ""

    def get_field(self, field_name: str, _args: Any, kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as the base
        """Plain names only, "none" for what is not told; remembers which: its words may have names of their own."""
        self._field = field_name
        return kwargs.get(field_name), field_name

    def format_field(self, value: Any, format_spec: str) -> str:  # noqa: ANN401 - as the base
        """A value in words."""
        if "|" in format_spec:
            one, many = format_spec.split("|")
            single = value == 1 or (isinstance(value, str) and ", " not in value)
            return (one if single else many).replace("#", self.format_field(value, ""))
        if value is None:
            return word("terms", "none given").of(self._language)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return number(value, self._language, "" if format_spec in {"id", "raw"} else format_spec)
        said = str(value)[:LONGEST]
        if format_spec == "id":
            return said[:_ID]
        if format_spec == "raw":
            return said
        own = self._named.get(self._field, {}).get(said)
        return str(own[self._language]) if own else term(said, self._language)


def _filled(text: str, check: str, values: Mapping[str, Value], language: Language) -> str:
    return _Words(language, check).vformat(text, (), values)


@lru_cache
def _file(name: str) -> Mapping[str, Any]:
    return tomllib.loads(resources.files("shared.audit").joinpath(name).read_text(encoding="utf-8"))
