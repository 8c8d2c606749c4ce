"""The page of a run: says what the folder says and nothing more, shows nobody who is not public, always renders."""

from __future__ import annotations

import json
import re
import stat
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from shared.errors import RunError
from simulations.report import write_report

VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Tags, attributes and text; an unclosed or wrongly nested tag is an error."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self._open = [], [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not self._open or self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def svgs(folder):
    text = write_report(folder).read_text(encoding="utf-8")
    return [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]  # noqa: S314 - our own page


# --- one file, no network, no scripts -----------------------------------------------------------------------------


def test_the_page_loads_nothing_and_runs_nothing(run_folder):
    path = write_report(run_folder())
    text, parsed = path.read_text(encoding="utf-8"), Page(path.read_text(encoding="utf-8"))
    assert path.name == "report.html"
    assert {"script", "link", "img", "iframe", "object"} & set(parsed.tags) == set()
    assert [v for _, n, v in parsed.attributes if n in {"href", "src"} and not v.startswith("#")] == []
    assert [n for _, n, _ in parsed.attributes if n.startswith("on")] == []
    assert set(re.findall(r"https?://[^\s\"<]+", text)) == {"http" + "://www.w3.org/2000/svg"}
    assert "url(" not in text
    assert "@import" not in text


def test_every_link_leads_to_a_section_of_the_page(run_folder):
    attributes = page(run_folder()).attributes
    ids = {value for _, name, value in attributes if name == "id"}
    assert {value[1:] for _, name, value in attributes if name == "href"} <= ids


def test_headings_descend_one_level_at_a_time(run_folder):
    levels = [int(tag[1]) for tag in page(run_folder()).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_drawing_is_well_formed_and_says_in_words_what_it_shows(run_folder):
    drawn = svgs(run_folder())
    assert len(drawn) > 15
    for svg in drawn:
        assert svg.get("aria-hidden") == "true" or (svg.get("role") == "img" and svg.get("aria-label"))


def test_every_string_of_the_folder_is_escaped(run_folder):
    words = ("preset", "licence", "covers", "unit", "trust", "adjacency", "accountant", "secure_aggregation", "stopped")
    baseline = {HOSTILE: {"recall@20": 0.1, "coverage@20": 0.1, HOSTILE: 0.3}}
    folder = run_folder(
        changed=dict.fromkeys(words, HOSTILE) | {"not_covered": [HOSTILE], "baselines": baseline},
        each=lambda r: (
            r
            | {"decision": HOSTILE, "reason": HOSTILE, "cannot_tell": {HOSTILE: HOSTILE}}
            | {"policy": r["policy"] | {HOSTILE: r["round"], "features": [HOSTILE]}}
            | {"orders": [dict.fromkeys(("order", "who", "why", "outcome", "reason", "version"), HOSTILE)]}
            | {"pending": {"id": HOSTILE, "round": HOSTILE, "reason": HOSTILE, "policy": {HOSTILE: HOSTILE}}}
            | {"estimate": {"shadows": [{"value": 0.1, "low": 0.0, "high": 0.2}]}, "neighbours": [HOSTILE]}
            | {"epsilon": {"everyone": 1.0, "by_kind": {HOSTILE: 1.0}}}
        ),
    )
    one = {"title": HOSTILE, "score": 1, "parts": {HOSTILE: 1.0}, "because": HOSTILE}
    examples = [{"user": HOSTILE, "history": [HOSTILE], "recommendations": [one]}]
    (folder / "examples.json").write_text(json.dumps(examples), encoding="utf-8")
    with (folder / "config.toml").open("a", encoding="utf-8") as config:
        config.write(f"# {HOSTILE}\n")
    text = write_report(folder).read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 25


def test_the_same_folder_gives_the_same_bytes(run_folder):
    folder = run_folder()
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_the_templates_travel_with_the_package():
    shipped = {item.name for item in resources.files("simulations.report").iterdir()}
    assert {"page.html.jinja", "style.css"} <= shipped


# --- the claim ----------------------------------------------------------------------------------------------------


def test_masked_sums_need_no_excuse(run_folder):
    text = page(run_folder(changed={"secure_aggregation": "real: vectors are masked"})).text
    assert "Secure aggregation in this run: “real: vectors are masked”" in text
    assert "a deployment's, which masks its sums" not in text


def test_a_model_that_is_not_the_last_one_is_named_beside_the_reason(run_folder):
    model = {"round": 12, "chosen": "best private estimate", "why": "the run ended early", "estimate": None}
    text = page(run_folder(changed={"stopped": "budget exhausted", "model": model})).text
    assert "Stopped: budget exhausted after 40 rounds; the model is that of round 12, the best private estimate" in text
    assert "the model is that of round" not in page(run_folder("whole")).text


def test_an_epsilon_is_printed_with_unit_adjacency_trust_delta_and_accountant(run_folder):
    text = page(run_folder()).text
    for said in (
        "ε = 8.00 at δ = 1e-5; per user (a person's whole history); zero-out adjacency",
        "trust: distributed, each client adds a share of the noise",
        "each client in at most 40 rounds. Accountant: Gaussian PLD (dp-accounting 0.6)",
        "tuning not covered",
        "hyper-parameters were chosen on this data set's validation items",
        "Secure aggregation in this run: “ideal: added up without masks”",
        "What is claimed against the server is a deployment's, which masks its sums.",
        "the server, if every other client belongs to it 412.40",
        "This folder is a simulation's.",
        "The lines of the kinds do not add up to the total",
    ):
        assert said in text
    assert "No differential privacy" not in text


def test_without_privacy_a_loud_banner_stands_in_place_of_a_claim(run_folder):
    folder = run_folder(epsilon=None, changed={"baselines": {}})
    text = page(folder).text
    assert "No differential privacy" in text
    assert "ε = " not in text
    assert "private estimate and its interval" not in text
    assert "estimate, not private" in text


def test_event_level_protection_is_said_loudly(run_folder):
    text = page(run_folder(changed={"unit": "interaction", "trust": "local"})).text
    assert "Event-level protection only" in text
    assert "per interaction (one event of a person, not the person)" in text


@pytest.mark.parametrize(("covered", "badge"), [(True, "tuning covered"), (..., "tuning: not recorded")])
def test_it_says_whether_tuning_is_covered(run_folder, covered, badge):
    assert badge in page(run_folder(changed={"covers_tuning": covered})).text


# --- quality, policy, cost, examples ------------------------------------------------------------------------------


def test_examples_show_titles_reasons_and_the_parts_of_the_score(run_folder):
    text = page(run_folder()).text
    assert "1. Shine (1996)" in text
    assert "because you rated Kolya (1996) highly held-out item: a hit" in text
    assert "text +0.61, popularity +0.31, exposure -0.12" in text


@pytest.mark.parametrize(
    ("public", "reason"),
    [
        (False, "This data is not public, so no real person's examples are shown."),
        (..., "The summary does not say that this data is public"),
    ],
)
def test_nobody_of_data_that_is_not_public_is_shown_even_if_the_file_is_there(run_folder, public, reason):
    text = page(run_folder(changed={"public_data": public})).text
    assert reason in text
    assert "Shine (1996)" not in text
    assert "Kolya" not in text


def test_a_missing_examples_file_is_explained(run_folder):
    assert "written for public data only" in page(run_folder(examples=False)).text


def test_the_page_says_how_to_run_it_again(run_folder):
    text = page(run_folder("my run")).text
    assert "fedrecall-sim run config.toml" in text
    assert "fedrecall-sim compare 'my run' again" in text
    assert "learning_rate = 0.01" in text


# --- whatever is missing, there is a page -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {"rounds": 0, "summary": False, "examples": False},
        {"rounds": 1},
        {"rounds": 1, "epsilon": None},
        {"rounds": 12, "summary": False, "examples": False},
        {"rounds": 12, "summary": False, "epsilon": None},
    ],
)
def test_a_run_of_any_length_has_a_page(run_folder, how):
    assert "Reproduce" in page(run_folder(**how)).text


