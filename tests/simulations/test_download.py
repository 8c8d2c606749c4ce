from __future__ import annotations

import hashlib
import io
import subprocess
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from shared.errors import FetchError
from simulations.download import Wheel, cache_folder, fetch_url, fetch_wheel, install, scratch, unpack

CONTENT = b"a wheel"
WHEEL = Wheel("thing==1.0", "thing-1.0-py3-none-any.whl", hashlib.sha256(CONTENT).hexdigest(), 1)


def pip(monkeypatch, *, content=CONTENT, status=0):
    """A stand-in for pip that writes what a registry would give; returns the commands it saw."""
    seen = []

    def run(command, **options):
        seen.append(command)
        if status == 0:
            (Path(command[command.index("--dest") + 1]) / WHEEL.filename).write_bytes(content)
        return subprocess.CompletedProcess(command, status, b"", b"https://user:password@registry.example failed")

    monkeypatch.setattr(subprocess, "run", run)
    return seen


def web(monkeypatch, answer):
    def urlopen(url, timeout):
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_cache_folder_follows_the_environment():
    assert cache_folder({"FEDRECALL_CACHE": "/somewhere"}) == Path("/somewhere")
    assert cache_folder({"XDG_CACHE_HOME": "/caches"}) == Path("/caches/fedrecall")
    assert cache_folder({}) == Path.home() / ".cache" / "fedrecall"


def test_a_wheel_comes_through_pip_once_and_from_the_cache_afterwards(tmp_path, monkeypatch):
    seen, said = pip(monkeypatch), []
    first = fetch_wheel(WHEEL, tmp_path, said.append)
    assert first.read_bytes() == CONTENT
    assert fetch_wheel(WHEEL, tmp_path, said.append) == first
    assert (len(seen), len(said)) == (1, 1)
    assert {"--no-deps", "--only-binary=:all:", "thing==1.0"} <= set(seen[0])
    assert files(tmp_path) == [f"downloads/{WHEEL.filename}"]


def test_a_wheel_with_another_hash_is_kept_nowhere(tmp_path, monkeypatch):
    pip(monkeypatch, content=b"another wheel")
    with pytest.raises(FetchError, match=f"thing==1.0 has SHA-256 .*, expected {WHEEL.sha256}.*nothing was kept"):
        fetch_wheel(WHEEL, tmp_path)
    assert files(tmp_path) == []


def test_a_wheel_that_changed_in_the_cache_is_refused_and_removed(tmp_path, monkeypatch):
    pip(monkeypatch)
    kept = fetch_wheel(WHEEL, tmp_path)
    kept.write_bytes(CONTENT + b"!")
    with pytest.raises(FetchError, match="expected"):
        fetch_wheel(WHEEL, tmp_path)
    assert not kept.exists()


def test_a_failing_pip_is_reported_without_its_output_which_may_hold_a_password(tmp_path, monkeypatch):
    pip(monkeypatch, status=1)
    with pytest.raises(FetchError, match=r"pip download thing==1\.0 failed \(exit status 1\)") as caught:
        fetch_wheel(WHEEL, tmp_path)
    assert "password" not in str(caught.value)
    assert files(tmp_path) == []


def test_a_pip_that_hangs_is_reported(tmp_path, monkeypatch):
    def run(command, **options):
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(FetchError, match="did not finish"):
        fetch_wheel(WHEEL, tmp_path)


def test_an_address_gives_a_verified_file(tmp_path, monkeypatch):
    web(monkeypatch, CONTENT)
    said = []
    kept = fetch_url("https://host.example/a.zip", tmp_path / "d" / "a.zip", WHEEL.sha256, said.append)
    assert kept.read_bytes() == CONTENT
    web(monkeypatch, urllib.error.URLError("no network"))
    assert fetch_url("https://host.example/a.zip", kept, WHEEL.sha256, said.append) == kept
    assert said == ["Fetching https://host.example/a.zip"]


def test_an_address_that_gives_something_else_leaves_nothing(tmp_path, monkeypatch):
    web(monkeypatch, b"please log in")
    with pytest.raises(FetchError, match="expected"):
        fetch_url("https://host.example/a.zip", tmp_path / "a.zip", WHEEL.sha256)
    assert files(tmp_path) == []


def test_without_a_published_hash_the_hash_of_what_came_is_said(tmp_path, monkeypatch):
    web(monkeypatch, CONTENT)
    said = []
    fetch_url("https://host.example/a.zip", tmp_path / "a.zip", None, said.append)
    assert WHEEL.sha256 in said[-1]


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no network"), TimeoutError("slow"), ConnectionResetError("cut")]
)
def test_no_network_is_one_sentence(tmp_path, monkeypatch, error):
    web(monkeypatch, error)
    with pytest.raises(FetchError, match=r"https://host\.example/a\.zip is not reachable"):
        fetch_url("https://host.example/a.zip", tmp_path / "a.zip", None)
    assert files(tmp_path) == []


@pytest.mark.parametrize("url", ["http://host.example/a.zip", "file:///etc/passwd"])
def test_only_https_is_fetched(tmp_path, url):
    with pytest.raises(FetchError, match="no https address"):
        fetch_url(url, tmp_path / "a.zip", None)


def archive(path, members):
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return path


def test_only_chosen_members_are_unpacked_under_chosen_names(tmp_path):
    made = archive(tmp_path / "a.zip", {"in/a.txt": "a", "../../evil": "b"})
    unpack(made, {"in/a.txt": "deep/b.txt"}, tmp_path / "out")
    assert files(tmp_path) == ["a.zip", "out/deep/b.txt"]


def test_an_archive_without_a_member_leaves_the_old_folder_as_it_was(tmp_path):
    made = archive(tmp_path / "a.zip", {"a": "new"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("old", encoding="utf-8")
    with pytest.raises(FetchError, match="not the expected archive"):
        unpack(made, {"a": "a", "b": "b"}, tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text(encoding="utf-8") == "old"
    unpack(made, {"a": "a"}, tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text(encoding="utf-8") == "new"
    assert files(tmp_path) == ["a.zip", "out/a"]


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"an error page")
    with pytest.raises(FetchError, match="not the expected archive"):
        unpack(tmp_path / "a.zip", {"a": "a"}, tmp_path / "out")


def test_of_two_processes_that_install_at_once_the_faster_wins(tmp_path, monkeypatch):
    target = tmp_path / "target"
    with scratch(tmp_path) as folder:
        (folder / "mine").mkdir()
        rename = Path.rename

        def too_late(path, to):
            target.mkdir()
            (target / "theirs").touch()
            return rename(path, to)

        monkeypatch.setattr(Path, "rename", too_late)
        install(folder / "mine", target)
    assert files(tmp_path) == ["target/theirs"]


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FetchError, match=r"cannot be written .*; set FEDRECALL_CACHE"), scratch(tmp_path / "file"):
        pass
