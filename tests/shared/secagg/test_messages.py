"""One spelling for each message: whatever is not it is a ProtocolError, and nothing else is ever raised."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.secagg import client, messages, server
from shared.secagg.keys import KEY, SIGNATURE
from shared.secagg.messages import (
    ADVERT,
    BOX,
    PRINT,
    Advert,
    Deals,
    Reveal,
    Signatures,
    bitmap,
    bitmap_size,
    bits,
    cut_boxes,
    pack_graph,
    parse_advert,
    parse_deals,
    parse_graph,
    parse_reveal,
    parse_roster,
    parse_shares,
    parse_signatures,
)
from shared.secagg.shamir import LIMBS, PRIME, SHARE

SIZE = (10, 8, 1)
WHO = 4


@pytest.fixture(scope="module")
def session(cohort):
    return cohort(*SIZE, "messages").run("reveal", {"mask": [9]})


@pytest.fixture(scope="module")
def stages(cohort):
    """The same session after each step: what a member was when a message came."""
    return {last: cohort(*SIZE, "messages").run(last, {"mask": [9]}) for last in ("join", "deal", "mask", "agree")}


def wire(session):
    """Each message of the session, and its parser."""
    return {
        "advert": (session.adverts["00004"], parse_advert),
        "roster": (session.assembly.roster.raw, parse_roster),
        "deals": (session.deals["00004"], lambda raw: parse_deals(raw, 6)),
        "graph": (session.dealt.raw, lambda raw: parse_graph(raw, 10, 6)),
        "boxes": (session.boxes["00004"], lambda raw: cut_boxes(raw, len(session.members[WHO].dealers))),
        "survivors": (session.survivors, lambda raw: bits(raw, 10)),
        "signatures": (session.endorsed, lambda raw: parse_signatures(raw, 10, 9)),
        "reveal": (session.reveals["00004"], lambda raw: parse_reveal(raw, 10)),
    }


KINDS = ("advert", "roster", "deals", "graph", "boxes", "survivors", "signatures", "reveal")
kinds = pytest.mark.parametrize("kind", KINDS)


# --- sizes and round trips


def test_sizes_are_those_of_the_documentation(session):
    n, k, survivors = 10, 6, 9
    member = session.members[WHO]
    sizes = {kind: len(raw) for kind, (raw, _) in wire(session).items()}
    assert sizes == {
        "advert": 224,
        "roster": 224 * n,
        "deals": 4 * k + 64 + 88 * k + 64 * (k + 1),
        "graph": 2 + n * (4 * k + 64),
        "boxes": 88 * len(member.dealers),
        "survivors": 2,
        "signatures": 2 + 64 * survivors,
        "reveal": 40 * (1 + len(member.dealers)),
    }
    assert (ADVERT, BOX, PRINT, SHARE, SIGNATURE, KEY) == (224, 88, 32, 36, 64, 32)
    assert len(session.signatures["00004"]) == len(session.attestations["00004"]) == 64


@given(st.tuples(*(st.binary(min_size=size, max_size=size) for size in (KEY, KEY, KEY, SIGNATURE, SIGNATURE))))
def test_an_advert_comes_back_as_it_was(parts):
    assert parse_advert(Advert(*parts).pack()) == Advert(*parts)
    assert Advert(*parts).pack() == b"".join(parts)


@given(st.integers(0, 5), st.data())
def test_deals_come_back_as_they_were(k, data):
    deals = Deals(
        tuple(data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=k, max_size=k))),
        data.draw(st.binary(min_size=SIGNATURE, max_size=SIGNATURE)),
        tuple(data.draw(st.lists(st.binary(min_size=BOX, max_size=BOX), min_size=k, max_size=k))),
        data.draw(st.binary(min_size=64 * (k + 1), max_size=64 * (k + 1))),
    )
    assert parse_deals(deals.pack(), k) == deals


@given(st.integers(1, 70), st.data())
def test_a_set_of_members_comes_back_as_it_was(members, data):
    numbers = data.draw(st.sets(st.integers(0, members - 1)))
    raw = bitmap(numbers, members)
    assert len(raw) == bitmap_size(members) == -(-members // 8)
    assert bits(raw, members) == numbers
    assert int.from_bytes(raw, "little") == sum(1 << number for number in numbers)


@given(st.integers(2, 12), st.data())
def test_a_graph_comes_back_as_it_was(members, data):
    k = data.draw(st.integers(0, members - 1))
    dealers = data.draw(st.sets(st.integers(0, members - 1)))
    picks = {
        dealer: data.draw(st.permutations([n for n in range(members) if n != dealer]))[:k] for dealer in sorted(dealers)
    }
    rows = {dealer: messages.pack_numbers(chosen) + bytes([dealer]) * SIGNATURE for dealer, chosen in picks.items()}
    graph = parse_graph(pack_graph(rows, members), members, k)
    assert graph.dealt == dealers
    assert graph.picks == {dealer: tuple(chosen) for dealer, chosen in picks.items()}
    for member in range(members):
        assert graph.picked_by[member] == tuple(d for d in sorted(dealers) if member in picks[d])
    assert graph.signatures == {dealer: bytes([dealer]) * SIGNATURE for dealer in dealers}


@given(st.sets(st.integers(0, 20), max_size=8), st.data())
def test_a_reveal_comes_back_as_it_was(dealers, data):
    values = st.lists(st.integers(0, PRIME - 1), min_size=LIMBS, max_size=LIMBS)
    shares = np.array([data.draw(values) for _ in dealers], np.uint32).reshape(-1, LIMBS)
    again = parse_reveal(Reveal(tuple(dealers), shares).pack(), 21)
    assert again.dealers == tuple(dealers)
    assert (again.shares == shares).all()


@given(st.integers(0, 9))
def test_signatures_come_back_as_they_were(survivors):
    sent = Signatures(bitmap(range(survivors), 10), tuple(bytes([n]) * SIGNATURE for n in range(survivors)))
    assert parse_signatures(sent.pack(), 10, survivors) == sent


# --- strictness


@kinds
def test_every_truncation_and_every_extension_is_refused(session, kind):
    raw, parse = wire(session)[kind]
    parse(raw)
    unit = {"roster": ADVERT, "reveal": 40}.get(kind)
    for size in range(len(raw)):
        if unit is None or size % unit or not size:
            if kind == "reveal" and not size:
                continue  # nothing revealed is a message too
            with pytest.raises(ProtocolError):
                parse(raw[:size])
    for more in (b"\0", b"\xff", bytes(64)):
        with pytest.raises(ProtocolError):
            parse(raw + more)


@pytest.mark.parametrize("members", [1, 3, 9, 15, 17])
def test_one_bit_beyond_the_last_member_is_refused(members):
    for bit in range(members, 8 * bitmap_size(members)):
        raw = bytearray(bitmap(range(members), members))
        raw[bit // 8] |= 1 << bit % 8
        with pytest.raises(ProtocolError, match=f"beyond the {members} on the roster"):
            bits(bytes(raw), members)


@pytest.mark.parametrize("value", [PRIME, PRIME + 1, 2**32 - 1])
def test_a_value_outside_the_field_is_refused(value):
    words = np.zeros(2 * LIMBS, "<u4")
    words[-1] = value
    with pytest.raises(ProtocolError, match="outside the field"):
        parse_shares(words.tobytes())


@pytest.mark.parametrize("dealers", [(3, 3), (0, 10), (2**32 - 1, 1)], ids=["twice", "beyond", "far beyond"])
def test_shares_are_of_distinct_members(dealers):
    raw = Reveal(dealers, np.zeros((2, LIMBS), np.uint32)).pack()
    with pytest.raises(ProtocolError, match="shares of others than distinct members of a roster of 10"):
        parse_reveal(raw, 10)


def test_the_largest_value_of_the_field_is_taken():
    words = np.full(LIMBS, PRIME - 1, "<u4")
    assert (parse_shares(words.tobytes()) == PRIME - 1).all()


def test_a_graph_is_not_taken_for_one_with_other_numbers(session):
    for members, neighbours in ((10, 5), (10, 7), (9, 6), (8, 6), (17, 6)):
        with pytest.raises(ProtocolError):
            parse_graph(session.dealt.raw, members, neighbours)


def test_a_bit_more_in_the_set_of_signers_is_refused(session):
    """The set has as many bits as the roster; who signs is not who survives."""
    raw = session.endorsed
    assert bits(raw[:2], 10) == frozenset(range(9))
    with pytest.raises(ProtocolError, match="beyond the 10"):
        client.reveal(session.members[WHO], raw[:1] + b"\xff" + raw[2:])


# --- anything at all, to the handlers themselves


def broken(raw, draw):
    """A message with a few bytes changed, cut off, put in, or another altogether."""
    out = bytearray(raw)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(out) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "put", "end", "other"]))
        if kind == "flip" and out:
            out[place] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del out[place : place + draw(st.integers(1, 8))]
        elif kind == "put":
            out[place:place] = draw(st.binary(max_size=8))
        elif kind == "end":
            del out[place:]
        elif kind == "other":
            out[:] = draw(st.binary(max_size=300))
    return bytes(out)


def to_client(stages, kind, raw):
    """A message of the server's, to the client that waits for it."""
    session = stages[
        {"roster": "join", "graph": "deal", "boxes": "deal", "survivors": "mask", "signatures": "agree"}[kind]
    ]
    member, key = session.members[WHO], session.identities[WHO]
    if kind == "roster":
        return client.deal(member, raw, key, session.entropy, None)
    if kind == "survivors":
        return client.agree(member, raw, key)
    if kind == "signatures":
        return client.reveal(member, raw)
    graph, boxes = (raw, session.boxes["00004"]) if kind == "graph" else (session.dealt.raw, raw)
    return client.mask(member, graph, boxes, session.vectors[WHO])


