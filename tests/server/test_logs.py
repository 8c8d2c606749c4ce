"""Structured logs: one JSON object a line, also through the pipe between the run loop and the supervisor."""

from __future__ import annotations

import io
import json
import logging
import os

import pytest

from server.logs import LONGEST, PipeHandler, event, logging_to, relaying


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_time_level_process_event_and_facts():
    stream = io.StringIO()
    with logging_to(logging.StreamHandler(stream), "supervisor"):
        event("round", round=3, what="x")
        event("failed", level=logging.ERROR, error=ValueError("bad"))
    one, other = lines(stream)
    assert one.pop("time").endswith("+00:00")
    assert one == {"level": "info", "process": "supervisor", "event": "round", "round": 3, "what": "x"}
    assert other["level"] == "error"
    assert "ValueError: bad" in other["error"]


def test_after_the_block_nothing_is_logged_any_more():
    stream = io.StringIO()
    with logging_to(logging.StreamHandler(stream), "x"):
        pass
    event("silence")
    assert stream.getvalue() == ""


def test_lines_go_through_the_pipe_and_keep_whose_they_are(tmp_path):
    path, stream = tmp_path / "control" / "log", io.StringIO()
    # The two loggers are two processes' in life; here the pipe is written by hand.
    with logging_to(logging.StreamHandler(stream), "supervisor"), relaying(path):
        handler = PipeHandler(path)
        for text in ('{"process": "serving", "event": "round", "round": 1}', "cut {"):
            handler.emit(logging.makeLogRecord({"msg": text}))
    one, other = lines(stream)
    assert (one["process"], one["event"], one["round"]) == ("serving", "round", 1)
    assert (other["process"], other["text"].strip()) == ("supervisor", "cut {")


def test_without_a_reader_nobody_waits_and_nothing_is_kept(tmp_path):
    os.mkfifo(tmp_path / "log")
    PipeHandler(tmp_path / "log").emit(logging.makeLogRecord({"msg": "x"}))
    PipeHandler(tmp_path / "missing").emit(logging.makeLogRecord({"msg": "x"}))
    assert not (tmp_path / "missing").exists()


def test_a_reader_that_does_not_read_holds_nobody_up_and_a_line_stays_whole(tmp_path):
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    handler = PipeHandler(tmp_path / "log")
    for _ in range(100):  # 400 kB, a pipe takes 64
        handler.emit(logging.makeLogRecord({"msg": "x" * 2 * LONGEST}))
    content = os.read(reader, 1 << 20)
    os.close(reader)
    assert {len(line) for line in content.split(b"\n")[:-1]} == {LONGEST}


def test_what_is_no_pipe_is_replaced(tmp_path):
    (tmp_path / "log").write_text("a file")
    stream = io.StringIO()
    with logging_to(logging.StreamHandler(stream), "x"), relaying(tmp_path / "log"):
        PipeHandler(tmp_path / "log").emit(logging.makeLogRecord({"msg": '{"event": "here"}'}))
    assert [line["event"] for line in lines(stream)] == ["here"]


@pytest.fixture(autouse=True)
def quiet():
    assert not logging.getLogger("fedrecall.server").handlers
    yield
    assert not logging.getLogger("fedrecall.server").handlers
