"""Clients that send whatever they like: the server leaves them out, or says why the session cannot go on."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.errors import ProtocolError
from shared.secagg import client, messages, server
from shared.secagg.keys import KEY, SIGNATURE, Agreement, digest, public_of, seal_box, sign
from shared.secagg.messages import (
    ADVERT,
    BOX,
    NO_REGISTRATION,
    Advert,
    Reveal,
    pack_numbers,
    pack_shares,
    parse_advert,
    parse_deals,
    parse_reveal,
)
from shared.secagg.shamir import PRIME, split

SIZE = (10, 8, 1)  # two may drop out, or be left out
MALLORY = 9


@pytest.fixture
def session(cohort):
    """A fresh one for each test: the server's side is changed by what arrives."""
    return cohort(*SIZE, "hostile clients")


def advert(identity, name, box_key, mask_key, purpose="keys"):
    public = identity.public_key().public_bytes_raw()
    return Advert(public, box_key, mask_key, sign(identity, purpose, name, box_key, mask_key), NO_REGISTRATION).pack()


# --- join


def joined(session, raw, registered=None):
    """Names on the roster when Mallory joins with some message."""
    session.join(range(9))
    adverts = {"mallory, first": raw, **session.adverts}
    return set(server.assemble(session.session, 8, 1, adverts, registered).names)


def keys_of(seed):
    return public_of(bytes([seed]) * KEY), public_of(bytes([seed + 1]) * KEY)


def test_a_proper_advert_is_taken(session):
    raw = advert(session.identities[MALLORY], session.session, *keys_of(1))
    assert "mallory, first" in joined(session, raw)


@pytest.mark.parametrize("size", [0, 1, ADVERT - 1, ADVERT + 1, 2 * ADVERT])
def test_an_advert_of_another_length_is_left_out(session, size):
    raw = (advert(session.identities[MALLORY], session.session, *keys_of(1)) * 2)[:size]
    assert joined(session, raw) == set(session.adverts)


@pytest.mark.parametrize("change", ["unsigned", "session", "purpose", "keys", "identity"])
def test_an_advert_that_its_identity_did_not_sign_is_left_out(session, change):
    mine = session.identities[MALLORY]
    raw = {
        "unsigned": dataclasses.replace(
            parse_advert(advert(mine, session.session, *keys_of(1))), signature=bytes(SIGNATURE)
        ).pack(),
        "session": advert(mine, bytes(KEY), *keys_of(1)),
        "purpose": advert(mine, session.session, *keys_of(1), purpose="picks"),
        "keys": dataclasses.replace(
            parse_advert(advert(mine, session.session, *keys_of(1))), box_key=keys_of(5)[0]
        ).pack(),
        "identity": dataclasses.replace(
            parse_advert(advert(mine, session.session, *keys_of(1))),
            identity=Ed25519PrivateKey.from_private_bytes(b"\3" * KEY).public_key().public_bytes_raw(),
        ).pack(),
    }[change]
    assert joined(session, raw) == set(session.adverts)


def test_a_key_with_which_every_agreement_is_the_same_is_left_out(session, low_order_key):
    """Each member that picked it would have to refuse the roster: one such client would end every session."""
    for keys in ((low_order_key, keys_of(1)[0]), (keys_of(1)[0], low_order_key)):
        assert joined(session, advert(session.identities[MALLORY], session.session, *keys)) == set(session.adverts)


def test_one_identity_has_one_seat(session):
    raw = advert(session.identities[0], session.session, *keys_of(1))  # a person with two devices on one key
    assert joined(session, raw) == {"mallory, first", *session.adverts} - {"00000"}


def test_nobody_is_shut_out_by_a_copy_of_its_public_identity(session):
    """Identities are known to all; as somebody else's X25519 key one must not count as a repetition."""
    victim = session.identities[0].public_key().public_bytes_raw()
    for keys in ((victim, keys_of(1)[0]), (keys_of(1)[0], victim)):
        assert "00000" in joined(session, advert(session.identities[MALLORY], session.session, *keys))


@pytest.mark.parametrize("field", ["box_key", "mask_key"])
def test_a_copied_key_has_one_seat(session, field):
    session.join(range(9))
    copied = getattr(session.assembly.roster.adverts[0], field)
    keys = {"box_key": keys_of(1)[0], "mask_key": keys_of(1)[1], field: copied}
    late = {**session.adverts, "late": advert(session.identities[MALLORY], session.session, **keys)}
    assert set(server.assemble(session.session, 8, 1, late, None).names) == set(session.adverts)


