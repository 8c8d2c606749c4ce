"""The page for the person, in a real browser: what it shows, in both languages, by keyboard, and what it never does."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from contextlib import suppress
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


class DevToolsError(Exception):
    """What the browser says that it cannot do."""


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
                if "error" in heard:
                    raise DevToolsError(heard["error"]["message"])
                return heard["result"]
            self.heard.append(heard)

    def run(self, script):
        """The value of a script, promises awaited."""
        said = {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        result = self.send("Runtime.evaluate", **said)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script):
        """Wait until a script says something true, be it on the page that comes next."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with suppress(DevToolsError):  # between two pages there is nothing to ask
                if value := self.run(script):
                    return value
            time.sleep(0.02)
        pytest.fail(f"{script}\n{self.text()}")

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
    flags += ["--host-resolver-rules=MAP evil.test 127.0.0.1"]
    with subprocess.Popen(
        [CHROMIUM, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
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


@pytest.fixture
def home(tmp_path, host, history, consent, task, message):
    """A folder with a consent and a ledger of two releases and a refusal."""
    write_consent(consent(epsilon_lifetime=50), tmp_path / "consent.toml")
    made = host([history(0)])
    answer(made, "1", message(task("statistics", round=0)))
    for changes in ({"round": 1}, {"round": 2, "catalogue": "f" * 64}):
        last = LastReceipt(made.ledger.count, made.ledger.hash_at(made.ledger.count - 1))
        answer(made, "1", message(task("update", **changes), last))
    return Home(tmp_path)


@pytest.fixture
def page(tab, stand_in, home, local_api):
    """``page(language, width)``: the tab, showing the page of a device with three events."""
    stand_in.record([Behaviour(f"seen{n}", "view", 1.7e9 + n * 86_400) for n in range(3)])
    port, token = local_api(stand_in, home)

    def show(language="en", width=1280):
        tab.go(f"http://127.0.0.1:{port}/?lang={language}#token={token}", width)
        tab.until("!document.getElementById('whole').hidden")
        return tab

    show.port, show.token = port, token
    return show


def heard(tab, method):
    tab.run("0")  # whatever was on its way is here now
    return [one["params"] for one in tab.heard if one["method"] == method]


# --- what it shows


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize(
    ("language", "words"), [("en", ["Taking part", "For you", "Forget me"]), ("zh", ["正在参与学习", "忘记我"])]
)
def test_the_page_speaks_both_languages_on_both_widths(language, words, width, page):
    tab = page(language, width)
    text = tab.text()
    assert all(word in text for word in words)
    assert "undefined" not in text
    assert tab.run("document.documentElement.lang") == {"en": "en", "zh": "zh-CN"}[language]
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert heard(tab, "Log.entryAdded") == heard(tab, "Runtime.exceptionThrown") == []


def test_both_languages_have_the_same_words_and_the_page_asks_for_no_other(page):
    tab = page()
    missing = """import('/words.js').then(({WORDS}) => {
        const [en, zh] = [WORDS.en, WORDS.zh].map((words) => new Set(Object.keys(words)));
        const asked = [...document.querySelectorAll('[data-word]')].map((place) => place.dataset.word);
        const odd = [...en].filter((key) => !zh.has(key) || typeof WORDS.en[key] !== typeof WORDS.zh[key]);
        // In English the reasons are the API's own sentences.
        const more = [...zh].filter((key) => !en.has(key) && !key.startsWith('why_'));
        return JSON.stringify([...odd, ...more, ...asked.filter((key) => !en.has(key))]); })"""
    assert json.loads(tab.run(missing)) == []


def test_the_language_changes_in_place_and_is_kept(page):
    tab = page()
    tab.run("document.getElementById('language').click()")
    assert "为您推荐" in tab.text()
    tab.send("Page.reload")
    tab.until("document.readyState === 'complete' && document.getElementById('h-you')?.innerText === '为您推荐'")


def test_what_left_is_what_the_ledger_says(page):
    tab = page()
    rows = tab.run("[...document.querySelectorAll('#released tbody tr')].map((row) => row.innerText)")
    assert len(rows) == 2
    assert all("no protection: seeded noise" in row and "Mar 1, 2026" in row for row in rows)
    assert "run, 1" in rows[0]
    assert "run, 0" in rows[1]
    assert "catalogue ffffffffffff is not here" in tab.text("#refused")


def test_the_budget_stands_as_a_bar_and_in_words_with_its_unit(page):
    tab = page()
    bars = "[...document.querySelectorAll('[role=meter]')].map((bar) => bar.getAttribute('aria-valuetext'))"
    said = tab.run(bars)
    assert len(said) == 3
    assert all(one.startswith("epsilon ") and " of " in one for one in said)
    assert said[2].endswith(" of 50")
    text = tab.text("#budget")
    for words in (
        "whole history",
        "zero-out",
        "trust distributed",
        "delta 1e−3",
        "zCDP",
        "everybody else works with it",
        "Not covered",
    ):
        assert words in text


@pytest.mark.parametrize("place", ["#standing-facts", "#released", "#caps"])
def test_no_epsilon_is_shown_without_what_it_means(page, place):
    tab = page()
    assert (
        "unit user, adjacency zero-out, trust distributed, delta 1e−3, accountant zCDP; "
        "what it covers: see “What these numbers promise”"
    ) in tab.text(place)
    tab.run("document.getElementById('language').click()")
    assert (
        "单位 user，相邻关系 zero-out，信任 distributed，δ 1e−3，核算 zCDP；涵盖范围见“这些数字保证什么”"
        in tab.text(place)
    )


def test_without_privacy_the_bar_says_unbounded(page, home):
    raw = home.ledger.read_bytes().splitlines(keepends=True)
    assert raw
    tab = page()
    script = """Promise.all([import('/parts.js'), import('/words.js')]).then(([parts, {WORDS}]) => {
        const caps = [{span: 'lifetime', epsilon: null, cap: 20}];
        const [bar] = parts.capBars({caps, period_days: 365, runs: []}, WORDS.en);
        return bar.innerText + bar.querySelector('.meter').className; })"""
    assert tab.run(script) == "For lifeunbounded: something left without privacymeter full"


def test_a_title_is_text_and_never_markup(page):
    tab = page()
    assert "Item <b>0</b>" in tab.text("#offers")
    assert tab.run("document.querySelectorAll('#offers b').length") == 0


def test_a_reason_opens_and_closes(page):
    tab = page()
    tab.run("document.querySelector('#offers button').click()")
    said = tab.until("document.querySelector('.why').innerText")
    assert "Because you bought Item one." in said
    assert "Item two (0.21 logits)" in said
    assert "Item five (0.30 logits)" in said
    assert tab.run("document.querySelector('#offers button').getAttribute('aria-expanded')") == "true"
    tab.run("document.querySelector('#offers button').click()")
    assert tab.until("document.querySelector('.why').hidden")


# --- what it does


def test_turning_an_item_down_changes_the_list_at_once(page, stand_in):
    tab = page()
    tab.run("document.querySelectorAll('#offers button')[1].click()")
    tab.until("document.getElementById('said').innerText.includes('will not come again')")
    assert (stand_in.events[-1].item, stand_in.events[-1].kind) == ("i0", "not_interested")
    assert "Item <b>0</b>" not in tab.text("#offers")
    assert tab.run("document.activeElement.closest('#offers') !== null")  # the focus is not lost with the item


def test_the_switch_writes_the_consent(page, home):
    tab = page()
    tab.run("document.getElementById('switch').click()")
    tab.until("document.getElementById('h-standing').innerText === 'Not taking part'")
    assert not read_consent(home.consent).enabled
    assert "Nothing leaves this device" in tab.text("#standing")
    tab.run("document.getElementById('switch').click()")
    tab.until("document.getElementById('h-standing').innerText === 'Taking part in learning'")
    assert read_consent(home.consent).enabled


def test_what_is_allowed_is_saved_and_a_wrong_value_is_told(page, home):
    tab = page()
    tab.run(
        "document.querySelector('[name=view]').click(); document.querySelector('[name=epsilon_lifetime]').value = '7.5'"
    )
    tab.run("document.querySelector('#consent button').click()")
    tab.until("document.getElementById('saved').innerText")
    kept = read_consent(home.consent)
    assert kept.epsilon_lifetime == 7.5
    assert kept.behaviour == ("purchase", "rating", "dwell", "not_interested")
    tab.run("document.querySelector('[name=epsilon_lifetime]').value = '-1'")
    tab.run("document.querySelector('#consent button').click()")
    assert "epsilon_lifetime" in tab.until("document.getElementById('consent-problem').innerText")
    assert read_consent(home.consent) == kept


def test_forgetting_asks_first_and_shows_its_proof_by_keyboard_alone(page, stand_in):
    tab = page()
    tab.run("document.querySelector('#oblivion button').focus()")
    tab.press("Enter", 13)
    tab.until("document.getElementById('sure').open")
    assert "All of 3 events will be deleted" in tab.text("#sure")
    assert tab.run("document.activeElement.value") == "no"  # the harmless answer has the focus
    tab.press("Enter", 13)
    tab.until("!document.getElementById('sure').open")
    tab.run("document.querySelector('#oblivion button').focus()")
    tab.press("Enter", 13)
    tab.until("document.getElementById('sure').open")
    tab.press("Escape", 27)
    tab.until("!document.getElementById('sure').open")
    assert stand_in.forgotten == []
    tab.press("Enter", 13)
    tab.until("document.getElementById('sure').open")
    tab.press("Tab", 9)
    tab.press("Enter", 13)
    tab.until("!document.getElementById('proof').hidden")
    assert stand_in.forgotten == [(None, None)]
    assert "Receipt 1" in tab.text("#proof")
    assert "Pieces found\n0" in tab.text("#proof")
    assert tab.run("document.activeElement.id") == "proof"


def test_forgetting_what_is_old_needs_a_day(page, stand_in):
    tab = page()
    tab.run("document.querySelector('[value=before]').click(); document.querySelector('#oblivion button').click()")
    assert tab.run("document.activeElement.id") == "before"
    assert not tab.run("document.getElementById('sure').open")
    tab.run(
        "document.getElementById('before').value = '2024-01-02'; document.querySelector('#oblivion button').click()"
    )
    tab.until("document.getElementById('sure').open")
    assert "Everything before Jan 2, 2024" in tab.text("#sure")
    tab.run("document.querySelector('#sure [value=yes]').click()")
    tab.until("!document.getElementById('proof').hidden")
    assert stand_in.forgotten == [(None, 1_704_153_600.0)]


def test_every_control_is_reached_by_tab_and_shows_that_it_is(page):
    tab = page()
    tab.run("document.body.tabIndex = -1; document.body.focus()")
    wanted = tab.run("""[...document.querySelectorAll('a[href], button, input, summary')].filter((one) =>
        one.checkVisibility() && !one.closest('dialog') && !(one.type === 'radio' && !one.checked)).length""")
    reached, plain = set(), []
    for _ in range(wanted):
        tab.press("Tab", 9)
        html, outline = tab.run("""(() => { const one = document.activeElement, style = getComputedStyle(one);
            return [one.outerHTML, `${style.outlineStyle} ${style.outlineWidth}`]; })()""")
        reached.add(html)
        plain += [html] if outline != "solid 3px" else []
    assert len(reached) == wanted
    assert plain == []


def test_a_device_that_went_away_is_told(page):
    tab = page()
    tab.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    tab.run("document.getElementById('switch').click()")
    assert "does not answer" in tab.until("document.getElementById('problem').innerText")


# --- what it never does


def test_the_token_leaves_the_address_at_once_and_nothing_is_asked_elsewhere(page):
    tab = page()
    assert page.token not in tab.run("location.href")
    assert page.token not in tab.run(
        "JSON.stringify(localStorage) + document.cookie + document.documentElement.outerHTML"
    )
    asked = [one["request"]["url"] for one in heard(tab, "Network.requestWillBeSent")]
    assert len(asked) > 5
    assert all(url.startswith(f"http://127.0.0.1:{page.port}/") for url in asked)
    assert page.token not in "".join(url.partition("#")[0] for url in asked)


def test_without_the_token_the_page_holds_nothing(tab, page):
    tab.go(f"http://127.0.0.1:{page.port}/?lang=en")
    tab.until("!document.getElementById('entry').hidden")
    assert not tab.run("document.getElementById('whole').checkVisibility()")
    assert "seen0" not in tab.run("document.documentElement.outerHTML")
    tab.run("document.getElementById('token').value = 'wrong'; document.querySelector('#entry button').click()")
    assert "not this device's" in tab.until("document.getElementById('problem').innerText")
    tab.run(f"document.getElementById('token').value = '{page.token}'; document.querySelector('#entry button').click()")
    tab.until("!document.getElementById('whole').hidden")


def test_a_page_of_another_origin_gets_nothing_in_and_nothing_out(tab, page, local_api, stand_in, home, tmp_path):
    """A hostile page knows the port, and even the token; every way that a browser gives it is closed."""
    other, _ = local_api(stand_in, Home(tmp_path / "other"))
    tab.go(f"http://127.0.0.1:{other}/")
    tab.send("Page.setBypassCSP", enabled=True)  # the hostile page has no policy of its own
    tab.go(f"http://127.0.0.1:{other}/")
    before = len(stand_in.events), home.consent.read_bytes()
    here = f"http://127.0.0.1:{page.port}"
    tries = f"""(async () => {{
        const body = JSON.stringify({{everything: true}}), said = [];
        const tell = (name) => (answer) => said.push([name, answer.type ?? answer.name, answer.status ?? 0]);
        const auth = {{Authorization: 'Bearer {page.token}', 'Content-Type': 'application/json'}};
        for (const [name, given] of Object.entries({{
            simple: {{method: 'POST', body, mode: 'no-cors'}},
            text: {{method: 'POST', body, headers: {{'Content-Type': 'text/plain'}}}},
            json: {{method: 'POST', body, headers: auth}}}}))
            await fetch('{here}/v1/forget', given).then(tell(name), tell(name));
        await fetch('{here}/v1/status', {{headers: auth}}).then(tell('read'), tell('read'));
        return JSON.stringify(said); }})()"""
    assert json.loads(tab.run(tries)) == [
        ["simple", "TypeError", 0],
        ["text", "TypeError", 0],
        ["json", "TypeError", 0],
        ["read", "TypeError", 0],
    ]
    form = f"""(() => {{ const form = document.createElement('form');
        form.method = 'POST'; form.action = '{here}/v1/forget'; form.enctype = 'text/plain';
        const field = document.createElement('input'); field.name = '{{"everything": true, "x": "'; field.value = '"}}';
        form.append(field); document.body.append(form); setTimeout(() => form.submit()); }})()"""
    tab.run(form)
    tab.until(f"location.href.startsWith('{here}/v1/forget') && document.readyState === 'complete'")
    assert stand_in.forgotten == []
    assert (len(stand_in.events), home.consent.read_bytes()) == before


def test_a_frame_around_the_page_stays_empty(tab, page, local_api, stand_in, home):
    other, _ = local_api(stand_in, home)
    tab.send("Page.setBypassCSP", enabled=True)
    tab.go(f"http://127.0.0.1:{other}/")
    tab.send("Page.setBypassCSP", enabled=False)
    tab.heard.clear()
    tab.run(f"""new Promise((done) => {{ const frame = document.createElement('iframe');
        frame.onload = frame.onerror = done; frame.src = 'http://127.0.0.1:{page.port}/';
        document.body.append(frame); }})""")
    answers = [
        one["response"]["status"]
        for one in heard(tab, "Network.responseReceived")
        if str(page.port) in one["response"]["url"]
    ]
    assert answers in ([], [403])
    assert tab.run("frames.length") == 1


def test_a_name_that_points_here_is_refused(tab, page):
    """DNS rebinding: the browser believes that evil.test is this machine."""
    tab.go(f"http://evil.test:{page.port}/#token={page.token}")
    assert "this is not the host that was asked for" in tab.text()