@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("kind", ["roster", "graph", "boxes", "survivors", "signatures"])
@given(data=st.data())
def test_a_client_answers_or_refuses_whatever_a_server_sends(stages, session, kind, data):
    raw = broken(wire(session)[kind][0], data.draw)
    with suppress(ProtocolError):
        to_client(stages, kind, raw)


@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("kind", ["advert", "deals", "attestation", "signature", "reveal"])
@given(data=st.data())
def test_a_server_gets_its_sum_or_says_why_not_whatever_a_client_sends(session, kind, data):
    """One broken message is within what may drop out; nine of the ten uploaded, and eight would do."""
    name, s = "00004", session
    sent = {"advert": s.adverts, "deals": s.deals, "attestation": s.attestations, "signature": s.signatures}
    raw = broken(sent.get(kind, s.reveals)[name], data.draw)
    if kind == "advert":
        assert len(server.assemble(s.session, 8, 1, {**s.adverts, name: raw}, None).names) >= 9
    elif kind == "deals":
        assert len(server.collect(s.assembly, {**s.deals, name: raw}).deals) >= 9
    elif kind == "attestation":
        with suppress(ProtocolError):
            server.admit(s.assembly, s.dealt, name, raw)
    elif kind == "signature":
        server.endorse(s.assembly, s.dealt, s.survivors, {**s.signatures, name: raw}, s.attestations)
    else:
        total = sum(s.words.values(), np.zeros(8, np.uint32))
        got = server.unmask(s.assembly, s.dealt, s.survivors, total, {**s.reveals, name: raw})
        assert (got == s.plain()).all()