def test_an_identity_that_is_not_registered_is_left_out(session):
    registered = {key.public_key().public_bytes_raw() for key in session.identities[:9]}
    raw = advert(session.identities[MALLORY], session.session, *keys_of(1))
    assert joined(session, raw, registered) == set(session.adverts)


def test_too_few_proper_adverts_end_the_session(session):
    session.join(range(10))
    few = dict(list(session.adverts.items())[:7]) | {f"mallory {n}": bytes(ADVERT) for n in range(50)}
    with pytest.raises(ProtocolError, match="too few joined: 7 members, 8 at least"):
        server.assemble(session.session, 8, 1, few, None)


# --- deal


def forged(session, number, picks=None, signature=None, change=lambda boxes, prints: (boxes, prints)):
    """Somebody's deals, with whatever is to be changed of them, signed again."""
    deals = parse_deals(session.deals[session.name(number)], session.terms.neighbours)
    picks = deals.picks if picks is None else picks
    packed = pack_numbers(picks)
    signature = signature or sign(
        session.identities[number], "picks", session.session, session.assembly.roster.digest, packed
    )
    boxes, prints = change(deals.boxes, deals.prints)
    return dataclasses.replace(deals, picks=picks, signature=signature, boxes=boxes, prints=prints).pack()


def collected(session, raw):
    return server.collect(session.assembly, {**session.deals, session.name(MALLORY): raw})


@pytest.mark.parametrize("size", [0, -1, 1])
def test_deals_of_another_length_are_left_out(session, size):
    session.run("deal")
    right = session.deals[session.name(MALLORY)]
    raw = right[:size] if size <= 0 else right + bytes(size)
    assert set(collected(session, raw).deals) == set(range(9))


@pytest.mark.parametrize(
    "picks",
    [(0, 0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 9), (0, 1, 2, 3, 4, 10), (0, 1, 2, 3, 4, 2**32 - 1)],
    ids=["twice", "itself", "beyond", "far beyond"],
)
def test_picks_that_are_none_are_left_out_even_if_signed(session, picks):
    session.run("deal")
    assert set(collected(session, forged(session, MALLORY, picks)).deals) == set(range(9))


def test_deals_that_are_not_signed_by_their_dealer_are_left_out(session):
    session.run("deal")
    for raw in (forged(session, MALLORY, signature=bytes(SIGNATURE)), session.deals[session.name(0)]):
        assert set(collected(session, raw).deals) == set(range(9))


def test_deals_of_an_earlier_session_are_left_out(cohort, session):
    session.run("deal")
    earlier = cohort(*SIZE, "earlier").run("deal").deals[session.name(MALLORY)]
    assert set(collected(session, earlier).deals) == set(range(9))


def test_deals_from_nowhere_are_not_looked_at(session):
    session.run("deal")
    assert set(server.collect(session.assembly, {**session.deals, "nobody": b"?"}).deals) == set(range(10))


def test_too_few_proper_deals_end_the_session(session):
    session.run("deal")
    broken = dict.fromkeys(map(session.name, (7, 8, 9)), b"?")
    with pytest.raises(ProtocolError, match="7 of 10 clients dealt, at least 8 must have"):
        server.collect(session.assembly, {**session.deals, **broken})


def equivocate(session, change):
    """Let Mallory's deals be changed, and the session go on as if nothing were."""
    session.deals[session.name(MALLORY)] = forged(session, MALLORY, change=change)
    session.deal([])
    return session


def garbage_boxes(boxes, prints):
    return tuple(bytes(BOX) for _ in boxes), prints


def garbage_prints(boxes, prints):
    return boxes, bytes(len(prints))


@pytest.mark.parametrize("change", [garbage_boxes, garbage_prints], ids=lambda change: change.__name__)
def test_deals_that_nobody_can_use_end_the_session_and_name_the_dealer(session, change):
    """Not tolerable: nobody can tell before the end, and without the dealer's seed the sum stays masked."""
    equivocate(session.run("deal"), change)
    for step in (session.mask, session.agree, session.reveal):
        step(range(10))
    with pytest.raises(ProtocolError, match=r"[01] right shares of a secret of '00009', 5 are needed"):
        session.unmask()


def test_garbage_in_as_many_boxes_as_holders_may_drop_out_is_tolerable(session):
    equivocate(session.run("deal"), lambda boxes, prints: ((bytes(BOX), *boxes[1:]), prints))
    for step in (session.mask, session.agree, session.reveal):
        step(range(10))
    assert (session.unmask() == session.plain()).all()


