"""The app that Flower is given: it builds, and holds no code but the calls."""

from __future__ import annotations

import ast
import os
import subprocess
import zipfile

from server.shim import write_app
from server.superlink import BIN


def test_flower_builds_it_and_nothing_but_calls_of_the_installed_package_is_in_it(house):
    write_app(house)
    quiet = {"FLWR_HOME": str(house.flwr_home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    done = subprocess.run(
        [BIN / "flwr", "build", "--app", house.app],
        cwd=house.folder,
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (bundle,) = house.folder.glob("*.fab")
    with zipfile.ZipFile(bundle) as archive:
        code = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}
    assert sum(len(text) for text in code.values()) < 1000
    imported = {
        name.name if isinstance(node, ast.Import) else node.module
        for text in code.values()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported == {"client.app", "flwr.serverapp", "server.flower_grid", "server.serving"}


def test_it_is_the_same_bytes_every_time(house):
    write_app(house)
    files = {path: path.read_bytes() for path in house.app.rglob("*") if path.is_file()}
    write_app(house)
    assert files == {path: path.read_bytes() for path in house.app.rglob("*") if path.is_file()}
