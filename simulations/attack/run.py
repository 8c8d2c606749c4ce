"""All attacks on one run, and ``attack.json``, which ``fedrecall-audit verify`` reads."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from shared.errors import RunError
from shared.files import write_atomically
from simulations.attack.bounds import ASSUMES, clopper_pearson
from simulations.attack.canaries import canary_audit, dimensions_of, server_of
from simulations.attack.imia import CONFIDENCE, imia
from simulations.attack.replay_check import replay_check
from simulations.attack.subject import Subject
from simulations.attack.white_box import white_box
from simulations.seeding import Seed

FORMAT: Final = 1
FILE: Final = "attack.json"
CANARIES: Final = 5000
_UNWRITABLE: Final = "{path}: cannot be written ({why}); make room for it in a folder that is yours and start again"


def attack(
    subject: Subject,
    *,
    canaries: int = CANARIES,
    seed: Seed = None,
    tell: Callable[[str], None] = lambda _sentence: None,
) -> dict[str, Any]:
    """Every attack on a run, by the code at hand.

    Args:
        subject: the run.
        canaries: canary users of the lower bounds.
        seed: of everything random; None = the operating system's.
        tell: progress, a sentence at a time.

    Returns:
        The content of ``attack.json``: ``docs/audit.md`` says what stands where.

    Raises:
        ConfigError: too few canaries, or too many.
    """
    began, job = time.monotonic(), subject.job
    if subject.remark:
        tell(subject.remark)
    # First: it refuses a number of canaries that makes no sense.
    bounds = canary_audit(job.plan, dimensions_of(job), canaries=canaries, seed=seed, server=server_of(job), tell=tell)
    used = bounds["bounds"][0]["canaries"]
    if used < canaries:
        tell(f"canaries: {used}, not {canaries}: an update has no more numbers, and more would hide one another")
    checks = {
        "white_box": white_box(job.plan, seed=seed, tell=tell),
        "replay": replay_check(subject, seed=seed, tell=tell),
        "imia": imia(subject, seed=seed, tell=tell),
    }
    return {
        "format": FORMAT,
        "run": job.run,
        "plan": job.plan.digest(),
        "seed": seed,
        "remark": subject.remark,
        "made": {"canaries": used, "seconds": round(time.monotonic() - began, 1)},
        "canaries": bounds,
        **checks,
    }


def check_writable(folder: Path) -> None:
    """Before minutes of work: whether ``attack.json`` can be written.

    Raises:
        RunError: it cannot.
    """
    path = folder / FILE
    if folder.is_dir() and (path.is_dir() or not os.access(folder, os.W_OK)):
        raise RunError(_UNWRITABLE.format(path=path, why="a folder" if path.is_dir() else "read-only"))


def write_attack(result: Mapping[str, Any], folder: Path) -> Path:
    """``attack.json`` in a run's folder, whole or not at all.

    Raises:
        RunError: the folder cannot be written.
    """
    path = folder / FILE
    try:
        write_atomically(path, json.dumps(result, indent=1, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise RunError(_UNWRITABLE.format(path=path, why=error.strerror)) from error
    return path


def outcomes(result: Mapping[str, Any]) -> dict[str, str]:
    """What each part found: "pass", "fail" or "cannot tell"; an auditor judges by the numbers, not by these."""
    bounds, claimed = result["canaries"]["bounds"], result["canaries"]["claimed"]
    refuted = claimed is not None and any(one["epsilon"] > claimed for one in bounds)
    parts = {name: str(result[name]["outcome"]) for name in ("replay", "white_box", "imia")}
    return {"canaries": "fail" if refuted else "cannot tell" if claimed is None else "pass", **parts}


def lines(result: Mapping[str, Any]) -> list[str]:
    """The result for a person, a sentence a finding; bounds and estimates apart."""
    found, replay, white = outcomes(result), result["replay"], result["white_box"]
    out = [*([result["remark"]] if result["remark"] else []), *_bounds(result)]
    out.append(
        f"Record and replay: {found['replay']}; {replay['checked']} vectors, a history moves its own by "
        f"{replay['largest_change']:.6g} clips, {replay['allowed']:.6g} allowed."
    )
    out += [f"  {difference}" for difference in replay["differences"]]
    out.append(
        f"White box: {found['white_box']}; honest noise fails with probability {white['alarm']:g}, all together."
    )
    out += [
        f"  {one['release']}: deviation {one['measured']:.6g}, planned {one['sigma']:.6g} grid units, "
        f"chi-square p {one['chi_square_p']:.3g}{': ' + one['why'] if one['why'] else ''}"
        for one in white["releases"]
    ]
    out.append(f"Interaction membership: {found['imia']}; intervals at {CONFIDENCE:.0%}, guesses taken as independent.")
    return out + [f"  {_mode(one)}" for one in result["imia"]["modes"]]


def _bounds(result: Mapping[str, Any]) -> list[str]:
    """Claim, bounds and estimates, with what each rests on and whether the claim could have been refuted at all."""
    part, found = result["canaries"], outcomes(result)
    claimed = "nothing" if part["claimed"] is None else f"epsilon {part['claimed']:.4g}"
    made = f"{result['made']['canaries']} canaries, {result['made']['seconds']:.0f} s"
    below = part["claimed"] is not None and max(one["power_cap"] for one in part["bounds"]) < part["claimed"]
    weak = "; none could have shown as much as is claimed, so this cannot fail" if below else ""
    return [
        f"Claimed: {claimed} at delta {part['delta']:g}; {made}.",
        *(
            f"  lower bound {one['epsilon']:.2f} ({one['method']}, {one['view']}, {part['confidence']:.0%} confidence; "
            f"{one['right']} of {one['guesses']} guesses right; could show {one['power_cap']:.2f} at most)"
            for one in part["bounds"]
        ),
        f"  each bound has its confidence by itself; all of them together {part['together']:.0%} at least",
        *(f"  {method} assumes: {text}" for method, text in ASSUMES.items()),
        *(f"  estimate {one['epsilon']:.2f} ({one['method']}, {one['view']}): no bound" for one in part["estimates"]),
        f"Lower bounds against the claim: {found['canaries']}{weak}.",
    ]


def _mode(one: Mapping[str, Any]) -> str:
    bound = "nothing bounds it"
    if one["implied"] is not None:
        most = 2.0 * clopper_pearson(one["trials"], one["trials"], CONFIDENCE)[0] - 1.0
        bound = f"at most {one['implied']:.4f} by epsilon {one['epsilon']:.4g}, of an item more or less in a history"
        if most <= one["implied"]:
            bound += ", more than so many users could show, so this cannot fail"
    return (
        f"{one['mode']}: advantage {one['advantage']:.3f} ({one['low']:.3f} to {one['high']:.3f}; {bound}; "
        f"{one['trials']} users, {one['rounds']} rounds)"
    )
