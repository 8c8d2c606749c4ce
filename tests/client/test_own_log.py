"""The client's own log: short, private, and never a reason to stop."""

from __future__ import annotations

import client.own_log
from client.home import Home
from client.own_log import last_lines, log


def test_lines_come_back_and_are_the_owners_alone(tmp_path):
    home = Home(tmp_path)
    assert last_lines(home, 5) == []
    for number in range(4):
        log(home, "declined", why=f"reason {number}")
    assert [line["why"] for line in last_lines(home, 2)] == ["reason 2", "reason 3"]
    assert home.log.stat().st_mode & 0o777 == 0o600


def test_what_a_server_wrote_is_cut_and_breaks_no_line(tmp_path):
    home = Home(tmp_path)
    log(home, "declined", why="x\n" * 10_000)
    [line] = last_lines(home, 5)
    assert len(line["why"]) == 500
    assert len(home.log.read_text().splitlines()) == 1


def test_it_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(client.own_log, "_MOST", 1000)
    home = Home(tmp_path)
    for number in range(100):
        log(home, "connected", number=number)
    assert home.log.stat().st_size < 1200
    assert (tmp_path / "log.1.jsonl").stat().st_size < 1200


def test_a_disk_that_refuses_is_no_error(tmp_path):
    log(Home(tmp_path / "nowhere"), "declined", why="a reason")


def test_a_torn_line_is_left_out(tmp_path):
    home = Home(tmp_path)
    log(home, "started")
    with home.log.open("a") as file:
        file.write('{"at": "2026')
    assert [line["event"] for line in last_lines(home, 5)] == ["started"]
