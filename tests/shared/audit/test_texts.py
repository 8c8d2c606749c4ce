"""Whatever an audit can find has a sentence in both languages, of the same values, and numbers never flatter."""

from __future__ import annotations

import ast
import math
import string
from importlib import resources
from itertools import product
from pathlib import Path

import pytest

from shared.audit import chain_checks, coverage, explain, hazards, reconcile, texts
from shared.audit.executed import ORDER
from shared.audit.figures import STYLES
from shared.audit.findings import CLAUSES, OUTCOMES, Finding
from shared.audit.texts import LANGUAGES, Text, number, sentence, term, uncovered, word, words
from shared.audit.verify import BEYOND
from shared.privacy.plan import RELEASES

MODULES = sorted((Path(__file__).parents[3] / "shared" / "audit").glob("*.py"))
SENTENCES = texts._file("sentences.toml")
WORDS = texts._file("words.toml")
# What is found under a name that is not written out where it is found.
INDIRECT = [
    *((check, "cannot tell") for check in (*coverage.OFFICER, *hazards.UNSEEN)),
    *((check, "cannot tell") for check in (*chain_checks._SERVER_ONLY, *reconcile._BOTH)),
    *((f"recipients-{trust}", "pass") for trust in ("distributed", "central", "local")),
    *((f"unit-{unit}", "pass") for unit in ("user", "interaction")),
    *((f"verdict-{kind}", outcome) for kind, outcome in product(("simulation", "deployment"), OUTCOMES)),
    *(("verdict-unknown", outcome) for outcome in ("fail", "cannot tell")),
    *(("power", "pass"), ("power-below", "pass"), ("membership", "pass"), ("membership", "fail")),
    *(("lower-bound", "pass"), ("lower-bound", "fail"), ("metrics-outside", "pass"), ("metrics-outside", "fail")),
    *(("rdp", "pass"), ("rdp", "fail"), ("prv", "pass"), ("prv", "fail"), ("delta-below", "pass")),
    ("delta-below", "fail"),
    *(("entry-malformed", "fail"), ("entry-unknown", "cannot tell"), ("entry-misplaced", "fail")),
    *((name, "fail") for name in ("file-refused", "summary-unreadable", "attack-unreadable", "plan-unreadable")),
]


def written(node):
    """The words that an expression can be, as far as they are written out there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    return [*written(node.body), *written(node.orelse)] if isinstance(node, ast.IfExp) else []


def calls(path):
    """(name of the function, arguments, names of keywords) of every call that makes a finding."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in {"Finding", "found"}:
                yield node.func.id, node.args[1:], {keyword.arg for keyword in node.keywords}
            elif node.func.id in {"ledger", "judged"}:
                yield node.func.id, node.args, {keyword.arg for keyword in node.keywords}


def emitted():
    """(check, outcome, values if they are written out there) of every finding in the code."""
    for path in MODULES:
        for name, arguments, keywords in calls(path):
            outcomes = ["pass", "fail"] if name == "judged" else written(arguments[1])
            plain = name in {"found", "ledger"} and None not in keywords
            for check, outcome in product(written(arguments[0]), outcomes):
                known = plain or (name == "judged" and outcome == "pass" and None not in keywords)
                yield check, outcome, keywords if known else None


EMITTED = list(emitted())


def placeholders(text):
    return {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}


@pytest.mark.parametrize(
    ("check", "outcome"), sorted({(check, outcome) for check, outcome, _ in EMITTED} | {*INDIRECT})
)
def test_every_finding_has_a_sentence_in_both_languages(check, outcome):
    # "judged" makes no pass of those: it is called where something is wrong alone.
    if outcome == "pass" and check in {"result-unasked", "result-unpaid", "pinned"}:
        pytest.skip("never passes")
    entry = SENTENCES[check][outcome]
    assert set(entry) == set(LANGUAGES)
    assert all(entry.values())


def test_the_list_of_findings_is_no_shorter_than_the_code():
    assert len({(check, outcome) for check, outcome, _ in EMITTED}) > 120


@pytest.mark.parametrize(
    ("check", "outcome"), [(c, o) for c, entry in SENTENCES.items() for o in entry if o in OUTCOMES]
)
def test_both_languages_speak_of_the_same_values(check, outcome):
    entry = SENTENCES[check][outcome]
    assert placeholders(entry["en"]) == placeholders(entry["zh"])


def test_no_sentence_speaks_of_a_value_that_the_check_does_not_tell():
    said = {
        (check, outcome, name)
        for check, outcome, values in EMITTED
        if values is not None and outcome in SENTENCES.get(check, {})
        for name in placeholders(SENTENCES[check][outcome]["en"]) - values
    }
    assert said == set()


def test_no_sentence_is_left_over():
    known = {(check, outcome) for check, outcome, _ in EMITTED} | {*INDIRECT}
    assert {(check, o) for check, entry in SENTENCES.items() for o in entry if o in OUTCOMES} - known == set()


@pytest.mark.parametrize("table", WORDS)
def test_every_other_word_stands_in_both_languages_and_of_the_same_values(table):
    for key, entry in WORDS[table].items():
        assert set(entry) == set(LANGUAGES), key
        assert placeholders(entry["en"]) == placeholders(entry["zh"]), key
        assert all(entry.values()), key