def test_an_interrupted_run_says_so_and_shows_what_it_spent(run_folder):
    text = page(run_folder(rounds=12, summary=False)).text
    assert "the run goes on or was interrupted after 12 rounds" in text
    assert "Spent so far: ε = 8.00" in text
    assert "test items are used once, when a run has ended" in text


def test_a_run_that_measured_nothing_says_so(run_folder):
    text = page(run_folder(each=lambda r: r | {"estimate": None, "oracle": None})).text
    assert "No round of this run was measured." in text


@pytest.mark.parametrize("shadows", [7, [7], [None], [{"value": 1}], [{"value": "x", "low": 0, "high": 1}]])
def test_scores_of_the_wrong_shape_are_missing_not_a_crash(run_folder, shadows):
    text = page(run_folder(rounds=2, each=lambda r: r | {"estimate": {"shadows": shadows}})).text
    assert "Neighbouring policies" not in text


@pytest.mark.parametrize("rubbish", [None, 7, "text", [], {}, float("nan"), [{"a": 1}], {"a": {"b": None}}])
def test_a_field_of_the_wrong_shape_is_missing_not_a_crash(run_folder, rubbish):
    summary = json.loads((run_folder("whole") / "summary.json").read_text(encoding="utf-8"))
    keys = (
        "policy",
        "decision",
        "reason",
        "estimate",
        "cannot_tell",
        "oracle",
        "epsilon",
        "orders",
        "pending",
        "neighbours",
        "cohort",
        "bytes",
        "seconds",
    )
    folder = run_folder(
        rounds=3,
        changed=dict.fromkeys(summary, rubbish) | {"public_data": True},
        each=lambda r: r | dict.fromkeys(keys, rubbish),
    )
    people = [{"user": rubbish, "history": rubbish, "recommendations": rubbish}]
    (folder / "examples.json").write_text(json.dumps(people), encoding="utf-8")
    assert "Reproduce" in page(folder).text


# --- writing ------------------------------------------------------------------------------------------------------


def test_a_page_that_cannot_be_written_leaves_the_old_one_and_no_draft(run_folder, monkeypatch):
    folder = run_folder()
    before = write_report(folder).read_bytes()
    (folder / "summary.json").unlink()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"report\.html cannot be written \(No space left on device\)"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before
    assert [path for path in folder.iterdir() if path.suffix == ".tmp"] == []


def test_the_page_can_be_read_by_those_who_may_read_the_folder(run_folder):
    folder = run_folder()
    mode = stat.S_IMODE(write_report(folder).stat().st_mode)
    assert mode == stat.S_IMODE((folder / "config.toml").stat().st_mode)
