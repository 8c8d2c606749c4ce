"""The peers' own environments, made by pip from pinned requirements in the cache folder.

pfl 0.6 and Flower's extras disagree on dp-accounting, so pfl cannot live beside fedrecall. Flower, Ray and Opacus can:
their script runs in this environment.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from shared.errors import FetchError
from simulations.benchmarks.measure import figures_of

Say = Callable[[str], None]
HERE: Final = Path(__file__).parent
REQUIREMENTS: Final = HERE / "pfl.txt"
SHARED: Final = ("models.py", "task.py", "pfl_updates.py")  # what pfl's environment is given of this program
_PACKAGE: Final = "simulations/benchmarks/peers"
_READY: Final = "ready"
_LIMIT_SECONDS: Final = 1800  # for one call of pip, or one measurement of a peer


def pfl_environment(cache: Path, say: Say) -> Path:
    """A folder with pfl in a virtual environment, made when it is not there yet.

    Args:
        cache: of downloads; the environment is kept below it, by the hash of its requirements.
        say: told what is going on.

    Raises:
        FetchError: pip cannot install it here; with pip's last words.
    """
    torch = f"torch=={version('torch').partition('+')[0]}"  # both sides compute with the same kernels
    pins = REQUIREMENTS.read_bytes() + f"{torch} {sys.version_info[:2]}".encode()
    home = cache / "peers" / f"pfl-{hashlib.sha256(pins).hexdigest()[:12]}"
    if (home / _READY).exists():
        return home
    say(f"pfl: making its environment in {home}, by pip; minutes, and 1 GB")
    shutil.rmtree(home, ignore_errors=True)
    try:
        venv.create(home, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise FetchError(f"pfl cannot be installed here: no virtual environment in {home} ({error})") from error
    for wanted in ([torch], ["--requirement", str(REQUIREMENTS)]):  # torch apart: pfl alone would take another
        _pip(home, wanted)
    (home / _READY).touch()
    return home


def _pip(home: Path, wanted: list[str]) -> None:
    command = [str(python_of(home)), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *wanted]
    try:
        done = subprocess.run(  # noqa: S603 - pip, on pins of this program
            command, capture_output=True, text=True, check=False, timeout=_LIMIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"pfl cannot be installed here: pip did not end ({error})") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise FetchError(f"pfl cannot be installed here: {said[-1][:300] if said else 'pip failed'}")


def python_of(home: Path) -> Path:
    """The interpreter of an environment."""
    return home / "bin" / "python"


def run_pfl(home: Path, *arguments: str) -> dict[str, Any]:
    """What pfl's script says, as JSON values; on one thread, knowing nothing but its environment and this script.

    Args:
        home: of :func:`pfl_environment`.
        arguments: of the script.

    Raises:
        RunError: it failed; with its last words.
    """
    package = home / "code" / _PACKAGE
    package.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        shutil.copyfile(HERE / name, package / name)
    module = f"{_PACKAGE.replace('/', '.')}.pfl_updates"
    return run_script([str(python_of(home)), "-m", module, *arguments], home / "code")


def run_flower(*arguments: str) -> dict[str, Any]:
    """What Flower's script says, as JSON values; in this environment.

    Raises:
        RunError: it failed; with its last words.
    """
    return run_script(
        [sys.executable, "-m", f"{_PACKAGE.replace('/', '.')}.flower_updates", *arguments], HERE.parents[2]
    )


def run_script(command: list[str], code: Path) -> dict[str, Any]:
    """The last line of a script's standard output, which is JSON.

    Raises:
        RunError: it failed; with its last words.
    """
    flower = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    environment = {**flower, "PYTHONPATH": str(code)}
    return figures_of("the peer's script", command, environment, folder=code, limit=_LIMIT_SECONDS)
