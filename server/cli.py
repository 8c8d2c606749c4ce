"""``fedrecall-server``: the operator's command. Only this file and ``*_cli.py`` beside it print and set exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from server.catalogue_cli import catalogue_app
from server.enroll_cli import enroll_app
from server.operator_cli import AsJson, Source, TokenFile, ask_api, certificates_app, operator_app
from shared.printable import rounded_up
from shared.terminal import OK, PlainCommand, run_commands

if TYPE_CHECKING:
    from server.house import House

NOT_READY: Final = 1

app: Final = typer.Typer(
    name="fedrecall-server",
    help="Run a fedrecall server: set it up, let clients in, watch it, and decide about its policy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the server.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Your reason; it goes into the ledger.")]
Which = Annotated[
    str | None, typer.Option("--proposal", metavar="ID", help="Which proposal you saw; left out, the one that waits.")
]


@app.command("init", cls=PlainCommand)
def init_command(
    folder: Folder,
    address: Annotated[
        str, typer.Option("--address", metavar="HOST:PORT", help="Where devices reach the proxy.")
    ] = "localhost:8443",
    clients: Annotated[int, typer.Option("--clients", help="Clients that the plan is made for.", min=1)] = 10,
    items: Annotated[
        Path | None, typer.Option("--items", metavar="CSV", help="The first catalogue; see `catalogue import`.")
    ] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A configuration key.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set a server up: configuration, keys, certificates, and the plan and policy to be signed off."""
    from server.init import configured, init_house  # noqa: PLC0415 - heavy imports wait until the arguments are right
    from server.metrics import system_now  # noqa: PLC0415 - as above

    config, given = configured(address, clients, sets or [])
    if items is not None:
        from server.items import read_items  # noqa: PLC0415 - as above
        from server.stock_orders import import_items  # noqa: PLC0415 - as above

        read_items(items)  # a file that is broken is said before there is a server
    house = init_house(folder, config, given, system_now())
    if items is not None:
        import_items(house, items, now=system_now())
    says = _promise(folder)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "says": says}))
        return
    _print_promise(folder, says)
    typer.echo(
        f"Next:\n    fedrecall-server operator add {folder} NAME --role approve\n    fedrecall-server up {folder}"
    )


