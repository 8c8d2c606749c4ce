"""What is deployed is checked as far as it can be without Docker and without a running systemd."""

import re
import string
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def test_the_compose_file_follows_the_compose_specification():
    command = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, DEPLOY / "compose.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_schema_refuses_a_service_that_compose_does_not_know(tmp_path):
    broken = tmp_path / "compose.yaml"
    broken.write_text("services: {server: {image: x, capdrop: [ALL]}}", encoding="utf-8")
    command = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    assert subprocess.run([*command, broken], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_every_service_is_hardened(name):
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["mem_limit"]
    assert service["pids_limit"]


def test_only_the_proxy_is_reached_from_outside_and_devices_do_not_see_the_superlink():
    services = COMPOSE["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    assert services["server"]["networks"] == ["inside"]
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert all("inside" not in services[name]["networks"] for name in services if name.startswith("client"))


def test_the_proxy_of_compose_is_given_every_setting_of_the_template():
    template = string.Template((DEPLOY / "fleet.conf.template").read_text(encoding="utf-8"))
    wanted = set(re.findall(r"\$\{(\w+)\}", template.template))
    assert set(COMPOSE["services"]["proxy"]["environment"]) == wanted


@pytest.mark.parametrize("unit", ["fedrecall-server.service", "fedrecall-client.service"])
def test_systemd_reads_every_line_of_the_units(unit, needed):
    done = subprocess.run(
        [needed("systemd-analyze"), "verify", "--man=no", DEPLOY / unit], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if "is not executable" not in line]
    assert said == []


@pytest.mark.parametrize("unit", ["fedrecall-server.service", "fedrecall-client.service"])
def test_systemd_finds_little_exposure_in_the_units(unit, needed):
    command = [needed("systemd-analyze"), "security", "--offline=yes", "--threshold=15", DEPLOY / unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_a_builder_gets_what_the_images_are_made_of_and_nothing_else():
    copied = re.findall(r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for line in copied for name in line.split()}
    rules = (DEPLOY.parent / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in rules
    assert {rule[1:] for rule in rules if rule.startswith("!")} == named
    assert not {"deploy", "runs", "."} & named


@pytest.mark.parametrize("unit", ["fedrecall-server.service", "fedrecall-client.service"])
def test_a_unit_runs_as_an_account_that_the_commands_can_run_as_too(unit):
    lines = (DEPLOY / unit).read_text(encoding="utf-8").splitlines()
    assert f"User={Path(unit).stem}".replace("fedrecall-server", "fedrecall") in lines
    assert "DynamicUser=yes" not in lines
