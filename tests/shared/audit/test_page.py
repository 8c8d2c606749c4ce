"""The page of an audit: one file, two languages, every finding with its evidence, nothing of a ledger obeyed."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import stat
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest

from shared.audit.findings import CLAUSES, Finding, Place
from shared.audit.page import render, report_json, write_page
from shared.audit.texts import clause_title, sentence, uncovered, words
from shared.audit.verify import verify
from shared.errors import RunError

VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = '"><script>alert(1)</script>{{ 7 * 7 }}'
ATTACK = {
    "format": 1,
    "canaries": {
        "confidence": 0.95,
        "bounds": [
            {
                "method": "steinke-2023",
                "view": "all rounds",
                "epsilon": 2.449,
                "guesses": 1000,
                "right": 893,
                "power_cap": 5.81,
            },
            {"method": "mahloujifar-2024", "view": "final model", "epsilon": 0.5, "power_cap": 5.8, "assumes": HOSTILE},
        ],
        "estimates": [{"method": "gdp", "view": "all rounds", "epsilon": 7.1}],
    },
    "imia": {"modes": [{"mode": "distributed", "advantage": 0.04, "low": -0.01, "high": 0.1, "implied": 0.4}]},
}


class Page(HTMLParser):
    """Tags, attributes and the words of each language; an unclosed or wrongly nested tag is an error."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self._open = [], [], []
        self.words = {"en": [], "zh": []}
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("class")))

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        inside = {name for name, _ in self._open}, {style for _, style in self._open}
        if inside[0] & {"style", "script", "title"}:
            return
        for language, other in (("en", "zh"), ("zh", "en")):
            if other not in inside[1]:
                self.words[language].append(data)

    def text(self, language):
        return " ".join("".join(self.words[language]).split())

    def values(self, name):
        return [value for _, key, value in self.attributes if key == name]


@cache
def audit(make):
    return verify(make(), subject="runs/1", command="fedrecall-audit verify runs/1")


@pytest.fixture
def report(made):
    return audit(made)


@pytest.fixture
def attacked(report):
    return replace(report, attack=ATTACK)


def page(report):
    return Page(render(report))


# --- one file


def test_the_page_loads_nothing_and_runs_only_its_own_button(attacked):
    text = render(attacked)
    parsed = Page(text)
    assert {"link", "img", "iframe", "object"} & set(parsed.tags) == set()
    assert parsed.tags.count("script") == 1
    assert [v for _, n, v in parsed.attributes if n in {"href", "src"} and not v.startswith("#")] == []
    assert [n for _, n, _ in parsed.attributes if n.startswith("on")] == []
    assert set(re.findall(r"https?://[^\s\"<]+", text)) == {"http" + "://www.w3.org/2000/svg"}
    assert "@import" not in text
    assert "url(" not in text


def test_its_policy_allows_that_script_by_its_hash_and_nothing_from_the_network(report):
    text = render(report)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        f"default-src &#39;none&#39;; style-src &#39;unsafe-inline&#39;; script-src &#39;sha256-{digest}&#39;" in text
    )


def test_the_same_report_is_the_same_page(report):
    assert render(report) == render(report)


def test_both_files_are_written_whole(report, tmp_path):
    html, machine = write_page(report, tmp_path / "new" / "folder")
    assert (html.name, machine.name) == ("audit.html", "audit.json")
    assert html.read_text("utf-8") == render(report)
    assert json.loads(machine.read_text("utf-8"))["run"] == "r"
    assert {path.name for path in html.parent.iterdir()} == {"audit.html", "audit.json"}


def test_a_folder_that_cannot_be_written_is_one_sentence(report, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RunError, match=r"file: cannot be written .*--out takes a folder of yours"):
        write_page(report, blocked)


# --- what it says


def test_the_verdict_stands_first_in_one_sentence(report):
    for language in ("en", "zh"):
        text = page(report).text(language)
        said = " ".join(sentence(report.verdict, language).split())
        assert text.index(said) < text.index(clause_title(1, language))
        assert text[text.index(said) :].startswith(said)


