"""``fedrecall-audit``: the auditor's command. Only this file prints, reads arguments and sets exit codes.

Needs neither torch nor flwr, no data and no model: ledgers, keys and the plan in them are enough.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from shared.audit.findings import CLAUSES, EXIT_CODES, Finding, Place, worst
from shared.errors import ConfigError, LedgerError
from shared.terminal import PlainCommand, run_commands

if TYPE_CHECKING:
    from shared.audit.verify import Report

Language = Literal["en", "zh"]

MARKS: Final = {"pass": "pass", "fail": "FAIL", "cannot tell": "cannot tell"}
MARKS_ZH: Final = {"pass": "通过", "fail": "不通过", "cannot tell": "无法判断"}


app: Final = typer.Typer(
    name="fedrecall-audit",
    help="Check what the ledgers of a run or a deployment prove of its privacy claim.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Subject = Annotated[Path, typer.Argument(metavar="RUN|LEDGER", help="A run's folder, or one ledger of it.")]
Clients = Annotated[
    Path | None,
    typer.Option("--client-ledgers", metavar="DIR", help="Clients' ledgers, *.jsonl in it or in its folders."),
]
Keys = Annotated[
    Path | None,
    typer.Option("--keys", metavar="FILE", help="Whose keys are whose, TOML or JSON: server and a table clients."),
]
NoEmpirical = Annotated[
    bool, typer.Option("--no-empirical", help="Leave clause 9 out instead of asking for attack.json.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only the result.")]


@app.command("verify", cls=PlainCommand)
def verify_command(
    subject: Subject,
    client_ledgers: Clients = None,
    keys: Keys = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write audit.html, to be signed, and audit.json there.")
    ] = None,
    no_empirical: NoEmpirical = False,
    clause: Annotated[
        list[int] | None,
        typer.Option("--clause", metavar="N", help="Show this clause alone; may be repeated.", min=1, max=12),
    ] = None,
    language: Annotated[str, typer.Option("--language", help="Of the sentences: en or zh.")] = "en",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Audit a run: twelve clauses, each pass, fail or cannot tell. Exit code 0 pass, 3 fail, 4 cannot tell."""
    spoken = _language(language)
    told = _told(quiet=quiet or as_json)
    command = _command(subject, client_ledgers, keys, no_empirical=no_empirical)
    report = _audited(subject, client_ledgers, keys, told, command, empirical=not no_empirical)
    written = None
    if out is not None:
        from shared.audit.page import write_page  # noqa: PLC0415 - jinja2 comes with the extra

        written = write_page(report, out)
    if as_json:
        from shared.audit.page import report_json  # noqa: PLC0415 - as above

        typer.echo(report_json(report))
    else:
        for sentence in _lines(report, tuple(clause or CLAUSES), spoken):
            typer.echo(sentence)
        for path in written or ():
            typer.echo(f"Written: {path}")
    raise typer.Exit(_exit_code(report, tuple(clause or ())))


@app.command("diff", cls=PlainCommand)
def diff_command(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run's folder, or one ledger of it.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    no_empirical: NoEmpirical = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Audit two runs and print the clauses, checks and numbers in which they differ."""
    from shared.audit.diff import diff  # noqa: PLC0415 - numpy waits until the arguments are right

    told = _told(quiet=quiet or as_json)
    reports = [_audited(path, None, None, told, "", empirical=not no_empirical) for path in (a, b)]
    differences = diff(*reports)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in differences], ensure_ascii=False))
        return
    if not differences:
        typer.echo("No difference in any clause, check or number.")
        return
    typer.echo(f"A: {_clean(str(a))}\nB: {_clean(str(b))}")
    for one in differences:
        typer.echo(f"{one.what}: {_clean(_value(one.a))} | {_clean(_value(one.b))}")


@app.command("explain", cls=PlainCommand)
def explain_command(
    entry: Annotated[str, typer.Argument(metavar="LEDGER:LINE", help="For instance runs/1/ledger.jsonl:12.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the entry itself, as it stands there.")] = False,
) -> None:
    """Say one entry of a ledger in words, and whether the chain holds up to it."""
    from shared.audit.explain import explain  # noqa: PLC0415 - as above

    path, number = _place(entry)
    event, broken = _entry(path, number)
    if as_json:
        typer.echo(json.dumps(event))
        return
    typer.echo(explain(number, event))
    whole = f"Not proven: {_clean(broken)}" if broken else f"The chain holds from line 1 to line {number}."
    typer.echo(whole)


def main() -> None:
    """Entry point."""
    run_commands(app, dict.fromkeys(("dp_accounting", "jinja2", "prv_accountant", "scipy"), "audit"))


