"""What an agent does before anybody asks: the first request waits for nothing that is loaded only then."""

from __future__ import annotations

import http.client
import threading

import pytest

from client import residence
from client.api import listening_on
from client.home import Home
from shared.errors import DataError

TOKEN = "t" * 43


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path)
    made.token.write_text(TOKEN)
    return made


@pytest.fixture
def free():
    with listening_on(0) as taken:
        return taken.getsockname()[1]


def rehearsing(stand_in, *, fails=False):
    """The stand-in, and when it was rehearsed and asked how it stands."""
    seen, asked = [], threading.Event()
    status = stand_in.status

    def rehearse():
        seen.append("rehearsed")
        if fails:
            raise DataError("a broken shelf")

    def standing():
        seen.append("asked")
        asked.set()
        return status()

    stand_in.rehearse, stand_in.status = rehearse, standing
    return seen, asked


def test_the_first_list_and_the_first_request_are_rehearsed(home, free, stand_in):
    seen, asked = rehearsing(stand_in)
    with residence._served(home, stand_in, free) as page:
        assert page == f"http://127.0.0.1:{free}/"
        assert asked.wait(10)
    assert seen == ["rehearsed", "asked"]


def test_a_rehearsal_that_fails_is_no_end(home, free, stand_in):
    seen, _ = rehearsing(stand_in, fails=True)
    with residence._served(home, stand_in, free):
        line = http.client.HTTPConnection("127.0.0.1", free, timeout=10)
        line.request("GET", "/v1/status", headers={"Authorization": f"Bearer {TOKEN}"})
        assert line.getresponse().status == 200
        line.close()
    assert seen == ["rehearsed", "asked"]


def test_the_device_is_closed_after_the_rehearsal(home, free, stand_in):
    began, go_on, done = threading.Event(), threading.Event(), []

    def rehearse():
        began.set()
        go_on.wait(10)
        done.append(1)

    stand_in.rehearse = rehearse
    with residence._served(home, stand_in, free):
        assert began.wait(10)
        threading.Timer(0.1, go_on.set).start()
    assert done == [1]
