"""The app that ``flwr run`` is given: a few lines that call the installed package, so that no code travels.

Flower wants an app of its own file in a bundle, and no name imported from elsewhere. The bundle is the same for every
run of an installation; a device's agent never fetches it, a stock SuperNode runs its client part, which calls what is
installed there.
"""

from __future__ import annotations

from importlib import metadata
from typing import Final

from server.house import House
from shared.files import write_atomically

_PROJECT: Final = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedrecall-app"
version = "{version}"
description = "Calls the installed fedrecall; no code travels."
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41,<1.43"]

[tool.flwr.app]
publisher = "fedrecall"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = ["LICENSE", "fedrecall_app/*.py"]

[tool.flwr.app.components]
serverapp = "fedrecall_app.server_app:app"
clientapp = "fedrecall_app.client_app:app"
"""
_SERVER: Final = '''"""The run loop of the installed package."""

from flwr.serverapp import ServerApp

from server.flower_grid import FlowerGrid
from server.serving import serve

app = ServerApp()


@app.main()
def main(grid, context):
    """Serve until the house is closed."""
    serve(FlowerGrid(grid))
'''
_CLIENT: Final = '''"""The installed client, for stock SuperNodes."""

import client.app

app = client.app.app
'''
_LICENCE: Final = "Apache-2.0, as the installed package fedrecall, which this calls.\n"


def write_app(house: House) -> None:
    """Write the app into the house; what lies there is replaced.

    Raises:
        OSError: the disk refuses.
    """
    files = {
        "pyproject.toml": _PROJECT.format(version=metadata.version("fedrecall")),
        "LICENSE": _LICENCE,
        "fedrecall_app/__init__.py": "",
        "fedrecall_app/server_app.py": _SERVER,
        "fedrecall_app/client_app.py": _CLIENT,
    }
    for name, content in files.items():
        write_atomically(house.app / name, content.encode())
