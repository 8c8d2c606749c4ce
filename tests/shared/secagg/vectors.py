"""Writes the golden vectors beside this file: two sessions of five in hex, and messages that must be refused.

Run ``.venv/bin/python tests/shared/secagg/vectors.py`` after a change of the wire format; test_vectors.py fails until
the files say what this script says. Another implementation reproduces every byte from them: a client's entropy is
SHAKE-256 of its seed, a colon and the number of the call (from 0), as long as asked for.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.secagg import client, server
from shared.secagg.keys import KEY, public_of
from shared.secagg.messages import ADVERT, NO_REGISTRATION, Signatures, bitmap, pack_graph, parse_advert, parse_deals

FOLDER = Path(__file__).parent / "vectors"
COMMAND = ".venv/bin/python tests/shared/secagg/vectors.py"
CLIENTS, SMALLEST, COLLUDERS, LENGTH = 5, 4, 1, 6
GONE, ME = 4, 1  # who drops out; who is sent the messages that must be refused
SESSION = hashlib.sha256(b"fedrecall secagg vectors").digest()


def entropy(seed: str) -> Callable[[int], bytes]:
    """See above."""
    calls = itertools.count()
    return lambda size: hashlib.shake_256(f"{seed}:{next(calls)}".encode()).digest(size)


def seed_of(number: int) -> str:
    return f"fedrecall secagg vectors, client {number}"


def name_of(number: int) -> str:
    return f"client {number}"


def identity_of(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"identity {number}".encode()).digest())


def vector_of(number: int) -> list[int]:
    """Small numbers, large ones, and both signs."""
    return [number, -number, (number + 1) * 10**8, -(10**8), 2**20 * (-1) ** number, 0]


def session(gone_before: str) -> dict[str, Any]:
    """A session in which one client is gone before it answers some step ("masked" or "signature")."""
    sources = [entropy(seed_of(number)) for number in range(CLIENTS)]
    members, adverts, deals = {}, {}, {}
    for number in range(CLIENTS):
        members[number], advert = client.join(
            SESSION, SMALLEST, COLLUDERS, identity_of(number), sources[number], NO_REGISTRATION
        )
        adverts[name_of(number)] = advert.pack()
    assembly = server.assemble(SESSION, SMALLEST, COLLUDERS, adverts, None)
    for number in range(CLIENTS):
        members[number], dealt_by = client.deal(
            members[number], assembly.roster.raw, identity_of(number), sources[number], None
        )
        deals[name_of(number)] = dealt_by.pack()
    dealt = server.collect(assembly, deals)
    boxes = server.boxes_for(assembly, dealt)
    masked, attestations, total = {}, {}, np.zeros(LENGTH, np.uint32)
    for number in range(CLIENTS - (gone_before == "masked")):
        members[number], words = client.mask(
            members[number], dealt.raw, boxes[name_of(number)], np.array(vector_of(number))
        )
        masked[name_of(number)] = words.astype("<u4").tobytes()
        attestations[name_of(number)] = client.attest(members[number], identity_of(number))
        total += words
    survivors = server.survivors_of(assembly, attestations)
    signatures = {}
    for number in range(CLIENTS - 1):
        members[number], signatures[name_of(number)] = client.agree(members[number], survivors, identity_of(number))
    endorsed = server.endorse(assembly, dealt, survivors, signatures, attestations)
    reveals = {name_of(number): client.reveal(members[number], endorsed).pack() for number in range(CLIENTS - 1)}
    result = server.unmask(assembly, dealt, survivors, total, reveals)
    said = {
        "advert": hexed(adverts),
        "deals": hexed(deals),
        "boxes": hexed(boxes),
        "masked": hexed(masked),
        "attestation": hexed(attestations),
        "signature": hexed(signatures),
        "reveal": hexed(reveals),
    }
    return {
        "regenerate": COMMAND,
        "session": SESSION.hex(),
        "smallest": SMALLEST,
        "colluders": COLLUDERS,
        "terms": asdict(assembly.terms),
        "clients": [
            {
                "name": name_of(number),
                "entropy_seed": seed_of(number),
                "identity_private": identity_of(number).private_bytes_raw().hex(),
                "vector": vector_of(number),
            }
            for number in range(CLIENTS)
        ],
        "gone": name_of(GONE),
        "gone_before": gone_before,
        "to_all": {
            "roster": assembly.roster.raw.hex(),
            "graph": dealt.raw.hex(),
            "survivors": survivors.hex(),
            "signatures": endorsed.hex(),
        },
        "of_each": said,
        "sum": result.tolist(),
    }


def hexed(messages: Mapping[str, bytes]) -> dict[str, str]:
    return {name: raw.hex() for name, raw in messages.items()}


# --- messages that must be refused


def must_fail(base: Mapping[str, Any]) -> list[dict[str, str]]:
    """Changed messages of the session that loses a client before the upload, with the sentence that refuses each.

    Those for client 1 arrive in place of the right one; a case for the server replaces one client's answer, or all.
    """
    return [
        {"name": name, "for": to, "message": message, "hex": raw.hex(), "refusal": refusal}
        for to, message, cases in (
            (name_of(ME), "roster", rosters(base)),
            (name_of(ME), "graph", graphs(base)),
            (name_of(ME), "boxes", boxes_of(base)),
            (name_of(ME), "survivors", survivor_sets(base)),
            (name_of(ME), "signatures", signature_sets(base)),
            ("server", "attestation", attestations_of(base)),
        )
        for name, raw, refusal in cases
    ]


Case = tuple[str, bytes, str]


def rosters(base: Mapping[str, Any]) -> Iterator[Case]:
    raw = bytes.fromhex(base["to_all"]["roster"])
    rows = [raw[start : start + ADVERT] for start in range(0, len(raw), ADVERT)]

    def with_row(number: int, **changes: bytes) -> bytes:
        row = replace(parse_advert(rows[number]), **changes).pack()
        return b"".join([*rows[:number], row, *rows[number + 1 :]])

    deals = parse_deals(bytes.fromhex(base["of_each"]["deals"][name_of(ME)]), base["terms"]["neighbours"])
    pick, other = deals.picks[0], bytes(rows[0][:KEY])
    yield "empty", b"", "secagg: a roster of 0 bytes, expected a multiple of 224, from 1 to 100000 times"
    yield "cut", raw[:-1], "secagg: a roster of 1119 bytes, expected a multiple of 224, from 1 to 100000 times"
    yield "without this client", b"".join(rows[:1] + rows[2:]), "secagg: a roster without this client"
    rule = "must rise from colluders to members, at most 100000"
    yield "too small", b"".join(rows[:3]), f"secagg: a roster of 3: 3 members, 4 at least, 1 colluders: {rule}"
    yield "an identity twice", with_row(4, identity=other), "secagg: the roster lists one identity twice"
    replaced = with_row(ME, mask_key=public_of(b"\x01" * KEY))
    yield "own keys replaced", replaced, "secagg: the roster lists other keys for this client than it sent"
    unsigned = with_row(pick, signature=bytes(64))
    yield "unsigned", unsigned, f"secagg: the keys of member {pick} are not signed by it for this session"


def graphs(base: Mapping[str, Any]) -> Iterator[Case]:
    raw = bytes.fromhex(base["to_all"]["graph"])
    deals = {
        number: parse_deals(bytes.fromhex(base["of_each"]["deals"][name_of(number)]), base["terms"]["neighbours"])
        for number in range(CLIENTS)
    }
    rows = {number: one.row() for number, one in deals.items()}
    others = {number: [n for n in range(CLIENTS) if n not in (number, *deals[number].picks)] for number in deals}

    def repicked(number: int) -> bytes:
        picks = tuple(sorted((*deals[number].picks[1:], *others[number])))
        return pack_graph({**rows, number: replace(deals[number], picks=picks).row()}, CLIENTS)

    size = len(raw)
    yield "cut", raw[:-1], f"secagg: a graph of {size - 1} bytes, expected {size}"
    yield "a member too many", bytes([raw[0] | 32]) + raw[1:], "secagg: a set names members beyond the 5 on the roster"
    few = pack_graph({number: rows[number] for number in range(3)}, CLIENTS)
    yield "too few dealt", few, "secagg: 3 members dealt, at least 4 must have"
    alone = pack_graph({number: row for number, row in rows.items() if number != ME}, CLIENTS)
    yield "without this client", alone, "secagg: this client is not among those that dealt"
    yield "others' picks changed", repicked(0), "secagg: the picks of member 0 are not signed by it for this roster"
    yield "own picks changed", repicked(ME), "secagg: the picks of member 1 are not signed by it for this roster"
    itself = replace(deals[0], picks=(0, *deals[0].picks[1:])).row()
    twice = pack_graph({**rows, 0: itself}, CLIENTS)
    yield "a pick that is none", twice, "secagg: member 0 did not pick 3 distinct others of 5"


def boxes_of(base: Mapping[str, Any]) -> Iterator[Case]:
    raw = bytes.fromhex(base["of_each"]["boxes"][name_of(ME)])
    yield "cut", raw[:-1], f"secagg: boxes of {len(raw) - 1} bytes, expected {len(raw)}"
    yield "one too many", raw + raw[:88], f"secagg: boxes of {len(raw) + 88} bytes, expected {len(raw)}"


def survivor_sets(_base: Mapping[str, Any]) -> Iterator[Case]:
    yield "empty", b"", "secagg: a set of members of 0 bytes, expected 1"
    yield "too few", bitmap((0, 1, 2), CLIENTS), "secagg: 3 members survived, at least 4 must have"
    yield "without this client", bitmap((0, 2, 3, 4), CLIENTS), "secagg: this client is not among those that survived"
    yield "a member too many", b"\x2f", "secagg: a set names members beyond the 5 on the roster"


def signature_sets(base: Mapping[str, Any]) -> Iterator[Case]:
    right = [bytes.fromhex(made) for made in base["of_each"]["signature"].values()]
    attested = [bytes.fromhex(made) for made in base["of_each"]["attestation"].values()]
    size, everybody = 1 + 64 * len(right), range(CLIENTS - 1)

    def signed(signers: Any, made: list[bytes]) -> bytes:
        return Signatures(bitmap(signers, CLIENTS), tuple(made)).pack()

    few = signed((0, 1, 2), [*right[:3], attested[3]])
    yield "too few", few, "secagg: 3 signatures on the survivors, expected at least 4, of survivors only"
    yield "cut", signed(everybody, right)[:-1], f"secagg: signatures of {size - 1} bytes, expected {size}"
    other = signed(everybody, [right[1], *right[1:]])
    yield "one of them twice", other, "secagg: member 0 signed neither these survivors nor this graph"
    unsigned = signed(everybody, [*right[:3], attested[3]])
    yield "on the graph alone", unsigned, "secagg: member 3 signed neither these survivors nor this graph"
    outside = signed((0, 1, 2, 3, 4), right)
    yield "from outside", outside, "secagg: 5 signatures on the survivors, expected at least 4, of survivors only"


def attestations_of(base: Mapping[str, Any]) -> Iterator[Case]:
    right = bytes.fromhex(base["of_each"]["attestation"][name_of(0)])
    refusal = "secagg: 'client 1' did not sign the graph that its vector is masked under"
    yield "cut", right[:-1], refusal
    yield "of somebody else", right, refusal


def files() -> dict[str, str]:
    """Name -> content of each file."""
    before, after = session("masked"), session("signature")
    cases = {"regenerate": COMMAND, "session": "gone-before-upload.json", "cases": must_fail(before)}
    content = {"gone-before-upload.json": before, "gone-after-upload.json": after, "must-fail.json": cases}
    return {name: json.dumps(value, indent=1) + "\n" for name, value in content.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text, "utf-8")
