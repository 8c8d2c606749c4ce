"""The house's own certificate authority, and the one certificate that proxy, SuperLink and operator API serve with.

Devices trust this authority alone, and for nothing else: its certificate travels in every invitation. So it lasts long,
and the server's is renewed under it without anybody being invited anew (X.509 by RFC 5280; 398 days is the most that
browsers take, https://cabforum.org/working-groups/server/baseline-requirements/).
"""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from server.house import OWNER_ONLY, House
from shared.errors import ConfigError
from shared.files import write_atomically

AUTHORITY_DAYS: Final = 3650
SERVER_DAYS: Final = 398
_SKEW: Final = timedelta(hours=1)  # a device's clock may be behind
_USES: Final = (
    "digital_signature",
    "key_cert_sign",
    "crl_sign",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "encipher_only",
    "decipher_only",
)


def make_authority(house: House, now: datetime) -> None:
    """A new authority; who was invited under an old one no longer knows the server, whose key goes with it.

    Raises:
        OSError: the disk refuses.
    """
    house.certificate_key.unlink(missing_ok=True)
    key, name = generate_private_key(SECP256R1()), _name("fedrecall authority")
    usage = _usage("key_cert_sign", "crl_sign")
    certificate = (
        _draft(name, name, key, now, now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_atomically(house.ca_key, _pem(key), mode=OWNER_ONLY)
    write_atomically(house.ca, certificate.public_bytes(Encoding.PEM))


def issue(house: House, address: str, now: datetime) -> datetime:
    """Issue the server's certificate; its key stays what it is where there is one, and is made where there is none.

    Args:
        house: with its authority.
        address: host:port of the server; the certificate also names loopback.
        now: with its zone.

    Returns:
        When it expires.

    Raises:
        ConfigError: the authority's certificate or key is missing, broken or expired.
        OSError: the disk refuses.
    """
    authority, ca_key = _certificate(house.ca), _key(house.ca_key)
    if authority.public_key() != ca_key.public_key():
        raise ConfigError(f"{house.ca_key}: not the key of {house.ca}; put the pair back from a backup")
    end = authority.not_valid_after_utc
    if end <= now:
        raise ConfigError(
            f"{house.ca}: expired on {end:%Y-%m-%d}; make a new one: fedrecall-server certificates authority"
        )
    key = _key(house.certificate_key) if house.certificate_key.exists() else generate_private_key(SECP256R1())
    end = min(end, now + timedelta(days=SERVER_DAYS))  # under an authority that has expired it would be worth nothing
    draft = _draft(_name("fedrecall server"), authority.subject, key, now, end)
    certificate = (
        draft.add_extension(x509.SubjectAlternativeName(_names(address)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    write_atomically(house.certificate_key, _pem(key), mode=OWNER_ONLY)
    write_atomically(house.certificate, certificate.public_bytes(Encoding.PEM))
    return certificate.not_valid_after_utc


def expiry(path: Path) -> datetime:
    """When a certificate expires, with its zone.

    Raises:
        ConfigError: there is none, or it is broken.
    """
    return _certificate(path).not_valid_after_utc


def _draft(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(end)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _names(address: str) -> list[x509.GeneralName]:
    """The names in a certificate, each once: the host of ``address``, and loopback for what runs on this machine."""
    host = address.rpartition(":")[0].strip("[]")
    return [_general(name) for name in dict.fromkeys((host, "localhost", "127.0.0.1", "::1"))]


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*uses: str) -> x509.KeyUsage:
    """For these uses and no other."""
    return x509.KeyUsage(**{use: use in uses for use in _USES})


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no readable PEM certificate; put it back from a backup") from error


def _key(path: Path) -> EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: no readable PEM private key; put it back from a backup") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: expected an EC key, found another kind")
    return key
