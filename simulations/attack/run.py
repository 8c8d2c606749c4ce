"""All attacks on one run, and ``attack.json``, which ``fedrecall-audit verify`` reads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from shared.errors import RunError
from shared.files import write_atomically
from simulations.attack.canaries import canary_audit, dimensions_of, server_of
from simulations.attack.imia import imia
from simulations.attack.replay_check import replay_check
from simulations.attack.subject import Subject
from simulations.attack.white_box import white_box
from simulations.seeding import Seed

FORMAT: Final = 1
FILE: Final = "attack.json"
CANARIES: Final = 5000


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
        "made": {"canaries": canaries, "seconds": round(time.monotonic() - began, 1)},
        "canaries": bounds,
        **checks,
    }


def write_attack(result: Mapping[str, Any], folder: Path) -> Path:
    """``attack.json`` in a run's folder, whole or not at all.

    Raises:
        RunError: the folder cannot be written.
    """
    path = folder / FILE
    try:
        write_atomically(path, json.dumps(result, indent=1, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); make room and start again") from error
    return path


def outcomes(result: Mapping[str, Any]) -> dict[str, str]:
    """What each part found: "pass", "fail" or "cannot tell"; an auditor judges by the numbers, not by these."""
    bounds, claimed = result["canaries"]["bounds"], result["canaries"]["claimed"]
    refuted = claimed is not None and any(one["epsilon"] > claimed for one in bounds)
    parts = {name: str(result[name]["outcome"]) for name in ("replay", "white_box", "imia")}
    return {"canaries": "fail" if refuted else "cannot tell" if claimed is None else "pass", **parts}


def lines(result: Mapping[str, Any]) -> list[str]:
    """The result for a person, a sentence a finding; bounds and estimates apart."""
    part, found = result["canaries"], outcomes(result)
    claimed = "nothing" if part["claimed"] is None else f"epsilon {part['claimed']:.4g}"
    made = f"{result['made']['canaries']} canaries, {result['made']['seconds']:.0f} s"
    out = [
        f"Claimed: {claimed} at delta {part['delta']:g}; {made}.",
        *(
            f"  lower bound {one['epsilon']:.2f} ({one['method']}, {one['view']}, {part['confidence']:.0%} confidence; "
            f"{one['right']} of {one['guesses']} guesses right; could show {one['power_cap']:.2f} at most)"
            for one in part["bounds"]
        ),
        *(f"  estimate {one['epsilon']:.2f} ({one['method']}, {one['view']}): no bound" for one in part["estimates"]),
        f"Lower bounds against the claim: {found['canaries']}.",
    ]
    replay = result["replay"]
    out.append(
        f"Record and replay: {found['replay']}; {replay['checked']} vectors, a history moves its own by "
        f"{replay['largest_change']:.6g} clips, {replay['allowed']:.6g} allowed."
    )
    out += [f"  {difference}" for difference in replay["differences"]]
    out.append(f"White box: {found['white_box']}.")
    out += [
        f"  {one['release']}: deviation {one['measured']:.6g}, planned {one['sigma']:.6g} grid units, "
        f"chi-square p {one['chi_square_p']:.3g}{': ' + one['why'] if one['why'] else ''}"
        for one in result["white_box"]["releases"]
    ]
    out.append(f"Interaction membership: {found['imia']}.")
    return out + [f"  {_mode(one)}" for one in result["imia"]["modes"]]


def _mode(one: Mapping[str, Any]) -> str:
    bound = "nothing bounds it"
    if one["implied"] is not None:
        bound = f"at most {one['implied']:.4f} by epsilon {one['epsilon']:.4g}, of an item more or less in a history"
    return (
        f"{one['mode']}: advantage {one['advantage']:.3f} ({one['low']:.3f} to {one['high']:.3f}; {bound}; "
        f"{one['trials']} users, {one['rounds']} rounds)"
    )
