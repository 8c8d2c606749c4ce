"""Progress for whoever waits: sentences, a live table of rounds, and loggers for whoever compares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

from server.rows import Row
from shared.errors import ConfigError
from simulations.report.wording import upper
from simulations.run import Screen

KEPT: Final = 12  # rows of the live table
METRICS: Final = ("recall@20", "ndcg@10", "coverage@20", "gini@20")


@contextmanager
def open_screen(
    *, quiet: bool, folder: Path | None = None, tensorboard: bool = False, wandb: bool = False
) -> Iterator[Screen]:
    """A screen; quiet ones say nothing. Loggers get every row.

    Raises:
        ConfigError: a logger that is not installed.
    """
    console = Console(stderr=True, highlight=False)
    rows: list[Row] = []
    with ExitStack() as stack:
        loggers: list[Callable[[Row], None]] = []
        if tensorboard and folder is not None:
            loggers.append(_tensorboard(folder, stack))
        if wandb and folder is not None:
            loggers.append(_wandb(folder, stack))
        live: Live | None = None

        def say(sentence: str) -> None:
            if not quiet:
                console.print(sentence, soft_wrap=True, markup=False)

        def tell(row: Row, total: int) -> None:
            nonlocal live
            rows.append(row)
            for logger in loggers:
                logger(row)
            if quiet:
                return
            if live is None:
                if not console.is_terminal:
                    stack.callback(console.print)  # the last frame of a table in a file has no line end of its own
                live = stack.enter_context(Live(console=console, refresh_per_second=4))
            live.update(_rounds_table(rows[-KEPT:], total))

        yield Screen(say, tell)


def result_table(summary: Row, folder: Path) -> None:
    """The end of a run for a person: quality beside its yardsticks, then privacy, cost, and why it ended early."""
    console = Console(highlight=False)
    columns = METRICS
    published = summary["test_reading_train"]
    table = Table(
        title=f"{summary['preset']}, split {summary['split']}, seed {summary['seed']}, "
        f"test items {summary['asked']}".rstrip()
        + " (oracle)",
        caption="Devices and yardsticks read train and validation rows; reading train rows only, as published: "
        f"recall@20 {published['recall@20']:.4f}, ndcg@10 {published['ndcg@10']:.4f}.",
    )
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_row("this run", *(_number(summary["test"].get(column)) for column in columns), style="bold")
    for name, values in summary["baselines"].items():
        table.add_row(name, *(_number(values.get(column)) for column in columns))
    console.print(table)
    console.print(privacy_sentence(summary), soft_wrap=True)
    if "trending" in summary:
        console.print(trending_sentence(summary["trending"]), soft_wrap=True)
    console.print(
        f"{summary['stopped']} after {summary['rounds_done']} of {summary['rounds']} rounds; "
        f"{summary['wall_seconds']:.0f} s, {summary['client_updates_per_second']:.0f} client updates/s, "
        f"peak memory {summary['peak_rss_mb']:.0f} MB; text vectors {_encoder(summary)}; "
        f"secure aggregation {summary['secure_aggregation']}",
        soft_wrap=True,
    )
    if summary["stopped"] == "budget exhausted":
        console.print(exhausted_sentence(summary, folder), soft_wrap=True, markup=False)


def trending_sentence(trending: Row) -> str:
    """How the private lists of what is trending compare with the truth."""
    lists = ", ".join(str(one["listed"]) for one in trending["refreshes"]) or "none"
    return (
        f"trending on {trending['day']} (window {trending['window_days']} days, {trending['people']} people came to "
        f"something, {trending['people_of_item_20']} to the 20th item): precision@20 "
        f"{_number(trending['precision@20'], 3)}, recall@20 {_number(trending['recall@20'], 3)} against the oracle, "
        f"means over refreshes (all-time popularity, oracle: {_number(trending['popularity_precision@20'], 3)}); items "
        f"listed: {lists}"
    )


def exhausted_sentence(summary: Row, folder: Path) -> str:
    """What a used up budget means, and what goes on."""
    model = summary["model"]
    return (
        f"The privacy budget is used up: after {summary['rounds_done']} of {summary['rounds']} rounds too few clients "
        f"have a participation left, so nobody is asked again; the model of round {model['round']} ({model['chosen']}) "
        f"and its policy, now frozen, are kept, and clients go on recommending: fedrecall-sim recommend {folder} "
        "--user ID"
    )


def _encoder(summary: Row) -> str:
    name = str(summary["text_encoder"])
    return "NONE: group text repeats the TF-IDF vectors" if name == "none" else name


def privacy_sentence(summary: Row) -> str:
    """Epsilon with everything that qualifies it; bounds are rounded up."""
    if summary["epsilon"] is None:
        return "NO DIFFERENTIAL PRIVACY: this run protects nobody."
    claims = {name: upper(value) for name, value in summary["epsilon_claims"].items()}
    alone = summary["epsilon_if_others_collude"]
    left = "" if alone is None else f", {math.ceil(alone)} if everybody else colludes"
    if summary["secure_aggregation"].startswith("ideal"):
        left += "; sums not masked in this simulation"
    if summary["epsilon_claims"]["recipients_amplified"] is not None:
        left = f"; {claims['recipients_amplified']} for recipients who see neither cohorts nor their sizes" + left
    who = f"against everyone {claims['everyone']}, recipients {claims['recipients']}, server {claims['server']}{left}"
    return (
        f"epsilon {upper(summary['epsilon'])} per {summary['unit']} (adjacency {summary['adjacency']}, "
        f"trust {summary['trust']}, delta {summary['delta']:g}; {who}); {summary['accountant']}; tuning not covered."
    )


def _rounds_table(rows: list[Row], total: int) -> Table:
    title = f"round {rows[-1]['round']} of {total}; estimates are private, oracle values simulation only"
    table = Table(title=title, box=SIMPLE, padding=0)
    for name in ("round", "answers", "s", "recall", "oracle", "eff. cov.", "oracle", "epsilon"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("policy", no_wrap=True)
    for row in rows:
        estimate, oracle, k = row["estimate"] or {}, row["oracle"] or {}, row["policy"]["k"]
        epsilon = row["epsilon"]
        table.add_row(
            str(row["round"]),
            str(row["cohort"]["answered"]),
            f"{row['seconds']:.1f}",
            _bar(estimate.get(f"recall@{k}")),
            _number(oracle.get(f"recall@{k}"), 3, ""),
            _bar(estimate.get(f"effective_coverage@{k}")),
            _number(oracle.get(f"effective_coverage@{k}"), 3, ""),
            "none" if epsilon is None else _number(epsilon["everyone"] or epsilon["recipients"], 2),
            f"v{row['policy']['version']}" + ("" if row["decision"] == "none" else f" {row['decision']}"),
        )
    return table


def _bar(estimate: Row | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate['value']:.3f} ±{(estimate['high'] - estimate['low']) / 2:.3f}"


def _number(value: float | None, digits: int = 4, missing: str = "-") -> str:
    return missing if value is None else f"{value:.{digits}f}"


def _flat(row: Row) -> dict[str, float]:
    """Scalars of a row under names that keep estimates and oracle values apart."""
    out = {"seconds": float(row["seconds"]), "policy/version": float(row["policy"]["version"])}
    for name, value in (row["estimate"] or {}).items():
        if isinstance(value, dict):  # shadows are a list
            out[f"estimate/{name}"] = value["value"]
    for name, value in (row["oracle"] or {}).items():
        out[f"oracle/{name}"] = value
    if row["epsilon"] is not None:
        out["privacy/epsilon"] = row["epsilon"]["everyone"] or row["epsilon"]["recipients"]
    return out


def _tensorboard(folder: Path, stack: ExitStack) -> Callable[[Row], None]:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - heavy

    writer: list[Any] = []

    def log(row: Row) -> None:
        if not writer:  # opened with the first row: before, the run's folder must be empty
            writer.append(SummaryWriter(str(folder / "tensorboard")))
            stack.callback(writer[0].close)
        for name, value in _flat(row).items():
            writer[0].add_scalar(name, value, row["round"])

    return log


def _wandb(folder: Path, stack: ExitStack) -> Callable[[Row], None]:
    try:
        import wandb  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("--wandb: not installed; pip install 'fedrecall[wandb]'") from error
    run = wandb.init(project="fedrecall", name=folder.name)
    stack.callback(run.finish)
    return lambda row: run.log(_flat(row), step=row["round"])
