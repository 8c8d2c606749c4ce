"""What is said of masks, and that it is true of what ran."""

from __future__ import annotations

import pytest

from shared.errors import ConfigError
from simulations.aggregation import mode_of, words
from simulations.config import resolve
from simulations.run import new_run


@pytest.mark.parametrize(
    ("sets", "mode"),
    [
        ([], "real"),
        (["secure_aggregation=ideal"], "ideal"),
        (["privacy.trust=central"], "real"),
        (["privacy.trust=central", "secure_aggregation=ideal"], "ideal"),
        (["privacy.trust=local"], "not needed"),
        (["privacy.trust=local", "secure_aggregation=ideal"], "not needed"),
        (["engine=ray", "secure_aggregation=ideal"], "real"),
    ],
)
def test_what_is_masked(sets, mode):
    assert mode_of(resolve("synthetic", sets=sets)) == mode


@pytest.mark.parametrize(("preset", "mode"), [("ml-100k", "ideal"), ("online-retail", "ideal"), ("synthetic", "real")])
def test_presets_of_many_clients_are_ideal_and_can_be_switched(preset, mode):
    assert mode_of(resolve(preset)) == mode
    assert mode_of(resolve(preset, sets=["secure_aggregation=real"])) == "real"


def test_another_word_is_refused():
    with pytest.raises(ConfigError, match=r"secure_aggregation = 'none'"):
        resolve("synthetic", sets=["secure_aggregation=none"])


def test_only_an_ideal_sum_has_something_to_confess():
    for trust in ("distributed", "central"):
        assert words("real", trust).not_covered == ""
        assert "--set secure_aggregation=real" in words("ideal", trust).summary
        assert "--set secure_aggregation=real" in words("ideal", trust).promise
        assert "without masks" in words("ideal", trust).not_covered
    assert "without noise" in words("ideal", "central").not_covered
    assert "its own share of the noise" in words("ideal", "distributed").not_covered
    assert words("not needed", "local").promise == words("not needed", "local").not_covered == ""


@pytest.fixture
def summary_of(tmp_path, tiny, silent):
    def run(*sets):
        config = tiny("rounds=1", "users_per_client=6", *sets)
        return new_run(config, tmp_path / "a", cache=tmp_path / "cache", source=None, screen=silent)

    return run


@pytest.mark.parametrize(
    ("sets", "begins", "server", "covers", "confesses"),
    [
        (
            ["secure_aggregation=real"],
            "real",
            True,
            "everybody up to the tolerated collusion, the server included",
            False,
        ),
        (["secure_aggregation=ideal"], "ideal", True, "while this simulation did not (ideal)", True),
        (["privacy.trust=local"], "not needed", True, "against everybody, the server included.", False),
        (["privacy.trust=central"], "ideal", False, "against the server nothing is claimed", True),
    ],
)
def test_a_summary_claims_against_the_server_what_its_trust_gives(summary_of, sets, begins, server, covers, confesses):
    summary = summary_of(*sets)
    assert summary["secure_aggregation"].startswith(begins)
    assert (summary["epsilon_claims"]["server"] is not None) == server
    assert covers in summary["covers"]
    assert any("without masks" in line for line in summary["not_covered"]) == confesses


def test_without_privacy_nothing_is_covered_whatever_is_masked(summary_of):
    summary = summary_of("privacy.epsilon=none", "secure_aggregation=real")
    assert summary["covers"].startswith("Nothing")
    assert summary["epsilon_claims"]["server"] is None


def test_a_summary_says_for_whom_coins_and_masks_are_worth_nothing(summary_of):
    coins = ["cohort.sampling=poisson", "cohort.smallest=0", "cohort.size=2", "privacy.trust=central"]
    open_points = summary_of(*coins)["not_covered"]
    assert any(line.startswith("Readers of this folder are not among those") for line in open_points)
    assert any("the sum of one vector is that vector" in line for line in open_points)
