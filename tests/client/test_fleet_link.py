"""The contract with Flower's Fleet API: what the adapter leans on, held against a real SuperLink over TLS."""

from __future__ import annotations

import threading
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

import client.fleet_link as adapter
from client.fleet_link import (
    Incoming,
    RefusedError,
    check_version,
    content_of,
    link,
)
from client.https_line import LinkError
from shared.errors import ProtocolError
from shared.parcels import parcel
from shared.protocol import declined_record, is_declined
from shared.wire import pack, unpack


def same(one, other):
    """Whether two records say the same; Flower keeps no order of their parts."""
    return pack(RecordDict(dict(sorted(one.items())))) == pack(RecordDict(dict(sorted(other.items()))))


SAID = RecordDict(
    {
        "words": ConfigRecord({"a": "b", "n": 3, "raw": b"\0\1"}),
        "arrays": ArrayRecord({"x": Array(np.arange(6, dtype=np.float32)), "y": Array(np.zeros(200_000, np.int32))}),
    }
)


def test_the_installed_flower_is_one_that_was_tried():
    check_version(version("flwr"))


@pytest.mark.parametrize("other", ["1.40.2", "1.43.0", "2.0.0"])
def test_another_flower_is_refused_with_a_sentence(other):
    with pytest.raises(LinkError, match=r"1\.41 or 1\.42"):
        check_version(other)


def test_the_adapter_cannot_end_the_process_and_asks_for_no_code():
    text = Path(adapter.__file__).read_text(encoding="utf-8")
    assert "flwr_exit" not in text
    assert "os.kill" not in text
    assert "fab" not in text.lower().replace("fabric", "")


def test_records_come_out_as_they_went_in():
    assert pack(unpack(pack(SAID))) == pack(SAID)
    with pytest.raises(ProtocolError):
        unpack(b"\xff\xff\xff")


def test_nobody_there_is_an_error_and_not_the_end(unused_port):
    key = generate_private_key(SECP384R1())
    with pytest.raises(LinkError, match=r"127\.0\.0\.1"), link(f"127.0.0.1:{unused_port}", AUTHORITY, key):
        pass


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _authority():
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    key, now = generate_private_key(SECP384R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "other")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


AUTHORITY = _authority()  # of no server here


# --- against a real SuperLink


@pytest.fixture
def node(superlink):
    """A registered key, and its number."""
    key = generate_private_key(SECP384R1())
    return key, superlink.register(key)