def test_every_finding_stands_in_both_languages_with_its_evidence(report):
    parsed = page(report)
    for finding in report.findings:
        assert " ".join(sentence(finding, "en").split()) in parsed.text("en")
        assert " ".join(sentence(finding, "zh").split()) in parsed.text("zh")
        for place in finding.places:
            numbers = ", ".join(map(str, place.lines))
            named = f", line{'s' if len(place.lines) > 1 else ''} {numbers}" if numbers else ""
            assert f"{place.file}{named}" in parsed.text("en")
            assert not numbers or f"{place.file}，第 {numbers} 行" in parsed.text("zh")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_all_twelve_clauses_stand_there_and_lead_to_their_sections(report, language):
    parsed = page(report)
    for clause in CLAUSES:
        assert clause_title(clause, language) in parsed.text(language)
        assert f"#clause-{clause}" in parsed.values("href")
    assert {v[1:] for v in parsed.values("href")} <= set(parsed.values("id"))
    assert len(parsed.values("id")) == len(set(parsed.values("id")))


def test_each_clause_names_the_command_that_shows_it_again(report):
    text = page(report).text("en")
    assert all(f"fedrecall-audit verify runs/1 --clause {clause}" in text for clause in CLAUSES if clause != 11)


def test_what_failed_names_the_line_and_how_to_have_it_said_in_words(report):
    place = Place("ledger.jsonl", (3, 5))
    bad = Finding(5, "cohort-survivors", "fail", {"survivors": 30, "smallest": 100, "count": 2}, (place,))
    text = page(replace(report, findings=(bad,), outcomes={5: "fail"})).text("en")
    assert "ledger.jsonl, lines 3, 5" in text
    assert "fedrecall-audit explain runs/1/ledger.jsonl:3" in text


def test_a_ledger_given_by_itself_is_explained_by_its_own_name(report):
    bad = Finding(7, "chain-server", "fail", {"line": 3, "why": "edited"}, (Place("some folder/ledger.jsonl", (3,)),))
    shown = replace(report, subject="some folder/ledger.jsonl", findings=(bad,))
    assert "fedrecall-audit explain 'some folder/ledger.jsonl:3'" in page(shown).text("en")


def test_a_clause_left_out_is_said_to_be(made):
    report = verify(replace(made(), empirical=False), subject="runs/1", command="fedrecall-audit verify runs/1")
    assert "Left out on request." in page(report).text("en")
    assert "应要求略去。" in page(report).text("zh")


def test_what_no_ledger_can_show_is_left_to_the_reader_and_not_counted(report):
    text = page(report).text("en")
    assert "for you to judge How long clients take to answer" in text
    assert "12. For the officer cannot tell 4 for you to judge" in text


def test_what_is_not_covered_is_listed_and_every_word_explained(report):
    for language in ("en", "zh"):
        text = page(report).text(language)
        assert all(uncovered(key, language) in text for key in report.not_covered)
        assert all(meaning.of(language) in text for meaning in words("explained").values())


def test_there_is_a_box_to_sign(report):
    parsed = page(report)
    labels = {value for tag, name, value in parsed.attributes if (tag, name) == ("label", "for")}
    fields = {v for t, n, v in parsed.attributes if t in {"input", "textarea"} and n == "id"}
    assert (
        labels == fields == {f"f-{n}" for n in ("purpose", "retention", "deletion", "remarks", "name", "role", "date")}
    )
    assert "Signature" in parsed.text("en")


def test_epsilon_spend_and_attack_are_drawn_in_both_languages(attacked):
    text = render(attacked)
    labels = re.findall(r'<svg class="chart" role="img" aria-label="([^"]+)"', text)
    assert len(labels) == 8
    assert sum("epsilon" in label or "advantage" in label for label in labels[::2]) == 4
    assert "声明" in labels[1]


def test_bounds_stand_beside_guesses_cap_and_confidence_and_never_flatter(attacked):
    text = page(attacked).text("en")
    assert "Steinke et al. 2023, seeing all rounds 2.44 5.81 893 / 1000 95% -" in text
    assert "estimate, no bound" in text


def test_an_attack_that_cannot_fail_the_claim_is_said_to_be_weak_beside_its_chart(attacked):
    weak = Finding(9, "power-below", "pass", {"cap": 5.81, "claimed": 8.0})
    text = page(replace(attacked, findings=(weak,))).text("en")
    assert sentence(weak, "en") in text[text.index("Empirical against claimed") :]
    assert "this check cannot fail" not in page(replace(attacked, findings=())).text("en")


def test_without_an_attack_the_page_says_that_there_is_none(report):
    assert "There is no empirical check, or it was left out." in page(report).text("en")


def test_without_any_ledger_that_tells_the_page_still_stands(report):
    empty = replace(
        report, plan=None, findings=(), outcomes={}, claimed=None, delta=None, recomputed=None, spend=None, command=""
    )
    text = page(replace(empty, epsilon_over_time=(), not_covered=(), files=(), attack=None, subject="")).text("en")
    assert "No ledger tells what persons spent." in text
    assert "The evidence does not tell what was spent over time." in text


