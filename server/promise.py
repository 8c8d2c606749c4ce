"""What a server promises, in two files to be signed off before it starts: ``plan.json`` and ``policy.json``.

Both follow from ``fedrecall.toml`` alone, but for the number of the model's parameters, which comes from the catalogue
and moves the integer grid only; ``plan.json`` names it, so that anybody can make the plan again. ``up`` does, and does
not start with files that say anything else: nobody changes a promise by editing a line of the configuration.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from server.budget import profile_signal
from server.house import House, ServerConfig
from server.job import check_promise, encoder_of, target_of
from server.warm_start import width_of
from shared.catalogue import Catalogue
from shared.config import first_policy, item_rules
from shared.encoder.profile import profile_length
from shared.errors import ConfigError
from shared.files import write_atomically
from shared.policy.recall_policy import policy_to_dict
from shared.privacy.calibration import make_plan
from shared.privacy.plan import PrivacyPlan, claims, plan_to_dict
from shared.privacy.wording import sentences
from shared.recall.item_rules import rules_to_dict

Row = dict[str, Any]
_BEFORE_A_CATALOGUE: Final = {"update": 1, "profile": 0}


def plan_of(config: ServerConfig, parameters: dict[str, int]) -> PrivacyPlan:
    """The plan that follows from a configuration.

    Args:
        config: of the server.
        parameters: numbers in an update and in a profile.

    Raises:
        ConfigError, PlanError: a promise that cannot be kept, or a cohort that cannot be.
    """
    clients, size = config.service.clients, config.cohort.size
    if size != "everybody" and not 1 <= size <= clients:
        raise ConfigError(f'cohort.size = {size}: must lie between 1 and the {clients} clients, or be "everybody"')
    check_promise(config)
    target = target_of(config, clients, clients * config.service.users_per_client, 1, "deployment")
    return make_plan(
        replace(
            target,
            update_dimension=parameters["update"],
            profile_dimension=parameters["profile"],
            per_client=config.service.users_per_client,
        )
    )


def parameters_of(config: ServerConfig, catalogue: Catalogue | None) -> dict[str, int]:
    """Numbers in an update and in a profile, with a catalogue; as if there were next to none, without."""
    if catalogue is None:
        return dict(_BEFORE_A_CATALOGUE)
    clients = config.service.clients
    target = target_of(config, clients, clients * config.service.users_per_client, 1, "deployment")
    signal = profile_signal(target)
    encoder = encoder_of(config, catalogue, signal)
    width = width_of(signal, encoder.buckets) if encoder.kind == "linear" else 0
    return {"update": encoder.trained, "profile": profile_length(width + encoder.text_width) if width else 0}


def promised(config: ServerConfig, parameters: dict[str, int]) -> tuple[Row, Row]:
    """The contents of ``plan.json`` and ``policy.json``.

    Raises:
        ConfigError, PlanError: what cannot be promised.
    """
    plan = plan_of(config, parameters)
    privacy = {"plan": plan_to_dict(plan), "parameters": parameters, "says": sentences(plan, claims(plan))}
    section = config.policy
    policy = {
        "policy": policy_to_dict(first_policy(section)),
        "rules": rules_to_dict(item_rules(config.rules)),
        "controller": {
            "kind": section.controller,
            "recall_target": section.recall_target,
            "coverage_target": section.coverage_target,
            "fairness": section.fairness,
            "approval": section.approval,
        },
    }
    return json.loads(json.dumps(privacy)), json.loads(json.dumps(policy))


def write_promise(house: House, config: ServerConfig, catalogue: Catalogue | None) -> None:
    """Write both files anew.

    Raises:
        ConfigError, PlanError: what cannot be promised; the files stay as they were.
        OSError: the disk refuses.
    """
    privacy, policy = promised(config, parameters_of(config, catalogue))
    for path, content in ((house.plan, privacy), (house.policy, policy)):
        write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def check_promised(house: House) -> ServerConfig:
    """The configuration, once both files say what follows from it, and every key is there to keep it with.

    Raises:
        ConfigError: a file is missing or broken, or says something else: which key, what it says, what would follow.
        PlanError: the configuration promises what cannot be kept.
    """
    house.check_whole()
    config, privacy, policy = house.config(), _read(house.plan), _read(house.policy)
    parameters = privacy.get("parameters")
    if not isinstance(parameters, dict) or set(parameters) != {"update", "profile"}:
        raise ConfigError(f"{house.plan}: parameters: expected update and profile; write it anew: {_remedy(house)}")
    if any(type(count) is not int or count < 0 for count in parameters.values()):
        raise ConfigError(f"{house.plan}: parameters: {parameters}, expected whole numbers")
    follows = promised(config, parameters)
    for path, said, expected in ((house.plan, privacy, follows[0]), (house.policy, policy, follows[1])):
        if said != expected:
            raise ConfigError(
                f"{path}: {_difference(said, expected)} follows from {house.settings.name}; put the configuration "
                f"back, or have the promise signed off anew: {_remedy(house)}"
            )
    return config


def _remedy(house: House) -> str:
    return f"fedrecall-server plan {house.folder}"


def _read(path: Path) -> Row:
    try:
        return dict(json.loads(path.read_bytes()))
    except OSError as error:
        remedy = f"fedrecall-server plan {path.parent}"
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); write it: {remedy}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not JSON; write it anew: fedrecall-server plan {path.parent}") from error


def _difference(said: object, expected: object, where: str = "") -> str:
    """The first key in which two JSON values differ, with both values."""
    if isinstance(said, dict) and isinstance(expected, dict):
        for key in sorted({*said, *expected}):
            one, other = said.get(key, "missing"), expected.get(key, "missing")
            if one != other:
                return _difference(one, other, f"{where}.{key}".lstrip("."))
    return f"{where} is {json.dumps(said)[:80]}, but {json.dumps(expected)[:80]}"
