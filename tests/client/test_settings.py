"""``device.toml`` explains itself, and what cannot be is refused."""

from __future__ import annotations

import pytest

from client.home import Home
from client.settings import Settings, read_settings, write_settings
from shared.errors import ConfigError


def test_every_setting_is_written_with_its_meaning_and_comes_back(tmp_path):
    home = Home(tmp_path)
    said = Settings(api_port=0, ttl_days=30, on_battery="train", network="metered", adapt=False)
    write_settings(said, home)
    assert read_settings(home) == said
    text = home.settings.read_text()
    for name, field in Settings.model_fields.items():
        assert f"# {field.description}\n{name} = " in text


@pytest.mark.parametrize(
    "line", ["api_port = 70000", "ttl_days = 0", "poll_seconds = 0", 'power = "solar"', "apiport = 1", "adapt = 3"]
)
def test_a_setting_that_cannot_be_is_named(line, tmp_path):
    home = Home(tmp_path)
    home.settings.write_text(line + "\n")
    with pytest.raises(ConfigError, match=line.split()[0]):
        read_settings(home)
