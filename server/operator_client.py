"""Calling the operator API; needs nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from server.house import house_at
from server.operators import Credential, read_credential
from shared.errors import ConfigError, RunError

PATIENCE: Final = 120.0  # seconds: letting a client in waits for the SuperLink
LARGEST: Final = 1 << 26  # bytes of an answer


def credential_at(source: Path, token: str) -> Credential:
    """What to call the operator API with.

    Args:
        source: a credential file, or the folder of a server on this machine.
        token: with a folder; "" = none was given.

    Raises:
        ConfigError: neither; or a folder, and no token.
    """
    if source.is_file():
        return read_credential(source)
    house = house_at(source)
    if not token:
        raise ConfigError(
            "no token: set FEDRECALL_TOKEN or give --token-file; an operator is made by: fedrecall-server operator add"
        )
    return Credential(f"127.0.0.1:{house.config().service.operator_port}", house.ca.read_text("ascii"), token)


def call(
    credential: Credential, method: str, path: str, body: Mapping[str, Any] | None = None
) -> tuple[int, dict[str, Any] | list[Any]]:
    """One request; the HTTP status and the JSON that came.

    Raises:
        RunError: nobody answers, or not with the house's certificate, or not with JSON.
    """
    host, _, port = credential.api.rpartition(":")
    try:
        trusted = ssl.create_default_context(cadata=credential.ca)
        connection = http.client.HTTPSConnection(host, int(port), context=trusted, timeout=PATIENCE)
        sent = None if body is None else json.dumps(body)
        headers = {"Authorization": f"Bearer {credential.token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, sent, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read(LARGEST))
        finally:
            connection.close()
    except ssl.SSLError as error:
        raise RunError(f"{credential.api}: its certificate is not the server's ({error.reason})") from error
    except OSError as error:
        raise RunError(
            f"{credential.api}: no answer ({error.strerror or error}); is fedrecall-server up running?"
        ) from error
    except (ValueError, http.client.HTTPException) as error:
        raise RunError(f"{credential.api}: not an answer of the operator API ({type(error).__name__})") from error


def ask(credential: Credential, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 - JSON
    """As :func:`call`, where only success will do.

    Raises:
        RunError: as there, or the API's own sentence.
    """
    status, said = call(credential, method, path, body)
    if not 200 <= status < 300:
        raise RunError(str(said.get("error", status)) if isinstance(said, dict) else f"HTTP {status}")
    return said
