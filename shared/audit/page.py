"""What an audit leaves behind: ``audit.html``, one file without network, to be read, printed, signed; ``audit.json``.

The page carries both languages and shows one; a button changes it. A policy in its head forbids it to load anything and
to run any script but that button's.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from shared.audit import figures, texts, views
from shared.audit.texts import LANGUAGES, Text
from shared.audit.verify import Report
from shared.errors import RunError
from shared.files import write_atomically
from shared.privacy.plan import ADJACENCY, plan_to_dict

PAGE: Final = "audit.html"
MACHINE: Final = "audit.json"
FORMAT: Final = 1
_FILES: Final = ("page.html.jinja", "style.css", "switch.js")


def write_page(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write the page and the JSON into a folder, each whole or not at all; the folder is made.

    Returns:
        The paths of both.

    Raises:
        RunError: they cannot be written there.
    """
    paths = folder / PAGE, folder / MACHINE
    try:
        for path, content in zip(paths, (render(report), report_json(report) + "\n"), strict=True):
            write_atomically(path, content.encode("utf-8", errors="replace"))
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); --out takes a folder of yours") from error
    return paths


def render(report: Report) -> str:
    """The page: the same bytes for the same report."""
    made = {
        figure.__name__: {language: figure(report, language) for language in LANGUAGES}
        for figure in (figures.over_time, figures.spending, figures.empirical, figures.membership)
    }
    template = _environment().get_template("page.html.jinja")
    return template.render(
        report=report,
        verdict=texts.both(report.verdict),
        facts=views.facts(report),
        files=views.files(report),
        clauses=views.clauses(report),
        figures=made,
        weak=[texts.both(finding) for finding in report.findings if finding.check == "power-below"],
        not_covered=[texts.word("uncovered", key) for key in report.not_covered],
        glossary=list(zip(texts.words("glossary").values(), texts.words("explained").values(), strict=True)),
        script=Markup(_source("switch.js")),  # noqa: S704 - our own file
        policy=_policy(),
        attack_again=shlex.join(["fedrecall-sim", "attack", report.subject]) if report.subject else "",
        languages=LANGUAGES,
    )


def report_json(report: Report) -> str:
    """The same for a machine; numbers that JSON does not know are words ("NaN", "Infinity")."""
    plan = None if report.plan is None else {**plan_to_dict(report.plan), "adjacency": ADJACENCY}
    content = {
        "format": FORMAT,
        "subject": report.subject,
        "command": report.command,
        "run": report.run,
        "standing": report.standing,
        "outcome": report.outcome,
        "exit_code": report.exit_code,
        "verdict": {"values": dict(report.verdict.values), "text": asdict(texts.both(report.verdict))},
        "claim": {"epsilon": report.claimed, "delta": report.delta, "recomputed": report.recomputed},
        "plan": plan,
        "clauses": [_clause(view) for view in views.clauses(report)],
        "epsilon_over_time": [asdict(curve) for curve in report.epsilon_over_time],
        "spend": None if report.spend is None else asdict(report.spend),
        "not_covered": [{"key": key, "text": asdict(texts.word("uncovered", key))} for key in report.not_covered],
        "attack": report.attack,
        "files": [{"file": file, "lines": lines} for file, lines in report.files],
        "version": report.version,
    }
    return json.dumps(_plain(content), ensure_ascii=False, indent=1, allow_nan=False)


def _clause(view: views.ClauseView) -> dict[str, Any]:
    return {
        "clause": view.number,
        "name": view.name,
        "title": asdict(view.title),
        "outcome": view.outcome,
        "command": view.command,
        "findings": [
            {
                "check": one.finding.check,
                "outcome": one.outcome,
                "beyond_ledgers": one.beyond,
                "values": dict(one.finding.values),
                "places": [asdict(place) for place in one.finding.places],
                "explain": one.explain,
                "text": asdict(one.said),
            }
            for one in view.findings
        ],
    }


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


@lru_cache
def _environment() -> Environment:
    sources = {name: _source(name) for name in _FILES}
    page = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page.filters |= {"two": _two, "up": views.upper}
    page.globals |= {"w": lambda key, **values: texts.word("page", key, **values), "word": texts.word}
    return page


def _two(text: Text) -> Markup:
    """Both languages; the style sheet shows one. A text that is the same in both stands once."""
    if text.en == text.zh:
        return Markup("{}").format(text.en)
    return Markup('<span class="en" lang="en">{}</span><span class="zh" lang="zh-CN">{}</span>').format(
        text.en, text.zh
    )


def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(_source("switch.js").encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


@lru_cache
def _source(name: str) -> str:
    return resources.files("shared.audit").joinpath(name).read_text(encoding="utf-8")
