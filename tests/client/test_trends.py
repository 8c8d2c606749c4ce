"""What is trending: a file of its own, nothing before the first, and broken is said."""

from __future__ import annotations

import pytest

from client.home import Home
from client.trends import NOTHING_TRENDS, Trending, read_trending, write_trending
from shared.errors import DataError


def test_what_is_written_is_read_and_replaced(tmp_path):
    home = Home(tmp_path)
    assert read_trending(home) == NOTHING_TRENDS
    for trending in (Trending(3, "run", 2, ("i7", "ä")), Trending(4, "run", 4, ())):
        write_trending(home, trending)
        assert read_trending(home) == trending


@pytest.mark.parametrize("content", ["", "[]", '{"number": "x", "run": "", "round": 0, "items": []}'])
def test_a_broken_file_says_so(tmp_path, content):
    (tmp_path / "trending.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="not readable"):
        read_trending(Home(tmp_path))
