"""``consent.toml``: what is allowed, said by the client's own side, and understood or refused as a whole."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.consent import Consent, permitted, read_consent, write_consent
from shared.errors import ConfigError
from shared.history import KINDS, History
from shared.policy.recall_policy import GROUPS
from shared.privacy.plan import Trust, Unit

KEY = "0f" * 32


def read(tmp_path, text):
    path = tmp_path / "consent.toml"
    path.write_text(text)
    return read_consent(path)


def test_what_is_not_said_is_careful(tmp_path):
    given = read(tmp_path, "")
    assert given == Consent()
    assert not given.allow_without_privacy
    assert "central" not in given.trust  # a server that should add noise may not
    assert given.unit == ("user",)
    assert given.epsilon_per_round < given.epsilon_per_period < given.epsilon_lifetime <= 20
    assert given.smallest_cohort >= 10
    assert given.smallest_noise > 0
    assert given.largest_clip <= 1


def test_what_may_be_named_is_what_there_is():
    for name, there in (
        ("features", GROUPS),
        ("behaviour", KINDS),
        ("unit", get_args(Unit)),
        ("trust", get_args(Trust)),
    ):
        (item, _) = get_args(Consent.model_fields[name].annotation)
        assert get_args(item) == there, name


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("epsilon_per_rounds = 3", "unknown key epsilon_per_rounds; did you mean epsilon_per_round?"),
        ("feature = []", "unknown key feature; did you mean features?"),
        ("epsilon_lifetime = 0", "epsilon_lifetime = 0: input should be greater than 0"),
        ("epsilon_lifetime = 1001", "epsilon_lifetime = 1001: input should be less than or equal to 1000"),
        ("epsilon_per_round = inf", "epsilon_per_round = inf: input should be "),
        ("epsilon_per_period = nan", "epsilon_per_period = nan: input should be "),
        ("period_days = 0", "period_days = 0: input should be greater than or equal to 1"),
        ("period_days = 1.5", "period_days = 1.5: input should be a valid integer"),
        ("delta = 1", "delta = 1: input should be less than 1"),
        ("smallest_noise = -1", "smallest_noise = -1: input should be greater than or equal to 0"),
        ("smallest_own_noise = -1", "smallest_own_noise = -1: input should be greater than or equal to 0"),
        ("largest_clip = 0", "largest_clip = 0: input should be greater than 0"),
        ("smallest_cohort = -1", "smallest_cohort = -1: input should be greater than or equal to 0"),
        ('enabled = "perhaps"', "enabled = 'perhaps': input should be a valid boolean"),
        (
            'features = ["images"]',
            "features.0 = 'images': input should be 'text', 'lexical',",
        ),
        ('behaviour = ["sleep"]', "behaviour.0 = 'sleep': input should be 'view'"),
        ('trust = ["me"]', "trust.0 = 'me': input should be 'local', 'distributed' or 'central'"),
        ("unit = []", "unit = []: tuple should have at least 1 item"),
        ('servers = ["abc"]', "servers.0 = 'abc': string should match pattern"),
        (f'servers = ["{KEY.upper()}"]', "servers.0 = "),
        ('roster_key = "0f"', "roster_key = '0f': string should match pattern"),
        ("enabled = ", "not valid TOML"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_file_key_and_bound(line, sentence, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(sentence)) as error:
        read(tmp_path, line)
    assert str(error.value).startswith(str(tmp_path / "consent.toml"))


some = st.floats(1e-6, 1000, exclude_min=True)
consents = st.builds(
    Consent,
    enabled=st.booleans(),
    epsilon_per_round=some,
    epsilon_per_period=some,
    period_days=st.integers(1, 36_500),
    epsilon_lifetime=some,
    delta=st.floats(1e-300, 0.99),
    allow_without_privacy=st.booleans(),
    smallest_noise=some,
    smallest_own_noise=some,
    largest_clip=some,
    smallest_cohort=st.integers(1, 10**9),
    unit=st.lists(st.sampled_from(get_args(Unit)), min_size=1).map(tuple),
    trust=st.lists(st.sampled_from(get_args(Trust)), min_size=1).map(tuple),
    servers=st.lists(st.sampled_from([KEY, "a" * 64]), max_size=2).map(tuple),
    roster_key=st.sampled_from(["", KEY]),
    features=st.lists(st.sampled_from(GROUPS)).map(tuple),
    behaviour=st.lists(st.sampled_from(KINDS)).map(tuple),
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(consent=consents)
def test_what_is_written_is_what_is_read(consent, tmp_path):
    path = tmp_path / "consent.toml"
    write_consent(consent, path)
    assert read_consent(path) == consent


def test_a_written_file_has_every_key_and_says_what_it_means(tmp_path):
    write_consent(Consent(), tmp_path / "consent.toml")
    text = (tmp_path / "consent.toml").read_text()
    assert list(tomllib.loads(text)) == list(Consent.model_fields)
    for name, info in Consent.model_fields.items():
        assert f"# {info.description}\n{name} = " in text


def test_the_documentation_has_every_key_with_its_default_and_its_meaning():
    page = (Path(__file__).parents[2] / "docs" / "consent.md").read_text()
    for name, value in Consent().model_dump(mode="json").items():
        assert f"| `{name}` | `{json.dumps(value)}` | {Consent.model_fields[name].description} |\n" in page


def a_history():
    return History(
        item=np.arange(5, dtype=np.int32),
        kind=np.arange(5, dtype=np.int8),
        count=np.ones(5, np.float32),
        dwell=np.full(5, 0.5, np.float32),
        rating=np.full(5, 0.9, np.float32),
        time=np.arange(5, dtype=np.float64),
        held_out=np.array([False, True, False, True, False]),
    )


def test_all_kinds_allowed_leaves_histories_as_they_are():
    one = a_history()
    assert permitted([one], KINDS)[0] is one


@pytest.mark.parametrize("behaviour", [("view", "purchase"), ("rating",), ("dwell", "not_interested"), ()])
def test_what_may_not_be_used_is_left_out_and_leaves_no_trace_in_other_rows(behaviour):
    one = a_history()
    (left,) = permitted([one], behaviour)
    assert [KINDS[code] for code in left.kind] == [kind for kind in KINDS if kind in behaviour]
    for field in fields(History):
        assert len(getattr(left, field.name)) == len(behaviour)
        assert getattr(left, field.name).dtype == getattr(one, field.name).dtype
    assert np.array_equal(left.held_out, one.held_out[left.kind])
    assert np.isnan(left.rating).all() == ("rating" not in behaviour or not behaviour)
    assert (left.dwell == 0).all() == ("dwell" not in behaviour or not behaviour)
    assert (one.dwell == 0.5).all()  # the store's own stay as they are
