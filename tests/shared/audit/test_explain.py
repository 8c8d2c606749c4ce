"""Every type of entry is said in words, and no entry, however hostile, is an error or a terminal's command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from shared.audit.explain import WORDS, explain

PAGE = Path(__file__).parents[3] / "docs" / "ledger.md"
SHOWN = re.compile(r'^\{"event":\{.*\}$', re.MULTILINE)
ENTRIES = [json.loads(line) for line in SHOWN.findall(PAGE.read_text(encoding="utf-8"))]
TYPES = sorted({entry["event"]["type"] for entry in ENTRIES})


def said(kind, place=0):
    found = [entry for entry in ENTRIES if entry["event"]["type"] == kind]
    return explain(found[place]["seq"], found[place]["event"])


def test_the_ledgers_page_shows_all_types_but_an_order():
    assert {*TYPES, "order"} == set(WORDS)


@pytest.mark.parametrize("kind", TYPES)
def test_every_entry_of_the_ledgers_page_is_said_without_a_gap(kind):
    for place, entry in enumerate(entry for entry in ENTRIES if entry["event"]["type"] == kind):
        words = said(kind, place)
        assert words.startswith(f"Line {entry['seq']}: ")
        assert "?" not in words


def test_an_entry_says_who_paid_what_for_what():
    assert "asks 3 clients for the statistics release of round 0" in said("intent", 0)
    assert "client 1 pays for the statistics release of round 0" in said("intent", 1)
    assert "rho 0.06939" in said("intent", 1)
    assert "refused to take part in the update release of round 2: consent.smallest_cohort" in said("decline")
    assert "recall 0.200589 +- 0.0200533, noisy and paid for. Policy: version 1 becomes 2" in said("decision")


def test_an_order_says_who_and_why():
    order = {"who": "ana", "kind": "freeze", "why": "holiday"}
    event = {
        "type": "order",
        "round": 3,
        "order": order,
        "outcome": "done",
        "reason": "frozen",
        "after": {"version": 2},
    }
    assert "ana ordered freeze after round 3, who says: holiday." in explain(9, event)
    assert "could not be carried out: no order" in explain(9, {"type": "order", "order": None, "reason": "no order"})


@pytest.mark.parametrize("kind", [*WORDS, "unknown", None, 7, [], {}])
@pytest.mark.parametrize("value", [None, "\x1b[2Jx", 10**400, float("nan"), -1.0, True, [], {"a": []}, ["\n"] * 3])
def test_whatever_an_entry_holds_is_said_on_one_printable_line(kind, value):
    names = {name for entry in ENTRIES for name in entry["event"]} - {"type"} | {"order", "memory"}
    for event in ({"type": kind}, {"type": kind} | dict.fromkeys(names, value)):
        words = explain(1, event)
        assert words.isprintable()
        assert len(words) < 2500