@app.command("plan", cls=PlainCommand)
def plan_command(
    folder: Folder,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if the files are not what follows.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write plan.json and policy.json anew, from fedrecall.toml and the catalogue."""
    if check:
        from server.house import house_at  # noqa: PLC0415 - heavy
        from server.promise import check_promised  # noqa: PLC0415 - heavy

        house = house_at(folder)
        check_promised(house)
        says = _says(house)
    else:
        says = _promise(folder)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "says": says}))
    else:
        _print_promise(folder, says)


@app.command("up", cls=PlainCommand)
def up_command(folder: Folder) -> None:
    """Run the server until it is told to stop: SuperLink, rounds, operator API. Logs are JSON lines."""
    from server.house import house_at  # noqa: PLC0415 - heavy
    from server.supervisor import up  # noqa: PLC0415 - heavy

    raise typer.Exit(up(house_at(folder)))


@app.command("health", cls=PlainCommand)
def health_command(folder: Folder) -> None:
    """Exit code 0 while devices can be served, 1 otherwise; takes no token."""
    from server.operator_client import call, credential_at  # noqa: PLC0415 - heavy
    from shared.errors import RunError  # noqa: PLC0415 - beside the others

    try:
        status, _ = call(credential_at(folder, "none needed"), "GET", "/health")
    except RunError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(NOT_READY) from error
    typer.echo("ready" if status == 200 else "not ready")
    raise typer.Exit(OK if status == 200 else NOT_READY)


@app.command("status", cls=PlainCommand)
def status_command(source: Source, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """How the server stands: run, round, epsilon spent, policy, clients, processes."""
    said = ask_api(source, token_file, "GET", "/v1/status")
    typer.echo(json.dumps(said) if as_json else "\n".join(_told(said)))


@app.command("pause", cls=PlainCommand)
def pause_command(source: Source, token_file: TokenFile = None) -> None:
    """Let no further round begin; the one that runs is finished."""
    ask_api(source, token_file, "POST", "/v1/pause", {})
    typer.echo("Paused: no round begins until fedrecall-server unpause.")


@app.command("unpause", cls=PlainCommand)
def unpause_command(source: Source, token_file: TokenFile = None) -> None:
    """Let the rounds go on."""
    ask_api(source, token_file, "POST", "/v1/unpause", {})
    typer.echo("The rounds go on.")


@app.command("begin", cls=PlainCommand)
def begin_command(source: Source, token_file: TokenFile = None) -> None:
    """Begin the next run, once one has ended: a new ledger, a new budget for everybody who takes part."""
    ask_api(source, token_file, "POST", "/v1/begin", {})
    typer.echo("The next run begins.")


@app.command("approve", cls=PlainCommand)
def approve_command(
    source: Source, proposal: Which = None, why: Why = "", token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Put the controller's proposal in force."""
    _order(source, token_file, {"kind": "approve", "why": why, "proposal": proposal}, as_json=as_json)


@app.command("reject", cls=PlainCommand)
def reject_command(
    source: Source, proposal: Which = None, why: Why = "", token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Drop the controller's proposal."""
    _order(source, token_file, {"kind": "reject", "why": why, "proposal": proposal}, as_json=as_json)


@app.command("freeze", cls=PlainCommand)
def freeze_command(source: Source, why: Why = "", token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Keep every controller away from the policy until it is thawed."""
    _order(source, token_file, {"kind": "freeze", "why": why}, as_json=as_json)


@app.command("thaw", cls=PlainCommand)
def thaw_command(source: Source, why: Why = "", token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Let the controller move the policy again."""
    _order(source, token_file, {"kind": "thaw", "why": why}, as_json=as_json)


@app.command("rollback", cls=PlainCommand)
def rollback_command(
    source: Source,
    version: Annotated[int, typer.Argument(metavar="POLICY", help="The version to go back to.", min=1)],
    why: Why = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Put an earlier version of the policy in force, as a new one."""
    _order(source, token_file, {"kind": "rollback", "why": why, "version": version}, as_json=as_json)


app.add_typer(enroll_app, name="enroll")
app.add_typer(catalogue_app, name="catalogue")
app.add_typer(operator_app, name="operator")
app.add_typer(certificates_app, name="certificates")


def main() -> None:
    """Entry point."""
    run_commands(app)


def _promise(folder: Path) -> list[str]:
    from server.house import house_at  # noqa: PLC0415 - heavy
    from server.promise import write_promise  # noqa: PLC0415 - heavy
    from server.stock import catalogue_of_stock  # noqa: PLC0415 - heavy

    house = house_at(folder)
    catalogue = catalogue_of_stock(house) if (house.catalogue / "current.json").exists() else None
    write_promise(house, house.config(), catalogue)
    return _says(house)


def _says(house: House) -> list[str]:
    """What ``plan.json`` claims."""
    return list(json.loads(house.plan.read_bytes())["says"])


def _print_promise(folder: Path, says: list[str]) -> None:
    typer.echo(f"To be signed off: {folder / 'plan.json'}, {folder / 'policy.json'}")
    for sentence in says:
        typer.echo(f"  {sentence}")


def _order(source: Path, token_file: Path | None, order: dict[str, Any], *, as_json: bool) -> None:
    said = ask_api(source, token_file, "POST", "/v1/orders", order)
    typer.echo(json.dumps(said) if as_json else f"Before the next round: {said['expected']}.")


def _told(said: dict[str, Any]) -> list[str]:
    """A status as lines for a terminal."""
    policy, clients = said["policy"], said["clients"]
    going = "paused once the round that runs is closed" if said["paused"] else "rounds go on"
    state = "; ".join(why for why in (said["stopped"], said["waiting"]) if why) or going
    frozen = ", frozen" if policy["frozen"] else ""
    online = "not known" if clients["online"] is None else clients["online"]
    run, round_ = said["run"] or "none yet", "none yet" if said["round"] is None else said["round"]
    proposal = f"; proposal {policy['proposal']} waits: approve or reject it" if policy["proposal"] else ""
    processes = ", ".join(f"{name} {'up' if up else 'DOWN'}" for name, up in said["alive"].items())
    cohort = ", ".join(f"{count} {name}" for name, count in (said["cohort"] or {}).items())
    people = f"{clients['enrolled']} enrolled, {online} online, {clients['revoked']} revoked"
    return [
        f"run {run}, round {round_}: {state}",
        *_spent(said["epsilon"] or {}, said["claim"]),
        f"last cohort: {cohort or 'none yet'}, {said['seconds'] or 0:.1f} s",
        f"policy version {policy['version'] or 'none yet'}{frozen}{proposal}",
        f"clients: {people}; {said['invitations']} invitations open",
        f"processes: {processes}; restarts {sum(said['restarts'].values())}",
        f"certificate: {said['certificate_days']:.0f} days left",
    ]


def _spent(spent: dict[str, Any], claim: dict[str, Any] | None) -> list[str]:
    """What was spent so far, and what an epsilon means nothing without."""
    if claim is None:
        return ["privacy spent: nothing yet"]
    against = [f"epsilon {rounded_up(most)} against {who}" for who, most in spent.items() if isinstance(most, float)]
    terms = f"unit {claim['unit']}, adjacency {claim['adjacency']}, trust {claim['trust']}, delta {claim['delta']:g}"
    return [
        f"privacy spent by the client asked most often: {', '.join(against) or 'no epsilon'}",
        f"    {terms}; accountant: {claim['accountant']}",
        f"    covers: {claim['covers']}",
    ]


if __name__ == "__main__":
    main()