def _audited(
    subject: Path,
    client_ledgers: Path | None,
    keys: Path | None,
    tell: Callable[[str], None],
    command: str,
    *,
    empirical: bool,
) -> Report:
    from shared.audit.reading import read_evidence  # noqa: PLC0415 - numpy waits until the arguments are right
    from shared.audit.verify import verify  # noqa: PLC0415 - as above

    evidence = read_evidence(subject, client_ledgers=client_ledgers, keys=keys, empirical=empirical, tell=tell)
    return verify(evidence, subject=str(subject), command=command)


def _command(subject: Path, client_ledgers: Path | None, keys: Path | None, *, no_empirical: bool) -> str:
    """What to type to see the same again."""
    options = [("--client-ledgers", client_ledgers), ("--keys", keys)]
    parts = ["fedrecall-audit", "verify", str(subject)]
    parts += [part for name, value in options if value is not None for part in (name, str(value))]
    return shlex.join([*parts, *(["--no-empirical"] if no_empirical else [])])


def _lines(report: Report, clauses: tuple[int, ...], language: Language) -> Iterator[str]:
    """The report for a terminal: verdict, clauses, what is not covered."""
    from shared.audit.texts import clause_title, sentence, uncovered  # noqa: PLC0415 - reads its sentences when imported
    from shared.audit.verify import BEYOND  # noqa: PLC0415 - numpy waits until the arguments are right

    marks = MARKS if language == "en" else MARKS_ZH
    yield f"{marks[report.outcome]}: {_clean(sentence(report.verdict, language))}"
    for clause in clauses:
        outcome = report.outcomes.get(clause)
        if clause == report.verdict.clause or outcome is None:
            continue
        yield f"\n{clause}. {clause_title(clause, language)}: {marks[outcome]}"
        for finding in report.of(clause):
            mark = "-" if finding.check in BEYOND else marks[finding.outcome]
            yield f"   {mark}: {_clean(sentence(finding, language))}{_where(finding)}"
    if len(clauses) == len(CLAUSES):
        yield "\n未涵盖：" if language == "zh" else "\nNot covered:"
        yield from (f"   - {_clean(uncovered(key, language))}" for key in report.not_covered)
    yield f"\n{report.command}"


def _where(finding: Finding) -> str:
    """The evidence of whatever does not pass, as ``explain`` takes it."""
    if finding.outcome == "pass":
        return ""
    places = "; ".join(_spelled(place) for place in finding.places[:3])
    return f" [{places}]" if places else ""


def _spelled(place: Place) -> str:
    lines = ", ".join(map(str, place.lines))
    return _clean(f"{place.file}:{lines}" if lines else place.file)


def _exit_code(report: Report, clauses: tuple[int, ...]) -> int:
    """Of the clauses that were asked for; of the whole audit if none was."""
    if not clauses:
        return report.exit_code
    return EXIT_CODES[worst(report.outcomes[clause] for clause in clauses if clause in report.outcomes)]


def _place(entry: str) -> tuple[Path, int]:
    path, _, number = entry.rpartition(":")
    if not path or not number.isdecimal() or len(number) > 9 or int(number) == 0:
        raise ConfigError(f"{entry!r}: expected LEDGER:LINE, for instance runs/1/ledger.jsonl:12")
    return Path(path), int(number)


def _entry(path: Path, number: int) -> tuple[dict[str, object], str | None]:
    """The event at a line, and why the chain does not hold up to it; None = it does.

    Raises:
        LedgerError: no such line, or nothing that can be read there.
    """
    from shared.audit.logs import check_file  # noqa: PLC0415 - numpy waits until the arguments are right
    from shared.privacy.chain import raw_lines, read_ledger  # noqa: PLC0415 - as above

    check_file(path)
    broken = None
    try:
        for line in read_ledger(path):
            if line.number == number:
                return line.event, None
    except LedgerError as error:
        broken = str(error)
    raw = next(islice(raw_lines(path), number - 1, None), None)
    if raw is None:
        raise LedgerError(f"{path}: has no line {number}")
    try:
        event = json.loads(raw)["event"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise LedgerError(f"{path}:{number}: not a ledger line") from error
    if not isinstance(event, dict):
        raise LedgerError(f"{path}:{number}: not a ledger line")
    return event, broken


def _language(name: str) -> Language:
    if name == "en":
        return "en"
    if name == "zh":
        return "zh"
    raise ConfigError(f"--language {name!r}: must be en or zh")


def _told(*, quiet: bool) -> Callable[[str], None]:
    """Progress, to standard error."""
    return (lambda _sentence: None) if quiet else lambda sentence: typer.echo(_clean(sentence), err=True)


def _value(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _clean(text: str) -> str:
    """Printable characters alone: a ledger's words may hold what a terminal obeys."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


if __name__ == "__main__":
    main()
