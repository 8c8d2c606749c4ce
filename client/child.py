"""A device's own processes beside its agent: only the installed code, no passphrase, one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import IO

from client.home import Home


def start_child(
    module: str, home: Home, *, talk: int | IO[bytes] | None = None, complain: int | IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """``python -m MODULE HOME``, which nothing that lies in the working directory can get in the way of.

    Args:
        module: of this package, as it is imported.
        home: the device.
        talk: standard input and output, as ``subprocess`` takes them; None = the agent's own.
        complain: standard error, likewise.

    Raises:
        OSError: the system starts no process.
    """
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("FEDRECALL_")}
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", "-m", module, str(home.folder)],
        stdin=talk,
        stdout=talk,
        stderr=complain,
        env={**quiet, "OMP_NUM_THREADS": "1"},
    )