def test_chinese_texts_are_chinese():
    names = {"gdp", "steinke-2023"}
    plain = [
        (table, key)
        for table, entries in WORDS.items()
        for key, entry in entries.items()
        if not any(ord(letter) > 0x2E7F for letter in entry["zh"]) and key not in names
    ]
    assert plain == [("page", "switch"), ("page", "delta"), ("page", "epsilon"), ("glossary", "delta")]


def test_every_clause_and_everything_that_is_not_covered_has_a_name():
    assert [int(key) for key in words("clauses")] == list(CLAUSES)
    keys = [*coverage.ALWAYS, "no-privacy", "against-server", "event-level", "collusion-beyond", "sums-unmasked"]
    keys += ["single-client-central", "amplification-readers", "float-local", "oracle-folder", "tuning", "other-runs"]
    assert all(uncovered(key, language) for key, language in product(keys, LANGUAGES))


def test_what_the_attacks_assume_is_said_in_both_languages():
    from simulations.attack.bounds import ASSUMES

    for assumption in ASSUMES.values():
        assert term(assumption, "en") == assumption
        assert term(assumption, "zh") != assumption


def test_what_is_beyond_every_ledger_is_never_passed_or_failed():
    assert {outcome for check in BEYOND for outcome in SENTENCES[check] if outcome in OUTCOMES} == {"cannot tell"}


# --- filling in


def test_values_are_said_in_the_language():
    finding = Finding(
        7, "payments-asked", "fail", {"why": "price", "client": "7", "round": 3, "release": "update", "count": 1}
    )
    assert sentence(finding, "en") == (
        "1 payment does not match a charge of the server: the price differs (client 7, round 3, updates)."
    )
    assert sentence(finding, "zh") == "有 1 笔付出与服务器的记账不符：价格不同（客户端 7，第 3 轮，模型更新）。"


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 sums were"), (1, "1 sum was"), (2, "2 sums were"), (12_345, "12,345 sums were")]
)
def test_counts_agree_with_their_words(count, said):
    values = {"smallest": 100, "survivors": 30, "count": count}
    assert f"but {said} used with fewer" in sentence(Finding(5, "cohort-survivors", "fail", values), "en")


def test_a_list_of_clauses_is_a_plural():
    values = {"epsilon": 8.0, "failed": 2, "clauses": "1, 5"}
    assert sentence(Finding(11, "verdict-deployment", "fail", values), "en").endswith("under clauses 1, 5.")
    assert sentence(Finding(11, "verdict-deployment", "fail", values), "zh").endswith("见第 1、5 条。")
    assert sentence(Finding(11, "verdict-deployment", "fail", {**values, "clauses": "7"}), "en").endswith(
        "under clause 7."
    )


def test_what_a_ledger_says_is_quoted_and_never_filled_in():
    hostile = "{printed} <script> {0} %s"
    for language in LANGUAGES:
        assert hostile in sentence(Finding(7, "chain-server", "fail", {"line": 3, "why": hostile}), language)


def test_what_is_not_told_is_none_and_a_long_word_is_cut():
    assert "of another run or another plan (none)" in sentence(Finding(9, "attack-of-this-run", "fail"), "en")
    long = Finding(9, "attack-of-this-run", "fail", {"run": "x" * 100_000})
    assert len(sentence(long, "en")) < 500


@pytest.mark.parametrize(
    ("value", "spec", "said"),
    [
        (7.001, "up", "7.01"),
        (7.0, "up", "7.00"),
        (7.999951746757786, "up4", "8.0000"),
        (7.999, "down", "7.99"),
        (7.99994, "down4", "7.9999"),
        (1e-5, "", "1e-05"),
        (10_000, "", "10,000"),
        (0.95, "%", "95%"),
        (0.9999, "%", "0.9999"),
        (0.12345, ".3f", "0.123"),
        (math.inf, "up", "infinite"),
        (math.nan, "down", "not a number"),
        (-math.inf, "", "infinite"),
    ],
)
def test_numbers_never_flatter(value, spec, said):
    assert number(value, "en", spec) == said


def test_words_of_the_code_are_said_as_people_say_them():
    assert term("update, profile", "en") == "updates, profiles"
    assert term("update, profile", "zh") == "模型更新、画像"
    assert term("made-up", "zh") == "made-up"


@pytest.mark.parametrize("kind", RELEASES)
def test_every_kind_of_release_has_words_a_line_and_an_explanation(kind):
    assert term(kind, "zh") != kind
    assert STYLES[kind] in resources.files("shared.audit").joinpath("style.css").read_text("utf-8")
    assert kind in explain.RELEASES
    assert kind in ORDER


def test_a_check_without_a_sentence_is_a_fault_of_ours():
    with pytest.raises(RuntimeError, match=r"sentences.toml has nothing for no-such-check, pass"):
        sentence(Finding(1, "no-such-check", "pass"), "en")
    with pytest.raises(RuntimeError, match=r"words.toml has nothing for page, no-such-word"):
        word("page", "no-such-word")


def test_a_text_is_read_in_one_language():
    text = Text("run", "运行")
    assert [text.of(language) for language in LANGUAGES] == ["run", "运行"]
