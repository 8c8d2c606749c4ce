"""Makes the runs beside this file, so that ``fedrecall-audit verify`` can be tried before any run of one's own.

    python docs/audit-examples/make.py [FOLDER]

One good run of five clients and three broken ones, made by the tests' gallery (``tests/shared/audit/gallery.py``).
Behaviour is invented; keys are seeded, so they sign nothing of worth.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Final

HERE: Final = Path(__file__).parent
BROKEN: Final = ("edited-epsilon", "dropped-line", "above-k")
GALLERY: Final = HERE.parents[1] / "tests" / "shared" / "audit" / "gallery.py"
KEPT: Final = ("ledger.jsonl", "clients.jsonl", "summary.json", "attack.json", "keys.toml")
CLIENTS: Final = 5


def load_gallery() -> ModuleType:
    """The tests' gallery."""
    spec = importlib.util.spec_from_file_location("gallery", GALLERY)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{GALLERY}: missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def make(out: Path) -> None:
    """Write ``good`` and the broken ones below a folder, in place of what is there."""
    gallery = load_gallery()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        data = gallery.write_data(work / "data", users=CLIENTS)
        good = gallery.make_run(work / "good", data, "rounds=2", "training.context=4")
        steady(gallery.attacked(good, canaries=1000))
        for broken in gallery.GALLERY:
            if broken.name in BROKEN:
                broken.make(good, work / broken.name)
        for run in ("good", *BROKEN):
            shutil.rmtree(out / run, ignore_errors=True)
            (out / run).mkdir(parents=True)
            for file in KEPT:
                shutil.copy(work / run / file, out / run / file)


def steady(run: Path) -> None:
    """Takes out what differs from machine to machine and time to time: seconds and memory."""
    summary, attack = (json.loads((run / name).read_text()) for name in ("summary.json", "attack.json"))
    attack["made"]["seconds"] = 0.0
    kept = {name: value for name, value in summary.items() if name not in MEASURED}
    (run / "summary.json").write_text(json.dumps(kept, indent=1) + "\n")
    (run / "attack.json").write_text(json.dumps(attack, indent=1) + "\n")


MEASURED: Final = ("wall_seconds", "client_updates_per_second", "peak_rss_mb")

if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