def reshared(session, mask_private, seed):
    """Deals of Mallory's with other secrets than those that it masks with, in order otherwise."""
    member, terms = session.members[MALLORY], session.terms
    shares = np.concatenate(
        [split(secret, terms.threshold, terms.neighbours + 1, session.entropy) for secret in (seed, mask_private)],
        axis=1,
    )
    pairs = [pack_shares(row) for row in shares]
    agreement = Agreement(member.box_private, session.session)

    def change(_boxes, _prints):
        places = [(MALLORY).to_bytes(4, "little") + pick.to_bytes(4, "little") for pick in member.picks]
        keys = [
            agreement.key(session.assembly.roster.adverts[pick].box_key, "box", place[:4], place[4:])
            for pick, place in zip(member.picks, places, strict=True)
        ]
        boxes = tuple(seal_box(key, pair) for key, pair in zip(keys, pairs[1:], strict=True))
        return boxes, b"".join(digest(half) for pair in pairs for half in (pair[:36], pair[36:]))

    return equivocate(session, change)


def test_another_mask_key_than_its_own_is_found_out_when_its_dealer_drops_out(session):
    reshared(session.run("deal"), b"\6" * KEY, session.members[MALLORY].self_seed)
    for step in (session.mask, session.agree, session.reveal):
        step(range(9))
    with pytest.raises(ProtocolError, match="member 9 dealt shares of another key than its own"):
        session.unmask()


def test_another_seed_than_its_own_spoils_the_sum(session):
    """Not detectable, as a garbage vector is not: the sum is off by a mask, in every word."""
    reshared(session.run("deal"), session.members[MALLORY].mask_private, b"\6" * KEY)
    for step in (session.mask, session.agree, session.reveal):
        step(range(10))
    assert (session.unmask() != session.plain()).all()


# --- upload


def test_an_upload_without_a_right_attestation_is_not_admitted(cohort, session):
    session.run("mask")
    other = cohort(*SIZE, "other").run("mask")
    mine, name = session.attestations[session.name(MALLORY)], session.name(MALLORY)
    server.admit(session.assembly, session.dealt, name, mine)
    for raw in (b"", bytes(SIGNATURE), mine + b"\0", session.attestations["00000"], other.attestations[name]):
        with pytest.raises(ProtocolError, match="'00009' did not sign the graph"):
            server.admit(session.assembly, session.dealt, name, raw)


def test_an_upload_of_somebody_who_did_not_deal_or_join_is_not_admitted(session):
    session.run("mask", {"deal": [MALLORY]})
    said = client.masked_under(session.assembly.roster.raw, session.dealt.graph.digest)
    raw = sign(session.identities[MALLORY], "masked", session.session, said)
    for name in (session.name(MALLORY), "nobody"):
        with pytest.raises(ProtocolError, match=f"'{name}' uploaded, but did not deal"):
            server.admit(session.assembly, session.dealt, name, raw)


def test_a_garbage_vector_spoils_the_sum_and_nothing_else(session):
    """Not detectable: any words are a masked vector. What a server can do is to look at the size of the sum."""
    session.run("mask")
    session.words[MALLORY] = session.words[MALLORY] + np.uint32(2**30)
    session.agree(range(10))
    session.reveal(range(10))
    assert (session.unmask() == session.plain() + 2**30).all()


# --- agree


@pytest.mark.parametrize("made", [b"", bytes(SIGNATURE), bytes(10**6)], ids=len)
def test_garbage_in_place_of_a_signature_leaves_the_attestation_to_speak(session, made):
    session.run("mask")
    session.agree(range(10))
    session.signatures[session.name(MALLORY)] = made
    session.reveal(range(9))
    assert (session.unmask() == session.plain()).all()


def test_too_few_right_signatures_end_the_session(session):
    session.run("agree")
    session.signatures |= dict.fromkeys(map(session.name, (7, 8, 9)), bytes(SIGNATURE))
    with pytest.raises(ProtocolError, match="7 of 10 clients signed, at least 8 must have"):
        session.endorse()


def test_a_survivor_with_neither_signature_ends_the_session(session):
    """Cannot be with an upload that was admitted."""
    session.run("agree")
    del session.signatures[session.name(MALLORY)], session.attestations[session.name(MALLORY)]
    with pytest.raises(ProtocolError, match="'00009' did not sign the graph"):
        session.endorse()


# --- reveal


def others_shares(reveal):
    return Reveal(reveal.dealers, np.roll(reveal.shares, 1, axis=0))


def off_by_one(reveal):
    return Reveal(reveal.dealers, (reveal.shares.astype(np.uint64) + 1).astype(np.uint32) % PRIME)


def for_others(reveal):
    """Numbers of members whose shares it does not hold."""
    return Reveal(tuple((dealer + 1) % 10 for dealer in reveal.dealers), reveal.shares)


