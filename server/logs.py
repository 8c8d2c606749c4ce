"""Structured logs: a JSON object a line, of every process of a server, in one stream.

Flower throws away what a ServerApp prints. The run loop therefore writes its lines into a named pipe in the house, and
the supervisor copies them to its own stream; where nobody reads, nothing is written and nobody waits.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

LOGGER: Final = "fedrecall.server"
LONGEST: Final = 4000  # bytes of a line: what a pipe takes in one piece (PIPE_BUF of Linux is 4096)


class JsonLines(logging.Formatter):
    """A record as one JSON object: time, level, process, what happened, and its facts (see :func:`event`)."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self.process,
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)[-2000:]
        return json.dumps(said, default=str)


class PipeHandler(logging.Handler):
    """Writes to a named pipe, if anybody reads it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def emit(self, record: logging.LogRecord) -> None:
        """One line; lost where there is no reader, or a slow one."""
        line = self.format(record).encode()[:LONGEST] + b"\n"
        with contextlib.suppress(OSError):
            pipe = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(pipe, line)
            finally:
                os.close(pipe)


def event(what: str, /, *, level: int = logging.INFO, error: BaseException | None = None, **facts: object) -> None:
    """Log that something happened."""
    logging.getLogger(LOGGER).log(level, what, extra={"facts": facts}, exc_info=error)


@contextmanager
def logging_to(handler: logging.Handler, process: str) -> Iterator[None]:
    """Send what is logged to a handler, as JSON lines, for as long as the block goes on."""
    logger = logging.getLogger(LOGGER)
    handler.setFormatter(JsonLines(process))
    level, passes_on = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Flower would print each line again
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = passes_on


def relay(lines: IO[bytes]) -> None:
    """Log what another process wrote by :class:`PipeHandler`, until the pipe ends."""
    with lines:
        for line in lines:
            try:
                facts: dict[str, Any] = json.loads(line)
            except ValueError:  # cut off at the longest
                facts = {"text": line.decode(errors="replace")}
            logging.getLogger(LOGGER).info("relayed", extra={"facts": facts})


@contextmanager
def relaying(path: Path) -> Iterator[None]:
    """Log what comes through a named pipe, made if need be, for as long as the block goes on.

    Raises:
        OSError: the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or not stat.S_ISFIFO(path.lstat().st_mode):
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    writer = os.open(path, os.O_WRONLY)  # without any writer the reader would see the end of the file
    copying = threading.Thread(target=relay, args=(os.fdopen(reader, "rb"),), daemon=True)
    copying.start()
    try:
        yield
    finally:
        os.close(writer)
        copying.join(5.0)
