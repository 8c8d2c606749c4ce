"""Structured logs: one JSON object a line, also through the pipe between the run loop and the supervisor."""

from __future__ import annotations

import io
import json
import logging
import os
import threading

import pytest

from server.logs import LONGEST, PipeHandler, event, logging_to, reading, relay


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_time_level_process_event_and_facts():
    stream = io.StringIO()
    with logging_to(logging.StreamHandler(stream), "supervisor"):
        event("round", round=3, what="x")
        try:
            raise ValueError("bad")
        except ValueError as error:
            event("failed", level=logging.ERROR, error=error)
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
    with logging_to(logging.StreamHandler(stream), "supervisor"), reading(path) as pipe:
        copying = threading.Thread(target=relay, args=(pipe,))
        copying.start()
        handler = PipeHandler(path)
        for text in ('{"process": "serving", "event": "round", "round": 1}', "cut {"):
            handler.setFormatter(logging.Formatter(text))
            handler.emit(logging.makeLogRecord({}))
    copying.join(10)
    assert not copying.is_alive()
    one, other = lines(stream)
    assert (one["process"], one["event"], one["round"]) == ("serving", "round", 1)
    assert (other["process"], other["text"].strip()) == ("supervisor", "cut {")


def test_without_a_reader_nobody_waits_and_nothing_is_kept(tmp_path):
    os.mkfifo(tmp_path / "log")
    PipeHandler(tmp_path / "log").emit(logging.makeLogRecord({"msg": "x"}))
    PipeHandler(tmp_path / "missing").emit(logging.makeLogRecord({"msg": "x"}))
    assert not (tmp_path / "missing").exists()


def test_a_reader_that_does_not_read_holds_nobody_up(tmp_path):
    with reading(tmp_path / "log") as pipe:
        handler = PipeHandler(tmp_path / "log")
        for _ in range(100):  # 400 kB, a pipe takes 64
            handler.emit(logging.makeLogRecord({"msg": "x" * 2 * LONGEST}))
        with pipe:
            assert len(pipe.readline()) == LONGEST + 1


def test_what_is_no_pipe_is_replaced(tmp_path):
    (tmp_path / "log").write_text("a file")
    with reading(tmp_path / "log") as pipe:
        PipeHandler(tmp_path / "log").emit(logging.makeLogRecord({"msg": "x"}))
        assert pipe.readline() == b"x\n"
        pipe.close()


@pytest.fixture(autouse=True)
def quiet():
    assert not logging.getLogger("fedrecall.server").handlers
    yield
    assert not logging.getLogger("fedrecall.server").handlers