def none_at_all(reveal):
    return Reveal((), reveal.shares[:0])


@pytest.mark.parametrize("change", [others_shares, off_by_one, for_others, none_at_all], ids=lambda c: c.__name__)
@pytest.mark.parametrize("absent", [{}, {"mask": [8]}], ids=["all there", "one dropped out"])
def test_wrong_shares_are_dropped_and_the_sum_is_right(session, change, absent):
    session.run("reveal", absent)
    name = session.name(MALLORY)
    session.reveals[name] = change(parse_reveal(session.reveals[name], 10)).pack()
    assert (session.unmask() == session.plain()).all()


def test_the_other_secret_of_a_pair_is_not_taken_for_the_one_that_is_needed(session):
    session.run("agree")
    name, member = session.name(MALLORY), session.members[MALLORY]
    session.reveal(range(10))
    pairs = np.frombuffer(member.own + member.held, "<u4").reshape(-1, 2, 9)
    session.reveals[name] = Reveal((MALLORY, *member.dealers), pairs[:, 1]).pack()
    assert (session.unmask() == session.plain()).all()


def outside_the_field(raw):
    return raw[:-4] + b"\xff\xff\xff\x7f"


def one_dealer_twice(raw):
    return raw[:4] * 2 + raw[8:]


def beyond_the_roster(raw):
    return b"\x0a\0\0\0" + raw[4:]


@pytest.mark.parametrize(
    "change",
    [
        outside_the_field,
        one_dealer_twice,
        beyond_the_roster,
        lambda raw: raw[:-1],
        lambda raw: raw * 50,
        lambda _: b"?",
    ],
    ids=["outside the field", "one dealer twice", "beyond the roster", "cut", "long", "short"],
)
def test_malformed_reveals_are_dropped_and_the_sum_is_right(session, change):
    session.run("reveal")
    session.reveals[session.name(MALLORY)] = change(session.reveals[session.name(MALLORY)])
    assert (session.unmask() == session.plain()).all()


def test_reveals_of_those_that_did_not_survive_or_join_are_not_looked_at(session):
    session.run("reveal", {"mask": [8]})
    session.reveals |= {session.name(8): b"?" * 80, "nobody": b"?" * 80}
    assert (session.unmask() == session.plain()).all()


def test_too_many_wrong_reveals_end_the_session_and_name_whose_secret_is_missing(session):
    session.run("reveal")
    for number in range(3, 10):
        session.reveals[session.name(number)] = b""
    with pytest.raises(ProtocolError, match=r"right shares of a secret of '0000\d', 5 are needed"):
        session.unmask()


# --- memory


HUGE = 8 << 20


@pytest.mark.parametrize(
    ("parse", "error"),
    [
        (messages.parse_advert, "an advert"),
        (lambda raw: messages.parse_deals(raw, 6), "deals"),
        (lambda raw: messages.parse_reveal(raw + bytes(-len(raw) % 40), 10), "shares of 10 members"),
        (lambda raw: messages.parse_graph(raw, 10, 6), "a graph|beyond the 10"),
        (lambda raw: messages.parse_signatures(raw, 10, 8), "signatures"),
        (lambda raw: messages.cut_boxes(raw, 5), "boxes"),
        (lambda raw: messages.bits(raw, 10), "a set of members"),
    ],
    ids=["advert", "deals", "reveal", "graph", "signatures", "boxes", "bitmap"],
)
def test_a_huge_message_is_refused_by_its_length_before_anything_is_made_of_it(parse, error):
    raw = bytes(HUGE)
    tracemalloc.start()
    with pytest.raises(ProtocolError, match=error):
        parse(raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * HUGE  # one copy at most, made by the test or by cutting the head off


def test_a_roster_of_more_than_can_be_is_refused_before_it_is_cut():
    raw = bytes(ADVERT * (messages.LARGEST_ROSTER + 1))
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="from 1 to 100000 times"):
        messages.parse_roster(raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 16


# --- all of it at once


def test_with_as_many_hostile_clients_as_may_drop_out_the_sum_is_right_or_the_session_says_why(session):
    """One stays away and one sends garbage, which comes to the same: the other eight get their sum."""
    session.join(range(10))
    session.deal(range(9))
    session.deals[session.name(8)] = b"?"
    session.dealt = server.collect(session.assembly, session.deals)
    session.boxes = server.boxes_for(session.assembly, session.dealt)
    for step in (session.mask, session.agree, session.reveal):
        step(range(8))
    assert (session.unmask() == session.vectors[:8].sum(axis=0)).all()
