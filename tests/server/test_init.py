"""Setting up: all of a server or none, nobody else's files, and a configuration that reads back."""

from __future__ import annotations

import pytest

from server import init
from server.house import house_at
from server.init import configured, init_house
from shared.errors import ConfigError


def test_the_configuration_reads_back_as_it_was_given(new_house):
    house = new_house("privacy.epsilon=4", 'policy.features=["text"]', 'rules.min_age={"a b" = 18}', "cohort.size=3")
    config = house_at(house.folder).config()
    assert (config.rounds, config.privacy.epsilon, config.cohort.size) == (3, 4.0, 3)
    assert config.policy.features == ("text",)
    assert config.rules.min_age == {"a b": 18}
    assert config.service.clients == 5


def test_texts_that_toml_would_read_otherwise_are_quoted(new_house):
    house = new_house('rules.blocked=["a\\"b", "é\\\\", "line\\nfeed"]', 'rules.min_age={"x.y\\"z" = 6}')
    rules = house.config().rules
    assert rules.blocked == ('a"b', "é\\", "line\nfeed")
    assert rules.min_age == {'x.y"z': 6}


def test_every_key_of_the_service_is_there_with_its_meaning(house):
    text = house.settings.read_text()
    for name, field in init.ServiceSection.model_fields.items():
        assert f"\n# {field.description}\n{name} = " in text


def test_a_server_is_never_overwritten(house, now):
    key = house.ledger_key.read_bytes()
    config, given = configured("localhost:8443", 5, ())
    with pytest.raises(ConfigError, match="a server is here already"):
        init_house(house.folder, config, given, now)
    assert house.ledger_key.read_bytes() == key


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, now):
    (tmp_path / "thesis.tex").write_text("")
    config, given = configured("localhost:8443", 5, ())
    with pytest.raises(ConfigError, match=r"not empty \(thesis.tex\)"):
        init_house(tmp_path, config, given, now)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_set_up_that_was_killed_goes_on_with_the_keys_it_had(tmp_path, now, monkeypatch):
    config, given = configured("localhost:8443", 5, ())

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(init, "issue", killed)
    with pytest.raises(KeyboardInterrupt):
        init_house(tmp_path, config, given, now)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="no server here"):
        house_at(tmp_path)
    key = (tmp_path / "keys" / "ledger-key.pem").read_bytes()
    house = init_house(tmp_path, config, given, now)
    assert house_at(tmp_path) == house
    assert house.ledger_key.read_bytes() == key


def test_a_fresh_disk_is_as_good_as_an_empty_folder(tmp_path, now):
    (tmp_path / "lost+found").mkdir()
    config, given = configured("localhost:8443", 5, ())
    assert init_house(tmp_path, config, given, now).settings.exists()


@pytest.mark.parametrize(
    ("address", "sets", "sentence"),
    [
        ("localhost", (), "service.address"),
        ("http://localhost:1", (), "service.address"),
        ("localhost:0", (), "between 1 and 65535"),
        ("localhost:99999", (), "between 1 and 65535"),
        ("localhost:1", ("round=3",), "unknown key round; did you mean rounds"),
        ("localhost:1", ("engine=ray",), "unknown key engine"),
        ("localhost:1", ("rounds",), "expected key=value"),
    ],
)
def test_a_wrong_configuration_is_refused_by_its_key(address, sets, sentence):
    with pytest.raises(ConfigError, match=sentence):
        configured(address, 5, sets)
