"""The auditor bites: every broken run of the gallery is caught by its check, and clean runs raise no alarm."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from shared.audit.reading import read_evidence
from shared.audit.verify import BEYOND, verify

HERE = Path(__file__).parent


def _script():
    spec = importlib.util.spec_from_file_location("gallery_script", HERE / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


gallery = _script()
BY_NAME = {broken.name: broken for broken in gallery.GALLERY}
# The broken runs that issue 5 lists, by their names here.
LISTED = {
    "edited epsilon": "edited-epsilon",
    "dropped line": "dropped-line",
    "reordered lines": "reordered-lines",
    "forged signature": "forged-signature",
    "replayed round": "replayed-round",
    "shares sized for 100 with 30 survivors": "few-survivors",
    "a client above K": "above-k",
    "a Poisson claim on round-robin cohorts": "round-robin",
    "metric released outside": "metric-outside",
    "client ledger missing": "ledger-missing",
    "clip doubled in code": "doubled-clip",
    "noise halved in code": "halved-noise",
    "NaN": "nan-in-ledger",
    "a re-masked vector": "remasked",
    "seeded noise presented as deployment": "as-deployment",
    "smaller delta claimed": "smaller-delta",
    "accountant estimate instead of bound": "estimate-for-bound",
    "budget reset after a restart": "budget-reset",
}


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """``good(name)``: a real run, made once: "good" (with attack.json), "poisson", "second", "third"."""
    root, made = tmp_path_factory.mktemp("gallery"), {}
    data = gallery.write_data(root / "data")
    how = {
        "good": lambda folder: gallery.attacked(gallery.make_run(folder, data)),
        "poisson": lambda folder: gallery.make_run(folder, data, *gallery.POISSON),
        "second": lambda folder: gallery.make_run(folder, data, seed=2),
        "third": lambda folder: gallery.make_run(folder, data, seed=3),
    }

    def make(name):
        if name not in made:
            made[name] = how[name](root / name)
        return made[name]

    return make


def audited(folder, *, empirical=True):
    return verify(read_evidence(folder, keys=folder / "keys.toml", empirical=empirical))


def alarms(report):
    """Whatever is not passed and could have been."""
    return [(f.clause, f.check, f.outcome, dict(f.values)) for f in report.findings if _open(f)]


def _open(finding):
    return finding.outcome != "pass" and finding.check not in BEYOND


# --- what is clean passes


def test_a_clean_run_with_its_attack_passes_every_clause_that_can_be_proved(good):
    report = audited(good("good"))
    assert alarms(report) == []
    assert {clause for clause, outcome in report.outcomes.items() if outcome == "pass"} == set(range(1, 12))
    assert report.exit_code == 0


@pytest.mark.parametrize("name", ["good", "second", "third", "poisson"])
def test_clean_runs_of_other_seeds_and_of_drawn_cohorts_raise_no_alarm(good, name):
    report = audited(good(name), empirical=False)
    assert alarms(report) == []
    assert report.exit_code == 0


def test_without_an_attack_a_clean_run_is_not_passed(good):
    report = audited(good("second"))
    assert [alarm[:3] for alarm in alarms(report)] == [(9, "attack", "cannot tell")]
    assert report.exit_code == 4


def test_a_run_that_is_put_together_again_unchanged_is_the_same_run(good, tmp_path):
    whole = gallery.Broken(lambda _forgery: None, 7, "chain-server").make(good("good"), tmp_path / "same")
    for name in (gallery.SERVER, gallery.CLIENTS):
        assert (whole / name).read_bytes() == (good("good") / name).read_bytes()


def test_the_same_run_with_more_ledgers_of_clients_raises_no_alarm(good, tmp_path):
    folder = gallery.Broken(gallery.split, 7, "chain-client").make(good("good"), tmp_path / "split")
    (folder / "keys.toml").write_text((folder / "keys.toml").read_text().split("[clients]")[0])
    assert [alarm[:3] for alarm in alarms(audited(folder))] == [(7, "keys-client", "cannot tell")]


# --- what is broken does not


@pytest.mark.parametrize("name", BY_NAME)
def test_a_broken_run_is_caught_by_the_check_that_is_there_for_it(good, tmp_path, name):
    broken = BY_NAME[name]
    folder = broken.make(good(broken.base), tmp_path / name)
    report = audited(folder, empirical=broken.base == "good")
    assert (broken.clause, broken.check, broken.outcome) in {(f.clause, f.check, f.outcome) for f in report.findings}
    assert report.outcomes[broken.clause] != "pass"
    assert report.exit_code in {3, 4}


def test_the_gallery_holds_all_that_the_issue_lists_and_more():
    assert set(LISTED.values()) <= set(BY_NAME)
    assert len(BY_NAME) >= 20
    assert len({broken.clause for broken in gallery.GALLERY}) >= 8


@pytest.mark.parametrize(
    "name",
    [
        "edited-epsilon",
        "metric-outside",
        "remasked",
        "edited-decision",
        "noise-overstated",
        "twice-in-sum",
        "vector-behind-receipt",
        "weaker-attack",
    ],
)
def test_a_lie_that_is_signed_anew_is_the_only_thing_that_fails(good, tmp_path, name):
    """So the check that catches it understands it, and no broken chain gives it away."""
    broken = BY_NAME[name]
    report = audited(broken.make(good("good"), tmp_path / name))
    assert {(alarm[0], alarm[1]) for alarm in alarms(report)} == {(broken.clause, broken.check)}


def test_what_a_sabotaged_build_does_is_found_by_the_attack_and_not_written_by_hand(good, tmp_path):
    folder = BY_NAME["doubled-clip"].make(good("good"), tmp_path / "clip")
    replay = json.loads((folder / "attack.json").read_text())["replay"]
    assert replay["outcome"] == "fail"
    assert replay["largest_change"] == pytest.approx(2.0, abs=0.05)
    folder = BY_NAME["halved-noise"].make(good("good"), tmp_path / "noise")
    releases = json.loads((folder / "attack.json").read_text())["white_box"]["releases"]
    assert [one["outcome"] for one in releases] == ["fail"] * 4
    assert all(one["measured"] == pytest.approx(one["sigma"] / 2, rel=0.02) for one in releases)
