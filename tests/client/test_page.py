"""The page for the person, in a real browser: what it shows, in both languages, by keyboard, and what it never does."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from client.behaviour import Behaviour
from client.consent import read_consent, write_consent
from client.home import Home
from client.host import answer
from shared.proofs import LastReceipt

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None and os.environ.get("CI") == "true":
    raise RuntimeError("no Chromium here; apt-get install chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
PATIENCE = 20.0  # seconds


@dataclass
class Tab:
    """One tab, spoken to over the DevTools protocol."""

    line: ClientConnection
    session: str = ""
    number: int = 0
    heard: list[dict[str, Any]] = field(default_factory=list)

    def send(self, method, **given):
        self.number += 1
        said = {"id": self.number, "method": method, "params": given}
        self.line.send(json.dumps(said | ({"sessionId": self.session} if self.session else {})))
        while True:
            heard = json.loads(self.line.recv(PATIENCE))
            if heard.get("id") == self.number:
                assert "error" not in heard, heard
                return heard["result"]
            self.heard.append(heard)

    def run(self, script):
        """The value of a script, promises awaited."""
        said = {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        result = self.send("Runtime.evaluate", **said)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script):
        """Wait until a script says something true."""
        end = time.monotonic() + PATIENCE
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"{script}\n{self.run('document.body.innerText')}"
            time.sleep(0.02)
        return value

    def go(self, url, width=1280):
        narrow = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=narrow)
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def press(self, key, code=0):
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def text(self, selector="body"):
        return self.run(f"document.querySelector({selector!r}).innerText")

    def picture(self, path):
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        Path(path).write_bytes(base64.b64decode(shot["data"]))


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """The address of a headless browser's DevTools."""
    folder = tmp_path_factory.mktemp("chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += ["--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
    with subprocess.Popen([CHROMIUM, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        told, end = folder / "DevToolsActivePort", time.monotonic() + 60
        while not (told.exists() and len(told.read_text().splitlines()) == 2):
            assert time.monotonic() < end, "Chromium does not start"
            time.sleep(0.05)
        port, path = told.read_text().splitlines()
        yield f"ws://127.0.0.1:{port}{path}"
        run.terminate()


@pytest.fixture
def tab(browser):
    """A fresh tab in a browser context of its own."""
    with connect(browser, max_size=None, proxy=None) as line:
        made = Tab(line)
        context = made.send("Target.createBrowserContext")["browserContextId"]
        target = made.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        made.session = made.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            made.send(f"{domain}.enable")
        yield made
        made.session = ""
        made.send("Target.disposeBrowserContext", browserContextId=context)