def patiently(line, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (incoming := line.receive()) is not None:
            return incoming
        time.sleep(0.05)
    raise TimeoutError


@pytest.mark.slow
def test_a_message_arrives_whole_and_its_answer_goes_back(superlink, node):
    key, number = node
    with link(superlink.address, superlink.ca, key) as line:
        assert line.node == number
        assert line.receive() is None
        asked = superlink.ask(number, SAID, "train.update")
        incoming = patiently(line)
        assert incoming.kind == "train.update"
        assert same(content_of(incoming), SAID)
        assert line.reply(incoming, SAID)
        assert line.reply(incoming, SAID), "the same answer again is one answer"
        assert same(superlink.answer(asked).content, SAID)
        assert line.receive() is None


@pytest.mark.slow
def test_a_parcel_is_pulled_without_its_shells(superlink, node, monkeypatch):
    """Each object is a call of its own, and a call is what a round costs."""
    key, number = node
    paths = []
    real = adapter.post
    monkeypatch.setattr(adapter, "post", lambda made, path, *rest: paths.append(path) or real(made, path, *rest))
    with link(superlink.address, superlink.ca, key) as line:
        superlink.ask(number, parcel(SAID))
        paths.clear()
        incoming = patiently(line)
        assert paths.count("v1/fleet/pull-object") == 1
        assert same(content_of(incoming), SAID)
    with pytest.raises(ProtocolError, match="parcel"):
        content_of(Incoming(incoming.raw, "x", {"x": ConfigRecord({"raw": b"abc"}).deflate()}))
    with pytest.raises(ProtocolError):
        content_of(Incoming(incoming.raw, "x", {"x": RecordDict().deflate()}))


@pytest.mark.slow
def test_an_answer_to_a_message_needs_its_metadata_alone(superlink, node):
    """After a crash that is all that there is."""
    key, number = node
    with link(superlink.address, superlink.ca, key) as line:
        asked = superlink.ask(number, SAID)
        raw = patiently(line).raw
        assert line.reply(Incoming(raw), declined_record())
        assert is_declined(superlink.answer(asked).content)


@pytest.mark.slow
def test_a_crashed_device_is_let_in_again_at_once_by_its_number(superlink, node):
    """Without it, Flower refuses for a minute to activate who is there."""
    key, number = node
    first = link(superlink.address, superlink.ca, key)
    line = first.__enter__()
    with pytest.raises(RefusedError, match="still thought present"), link(superlink.address, superlink.ca, key):
        pass
    with link(superlink.address, superlink.ca, key, known=number) as second:
        assert second.node == line.node == number
        superlink.ask(number, SAID)
        assert same(content_of(patiently(second)), SAID)
    first.__exit__(None, None, None)


@pytest.mark.slow
def test_a_number_that_was_forgotten_or_is_anothers_is_asked_for_anew(superlink, node):
    key, number = node
    with link(superlink.address, superlink.ca, key, known=12345) as line:
        assert line.node == number


@pytest.mark.slow
def test_who_is_not_registered_or_was_revoked_is_refused(superlink, node):
    stranger = generate_private_key(SECP384R1())
    with pytest.raises(RefusedError, match="not approved yet"), link(superlink.address, superlink.ca, stranger):
        pass
    key, number = node
    with link(superlink.address, superlink.ca, key) as line:
        superlink.unregister(number)
        with pytest.raises(RefusedError, match="does not know this device"):
            line.receive()
    with pytest.raises(RefusedError), link(superlink.address, superlink.ca, key, known=number):
        pass


@pytest.mark.slow
def test_a_server_of_another_authority_is_not_spoken_to(superlink, node):
    key, _ = node
    with pytest.raises(LinkError, match="certificate"), link(superlink.address, AUTHORITY, key):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [-4, 4, 90, -90])
def test_a_clock_that_is_wrong_does_no_harm(minutes, superlink, node):
    key, number = node
    with link(superlink.address, superlink.ca, key, clock=lambda: time.time() + 60 * minutes) as line:
        assert line.ahead == pytest.approx(-60 * minutes, abs=3)
        asked = superlink.ask(number, SAID, ttl=30)
        assert line.reply(patiently(line), SAID)
        assert superlink.answer(asked).has_content()


@pytest.mark.slow
def test_a_clock_that_is_days_off_is_to_be_set(superlink, node):
    key, _ = node
    wrong = lambda: time.time() + 3 * 86_400  # noqa: E731
    with pytest.raises(LinkError, match=r"3\.0 days off"), link(superlink.address, superlink.ca, key, clock=wrong):
        pass


@pytest.mark.slow
def test_an_answer_that_comes_too_late_is_dropped(superlink, node):
    key, number = node
    with link(superlink.address, superlink.ca, key) as line:
        superlink.ask(number, SAID, ttl=1.0)
        incoming = patiently(line)
        time.sleep(1.2)
        assert not line.reply(incoming, SAID)


@pytest.mark.slow
def test_a_superlink_that_is_killed_and_comes_back_gets_its_answer(superlink, node):
    key, number = node
    with link(superlink.address, superlink.ca, key) as line:
        asked = superlink.ask(number, SAID)
        incoming = patiently(line)
        superlink.kill()
        with pytest.raises(LinkError):
            line.receive()
        back = threading.Timer(2.0, superlink.start)
        back.start()
        assert line.reply(incoming, SAID)
        back.join()
        assert same(superlink.answer(asked).content, SAID)


@pytest.mark.slow
def test_stopping_does_not_wait_for_a_server_that_is_gone(superlink, node):
    key, number = node
    stop = threading.Event()
    with link(superlink.address, superlink.ca, key, stop=stop) as line:
        superlink.ask(number, SAID)
        incoming = patiently(line)
        superlink.kill()
        stop.set()
        with pytest.raises(LinkError):
            line.reply(incoming, SAID)
    superlink.start()