def test_many_ledgers_are_counted_rather_than_named(report):
    files = tuple((f"{number}.jsonl", 10) for number in range(1_000))
    assert "4.jsonl: 10 lines; and 995 ledgers more: 9,950 lines" in page(replace(report, files=files)).text("en")


# --- language


def test_the_language_is_switched_by_a_button_without_loading_anything(report):
    text = render(report)
    assert '<button id="switch" type="button" hidden>' in text
    assert 'html[data-language="en"] .zh, html[data-language="zh"] .en { display: none; }' in text
    assert "addEventListener" in text
    assert "location.href" not in text


def test_without_scripts_both_languages_show(report):
    assert "<noscript><style>.zh { display: revert !important; }</style></noscript>" in render(report)


def test_every_piece_of_either_language_says_which_it_is(report):
    text = render(report)
    assert set(re.findall(r'class="zh" lang="([^"]+)"', text)) == {"zh-CN", "en"}  # the button names the other language
    assert len(re.findall(r'class="en" lang="en"', text)) > 100


# --- hostile


def test_nothing_that_a_ledger_says_is_obeyed(attacked):
    place = Place(HOSTILE, (1,))
    bad = Finding(7, "chain-server", "fail", {"line": 1, "why": HOSTILE}, (place,))
    shown = replace(attacked, subject=HOSTILE, command=HOSTILE, run=HOSTILE, findings=(bad,), files=((HOSTILE, 1),))
    spend = replace(shown.spend, refusals={HOSTILE: 3})
    text = render(replace(shown, spend=spend))
    assert "<script>alert" not in text
    assert "49" not in re.findall(r"</script>(\d+)", text)
    assert Page(text).tags.count("script") == 1


@pytest.mark.parametrize(
    "attack",
    [
        {},
        {"canaries": None, "imia": 3},
        {"canaries": {"bounds": 7, "estimates": [3, None]}},
        {"canaries": {"bounds": [{"epsilon": math.nan}, {"epsilon": "8"}, {"epsilon": True}, {"epsilon": 10**400}]}},
        {"canaries": {"bounds": [{"epsilon": -1, "power_cap": -5, "method": ["x"], "right": {}}]}},
        {"canaries": {"bounds": [{"epsilon": 1.0}] * 10_000}},
        {"imia": {"modes": [{"mode": None, "advantage": 2, "low": -9, "high": 99, "implied": "x"}]}},
    ],
)
def test_an_attack_file_of_any_content_makes_a_page(report, attack):
    text = render(replace(report, attack=attack))
    assert len(text) < 2_000_000
    assert "nan" not in "".join(re.findall(r'd="([^"]*)"', text))


def test_a_surrogate_in_a_name_is_written_as_a_question_mark(report, tmp_path):
    html, machine = write_page(replace(report, subject="runs/\udcff"), tmp_path)
    assert "runs/?" in html.read_text("utf-8")
    json.loads(machine.read_text("utf-8"))


# --- for a machine


def test_the_json_says_what_the_page_says(attacked):
    told = json.loads(report_json(attacked))
    assert (told["outcome"], told["exit_code"]) == (attacked.outcome, attacked.exit_code)
    assert [clause["clause"] for clause in told["clauses"]] == list(CLAUSES)
    findings = [finding for clause in told["clauses"] for finding in clause["findings"]]
    assert len(findings) == len(attacked.findings) + 1
    assert all(set(finding["text"]) == {"en", "zh"} for finding in findings)
    assert {"check", "outcome", "values", "places", "explain", "beyond_ledgers"} <= set(findings[0])
    assert told["claim"] == {"epsilon": attacked.claimed, "delta": 1e-5, "recomputed": attacked.recomputed}
    assert told["plan"]["adjacency"] == "zero-out"
    assert told["spend"]["persons"] == 10
    assert told["attack"]["canaries"]["bounds"][0]["epsilon"] == 2.449


def test_the_json_holds_no_number_that_json_does_not_know(report):
    text = report_json(replace(report, claimed=math.inf, recomputed=math.nan))
    told = json.loads(text, parse_constant=pytest.fail)
    assert told["claim"]["epsilon"] == "Infinity"
    assert told["claim"]["recomputed"] == "NaN"


def test_the_page_is_readable_by_its_owner(report, tmp_path):
    html, _ = write_page(report, tmp_path)
    assert html.stat().st_mode & stat.S_IRUSR
