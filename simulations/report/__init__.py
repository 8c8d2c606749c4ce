"""The page of one run: ``report.html``, a single file that needs no network, for whoever has to judge the run.

A researcher looks for the curves and the baselines, an operator for the policy's history and the cost, a privacy
officer for the claim and what it leaves out. The page keeps private estimates and oracle values apart everywhere, and
says on top that the folder of a simulation is itself not covered by epsilon.
"""

from __future__ import annotations

import os
import shlex
from importlib import metadata, resources
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined

from shared.errors import RunError
from simulations.report import figures, policies, tables, wording
from simulations.report.folder import Run, dig, read_run

REPORT = "report.html"


def write_report(folder: Path) -> Path:
    """Read the run folder and write ``report.html`` into it, atomically.

    Returns:
        The path of the page.

    Raises:
        RunError: the folder holds no run, a file in it does not parse (names ``file:line``), or it cannot be written.
    """
    page = render(read_run(folder))
    path = folder / REPORT
    draft = folder / f".{REPORT}.{os.getpid()}.tmp"
    try:
        with draft.open("w", encoding="utf-8") as out:
            out.write(page)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written ({error.strerror}); the run folder must be writable") from error
    return path


def render(run: Run) -> str:
    """Render the page: a pure function of the run's files and of the installed version."""
    columns, rows = tables.quality(run)
    claim = wording.privacy(run)
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            run=run,
            preset=_preset(run),
            status=_status(run),
            result=tables.result(run),
            tiles=tables.tiles(run),
            privacy=claim,
            columns=columns,
            rows=rows,
            curves=figures.curves(run, claim),
            metrics=figures.METRICS,
            measured=figures.measured(run),
            cannot_tell=figures.cannot_tell(run),
            versions=policies.versions(run),
            decisions=policies.decisions(run),
            proposal=policies.proposal(run),
            prices=policies.prices_now(run),
            scores=policies.scores(run),
            knobs=figures.knobs(run),
            budget=figures.budget(run),
            plane=figures.recall_coverage(run, tables.plane_points(run)),
            costs=tables.costs(run),
            facts=tables.facts(run),
            trending=tables.trending(run),
            people=tables.people(run),
            parts=tables.part_names(run),
            examples_absent=tables.examples_absent(run),
            licence=(run.summary or {}).get("licence"),
            quoted_folder=shlex.quote(run.folder.name),
            version=_installed(),
        )
    )


def _environment() -> Environment:
    files = resources.files(__package__ or "simulations.report")
    sources = {name: files.joinpath(name).read_text(encoding="utf-8") for name in ("page.html.jinja", "style.css")}
    page = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page.filters |= {"fixed": wording.fixed, "upper": wording.upper}
    return page


def _preset(run: Run) -> str:
    name = (run.summary or {}).get("preset") or run.config.get("preset")
    return name if isinstance(name, str) else run.folder.name


def _status(run: Run) -> str:
    """Say how the run stands; a folder without a summary is of a run that goes on or was killed."""
    if run.summary is None:
        return f"No summary yet: the run goes on or was interrupted after {_rounds(run)}"
    stopped = str(run.summary.get("stopped") or "not recorded")
    chosen, number = (dig(run.summary, "model", name) for name in ("chosen", "round"))
    kept = "" if chosen in (None, "last") else f"; the model is that of round {number}, the {chosen}"
    return f"{wording.STOPS.get(stopped, stopped)} after {_rounds(run)}{kept}"


def _rounds(run: Run) -> str:
    return "1 round" if len(run.rounds) == 1 else f"{len(run.rounds)} rounds"


def _installed() -> str:
    try:
        return metadata.version("fedrecall")
    except metadata.PackageNotFoundError:
        return "from a source tree"
