"""One authority for a house, one certificate under it; checked by the TLS of the standard library."""

from __future__ import annotations

import socket
import ssl
import stat
from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from server.certificates import AUTHORITY_DAYS, SERVER_DAYS, expiry, issue, make_authority
from server.house import House
from shared.errors import ConfigError


def chain_holds(house, name, at):
    ca = x509.load_pem_x509_certificate(house.ca.read_bytes())
    certificate = x509.load_pem_x509_certificate(house.certificate.read_bytes())
    subject = x509.DNSName(name)
    verifier = PolicyBuilder().store(Store([ca])).time(at).build_server_verifier(subject)
    try:
        verifier.verify(certificate, [])
    except VerificationError:
        return False
    return True


def shakes_hands(house, trusted, name):
    """Whether a client that trusts ``trusted`` alone accepts the house's certificate as that of ``name``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(house.certificate, house.certificate_key)
    ours, theirs = socket.socketpair()

    def serve():
        try:
            context.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = Thread(target=serve)
    thread.start()
    try:
        ssl.create_default_context(cafile=trusted.ca).wrap_socket(ours, server_hostname=name).close()
    except ssl.SSLCertVerificationError:
        return False
    finally:
        ours.close()
        thread.join()
    return True


def test_loopback_and_the_address_are_named_and_nothing_else(new_house, now):
    house = new_house(address="fleet.example.org:443")
    for name in ("fleet.example.org", "localhost"):
        assert chain_holds(house, name, now), name
    assert not chain_holds(house, "example.org", now)


def test_the_standard_librarys_tls_takes_it_by_name_and_by_number(new_house):
    now = datetime.now(UTC)
    house, other = new_house(address="10.1.2.3:443"), new_house(name="other")
    for one in (house, other):
        make_authority(one, now)
        issue(one, "10.1.2.3:443", now)
    assert shakes_hands(house, house, "localhost")
    assert shakes_hands(house, house, "127.0.0.1")
    assert shakes_hands(house, house, "10.1.2.3")
    assert not shakes_hands(house, house, "10.1.2.4")
    assert not shakes_hands(house, other, "localhost")


def test_the_server_has_398_days_and_the_authority_ten_years(house, now):
    assert expiry(house.certificate) == now + timedelta(days=SERVER_DAYS)
    assert expiry(house.ca) == now + timedelta(days=AUTHORITY_DAYS)
    assert not chain_holds(house, "localhost", now + timedelta(days=SERVER_DAYS + 1))


def test_a_device_whose_clock_is_four_minutes_behind_takes_it(house, now):
    assert chain_holds(house, "localhost", now - timedelta(minutes=4))


def test_renewing_keeps_authority_and_key_and_moves_the_end(house, now):
    ca, key = house.ca.read_bytes(), house.certificate_key.read_bytes()
    later = now + timedelta(days=300)
    assert issue(house, "localhost:8443", later) == later + timedelta(days=SERVER_DAYS)
    assert (house.ca.read_bytes(), house.certificate_key.read_bytes()) == (ca, key)
    assert chain_holds(house, "localhost", now + timedelta(days=500))


def test_a_key_that_was_taken_away_is_made_anew(house, now):
    old = house.certificate_key.read_bytes()
    house.certificate_key.unlink()
    issue(house, "localhost:8443", now)
    assert house.certificate_key.read_bytes() != old
    assert chain_holds(house, "localhost", now)


def test_private_keys_are_their_owners_alone(house):
    for path in (house.ca_key, house.certificate_key, house.ledger_key, house.registrar_key, house.superexec_secret):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(house.folder.stat().st_mode) == 0o700


def test_the_authority_signs_servers_and_no_other_authority(house):
    ca = x509.load_pem_x509_certificate(house.ca.read_bytes())
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    server = x509.load_pem_x509_certificate(house.certificate.read_bytes())
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_an_authority_that_expired_is_said(house, now):
    with pytest.raises(ConfigError, match="certificates authority"):
        issue(house, "localhost:8443", now + timedelta(days=AUTHORITY_DAYS))


def test_no_certificate_outlasts_its_authority(house, now):
    later = now + timedelta(days=AUTHORITY_DAYS - 30)
    assert issue(house, "localhost:8443", later) == expiry(house.ca) == later + timedelta(days=30)


def test_the_key_of_another_authority_is_said(new_house, now):
    house, other = new_house(), new_house(name="other")
    house.ca_key.write_bytes(other.ca_key.read_bytes())
    with pytest.raises(ConfigError, match="not the key of"):
        issue(house, "localhost:8443", now)


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_missing_or_broken_file_is_said(content, tmp_path, now):
    house = House(tmp_path)
    make_authority(house, now)
    if content is None:
        house.ca.unlink()
    else:
        house.ca.write_bytes(content)
    with pytest.raises(ConfigError, match="no readable PEM certificate"):
        issue(house, "localhost:8443", now)


def test_a_key_of_another_kind_is_said(house, now):
    house.ca_key.write_bytes(house.ledger_key.read_bytes())
    with pytest.raises(ConfigError, match="expected an EC key"):
        issue(house, "localhost:8443", now)
