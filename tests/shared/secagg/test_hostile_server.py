"""A server that sends whatever it likes: what an honest client answers, at every step (docs/secure-aggregation.md)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.errors import ProtocolError
from shared.secagg import client, server
from shared.secagg.keys import Agreement, public_of, sign
from shared.secagg.messages import (
    ADVERT,
    BOX,
    NO_REGISTRATION,
    PAIR,
    Advert,
    Signatures,
    bitmap,
    pack_graph,
    parse_advert,
    parse_graph,
    parse_roster,
)
from shared.secagg.shamir import LIMBS

SIZE = (10, 8, 1)  # six holders each, five shares, eight signatures; two may drop out
ME = 3


@pytest.fixture(scope="module")
def joined(cohort):
    return cohort(*SIZE, "joined").run("join")


@pytest.fixture(scope="module")
def dealt(cohort):
    return cohort(*SIZE, "dealt").run("deal")


@pytest.fixture(scope="module")
def masked(cohort):
    return cohort(*SIZE, "masked").run("mask")


@pytest.fixture(scope="module")
def agreed(cohort):
    """Two of the ten are gone after the upload, so that all of the quorum is needed."""
    return cohort(*SIZE, "agreed").run("agree", {"agree": [8, 9]})


def rows(raw):
    return [raw[start : start + ADVERT] for start in range(0, len(raw), ADVERT)]


def changed(raw, **fields):
    return dataclasses.replace(parse_advert(raw), **fields).pack()


# --- a step that was taken is not taken again


@pytest.mark.parametrize("last", ["deal", "mask", "agree"])
def test_no_step_is_answered_twice_or_out_of_turn(cohort, last):
    session = cohort(*SIZE, last).run("agree")
    member = cohort(*SIZE, last).run(last).members[ME]
    me = session.identities[ME]
    steps = {
        "join": lambda: client.deal(member, session.assembly.roster.raw, me, session.entropy, None),
        "deal": lambda: client.mask(member, session.dealt.raw, session.boxes[session.name(ME)], session.vectors[ME]),
        "mask": lambda: client.agree(member, session.survivors, me),
        "mask, attest": lambda: client.attest(member, me),
        "agree": lambda: client.reveal(member, session.endorse()),
    }
    for before, step in steps.items():
        if before.split(",")[0] != last:
            with pytest.raises(ProtocolError, match="is answered once"):
                step()


# --- deal: the roster


def deal(session, adverts, registrar=None):
    return client.deal(session.members[ME], b"".join(adverts), session.identities[ME], session.entropy, registrar)


def test_a_roster_without_this_client_is_refused(joined):
    adverts = rows(joined.assembly.roster.raw)
    with pytest.raises(ProtocolError, match="without this client"):
        deal(joined, adverts[:ME] + adverts[ME + 1 :])


def test_a_roster_below_the_smallest_cohort_is_refused(joined):
    with pytest.raises(ProtocolError, match="a roster of 7: 7 members, 8 at least"):
        deal(joined, rows(joined.assembly.roster.raw)[:7])


def test_the_smallest_roster_is_accepted(joined):
    member, deals = deal(joined, rows(joined.assembly.roster.raw)[:8])
    assert member.phase == client.DEALT
    assert ME not in deals.picks


@pytest.mark.parametrize("field", ["box_key", "mask_key"])
def test_a_roster_with_other_keys_of_this_client_is_refused(joined, field):
    adverts = rows(joined.assembly.roster.raw)
    adverts[ME] = changed(adverts[ME], **{field: public_of(b"\7" * 32)})
    with pytest.raises(ProtocolError, match="other keys for this client"):
        deal(joined, adverts)


@pytest.mark.parametrize("field", ["identity", "box_key", "mask_key"])
def test_a_roster_that_repeats_a_key_is_refused(joined, field):
    adverts = rows(joined.assembly.roster.raw)
    adverts[8] = changed(adverts[8], **{field: getattr(parse_advert(adverts[7]), field)})
    with pytest.raises(ProtocolError, match=f"one {field} twice"):
        deal(joined, adverts)


@pytest.mark.parametrize("cut", [1, ADVERT - 1, ADVERT + 1])
def test_a_roster_of_another_length_is_refused(joined, cut):
    with pytest.raises(ProtocolError, match="a multiple of"):
        deal(joined, [joined.assembly.roster.raw[:-cut]])


def test_an_empty_roster_is_refused(joined):
    with pytest.raises(ProtocolError, match="a roster of 0 bytes"):
        deal(joined, [])


def everybody_else(session, change):
    return [
        raw if number == ME else change(number, raw) for number, raw in enumerate(rows(session.assembly.roster.raw))
    ]


def unsigned(session, number, raw):
    return changed(raw, signature=bytes(64))


def of_another_session(session, number, raw):
    advert = parse_advert(raw)
    key = session.identities[number]
    return changed(
        raw, signature=sign(key, "keys", b"another session's 32-byte name...", advert.box_key, advert.mask_key)
    )


def signed_by_the_server(session, number, raw):
    advert = parse_advert(raw)
    key = Ed25519PrivateKey.from_private_bytes(b"\5" * 32)
    return changed(raw, signature=sign(key, "keys", session.session, advert.box_key, advert.mask_key))


def with_keys_of_the_server(session, number, raw):
    return changed(raw, box_key=public_of(bytes([number]) * 32), mask_key=public_of(bytes([number + 100]) * 32))


def signed_for_another_purpose(session, number, raw):
    advert = parse_advert(raw)
    key = session.identities[number]
    return changed(raw, signature=sign(key, "picks", session.session, advert.box_key, advert.mask_key))


@pytest.mark.parametrize(
    "change",
    [unsigned, of_another_session, signed_by_the_server, with_keys_of_the_server, signed_for_another_purpose],
    ids=lambda change: change.__name__,
)
def test_shares_are_dealt_to_keys_alone_that_their_owners_signed_for_this_session(joined, change):
    with pytest.raises(ProtocolError, match="are not signed by it for this session"):
        deal(joined, everybody_else(joined, lambda number, raw: change(joined, number, raw)))


def test_nothing_is_dealt_to_keys_with_which_every_agreement_is_the_same(joined, low_order_keys):
    def change(number, raw):
        low, mask_key = low_order_keys[number], parse_advert(raw).mask_key
        return changed(
            raw, box_key=low, signature=sign(joined.identities[number], "keys", joined.session, low, mask_key)
        )

    with pytest.raises(ProtocolError, match="every agreement is the same"):
        deal(joined, everybody_else(joined, change))


def test_holders_are_chosen_by_the_client_alone_and_evenly(joined, entropy):
    """Whatever the roster's order, each other member is as likely: 300 deals of six among nine."""
    source, counts = entropy("choice"), np.zeros(10)
    for _ in range(300):
        member, _ = client.deal(joined.members[ME], joined.assembly.roster.raw, joined.identities[ME], source, None)
        assert len(set(member.picks)) == 6
        counts[list(member.picks)] += 1
    assert counts[ME] == 0
    others = np.delete(counts, ME)
    assert abs(others - 200).max() < 5 * np.sqrt(300 * (6 / 9) * (3 / 9))


# --- deal: a registrar of the client's own choice


@pytest.fixture(scope="module")
def registrar():
    return Ed25519PrivateKey.from_private_bytes(b"\x11" * 32)


def test_with_a_registrar_every_member_must_be_registered(cohort, registrar):
    session = cohort(*SIZE, "registered", registrar).run("join")
    adverts, trusted = rows(session.assembly.roster.raw), registrar.public_key().public_bytes_raw()
    deal(session, adverts, trusted)
    for registration in (NO_REGISTRATION, parse_advert(adverts[5]).registration):
        sybil = [*adverts[:7], changed(adverts[7], registration=registration), *adverts[8:]]
        with pytest.raises(ProtocolError, match="member 7 is not registered by the key that consent names"):
            deal(session, sybil, trusted)


def test_a_registration_by_somebody_else_is_none(cohort, registrar):
    session = cohort(*SIZE, "registered", registrar).run("join")
    with pytest.raises(ProtocolError, match="member 0 is not registered"):
        deal(session, rows(session.assembly.roster.raw), public_of(b"\x12" * 32))


# --- mask: the graph and the boxes


def mask(session, graph, boxes=None, vector=None):
    boxes = session.boxes_under(graph, ME) if boxes is None else boxes
    return client.mask(session.members[ME], graph, boxes, session.vectors[ME] if vector is None else vector)


def graph_rows(session):
    return {number: deals.row() for number, deals in session.dealt.deals.items()}


def picks_row(session, number, picks, key=None):
    deals = dataclasses.replace(session.dealt.deals[number], picks=picks)
    packed = np.asarray(picks, "<u4").tobytes()
    key = key or session.identities[number]
    signature = sign(key, "picks", session.session, session.assembly.roster.digest, packed)
    return dataclasses.replace(deals, signature=signature).row()


def other_picks(session, number):
    """The same picks but for one."""
    picks = session.dealt.deals[number].picks
    new = next(other for other in range(10) if other not in picks and other != number)
    return tuple(sorted((*picks[1:], new)))


def test_a_graph_with_other_picks_of_this_client_is_refused_even_if_it_had_signed_them(dealt):
    graph = pack_graph({**graph_rows(dealt), ME: picks_row(dealt, ME, other_picks(dealt, ME))}, 10)
    with pytest.raises(ProtocolError, match="other picks for this client"):
        mask(dealt, graph, bytes(BOX * len(parse_graph(graph, 10, 6).picked_by[ME])))


@pytest.mark.parametrize("number", [0, 9])
def test_a_graph_with_picks_that_their_dealer_did_not_sign_is_refused(dealt, number):
    server_key = Ed25519PrivateKey.from_private_bytes(b"\5" * 32)
    graph = pack_graph(
        {**graph_rows(dealt), number: picks_row(dealt, number, other_picks(dealt, number), server_key)}, 10
    )
    with pytest.raises(ProtocolError, match=f"the picks of member {number} are not signed by it"):
        mask(dealt, graph, bytes(BOX * len(parse_graph(graph, 10, 6).picked_by[ME])))


def test_picks_for_another_roster_are_refused(dealt):
    row = dealt.dealt.deals[0].row()[: 4 * 6]
    signature = sign(dealt.identities[0], "picks", dealt.session, bytes(32), row)
    with pytest.raises(ProtocolError, match="not signed by it for this roster"):
        mask(dealt, pack_graph({**graph_rows(dealt), 0: row + signature}, 10))


def test_a_dealer_whose_keys_are_not_signed_is_refused_even_if_nothing_was_dealt_to_it(joined, entropy):
    """Of its holders a client checks the keys before it deals, of its dealers when it learns who they are."""
    me, key = joined.members[ME], joined.identities[ME]
    foreseen, _ = client.deal(me, joined.assembly.roster.raw, key, entropy("same choice"), None)
    other = next(n for n in range(10) if n not in (ME, *foreseen.picks))
    adverts = everybody_else(joined, lambda number, raw: unsigned(joined, number, raw) if number == other else raw)
    roster = b"".join(adverts)
    member, deals = client.deal(me, roster, key, entropy("same choice"), None)
    rows = {ME: deals.row()}
    for number in set(range(10)) - {ME}:
        packed = np.array([n for n in range(10) if n != number][:6], "<u4").tobytes()
        rows[number] = packed + sign(
            joined.identities[number], "picks", joined.session, parse_roster(roster).digest, packed
        )
    graph = pack_graph(rows, 10)
    with pytest.raises(ProtocolError, match=f"the keys of member {other} are not signed by it"):
        client.mask(member, graph, bytes(BOX * len(parse_graph(graph, 10, 6).picked_by[ME])), joined.vectors[ME])


@pytest.mark.parametrize(
    "picks", [(0, 0, 1, 2, 4, 5), (1, 2, 4, 5, 6, 10), (0, 1, 2, 4, 5, 6)], ids=["twice", "beyond", "itself"]
)
def test_picks_that_are_none_are_refused(dealt, picks):
    with pytest.raises(ProtocolError, match="member 0 did not pick 6 distinct others of 10"):
        mask(dealt, pack_graph({**graph_rows(dealt), 0: picks_row(dealt, 0, picks)}, 10), b"")


def without(session, *numbers):
    return pack_graph({number: row for number, row in graph_rows(session).items() if number not in numbers}, 10)


def test_a_graph_without_this_client_is_refused(dealt):
    with pytest.raises(ProtocolError, match="not among those that dealt"):
        mask(dealt, without(dealt, ME), b"")


def test_a_graph_in_which_too_few_dealt_is_refused(dealt):
    with pytest.raises(ProtocolError, match="7 members dealt, at least 8 must have"):
        mask(dealt, without(dealt, 0, 1, 2))


def test_a_graph_in_which_too_few_of_its_holders_dealt_is_refused(cohort):
    """Thirty members, ten of whom may be gone: only two shares are left of the three that recover a secret."""
    session = cohort(30, 20, 0, "few holders").run("deal")
    gone = session.members[ME].picks[:10]
    rows = {number: deals.row() for number, deals in session.dealt.deals.items() if number not in gone}
    graph = pack_graph(rows, 30)
    with pytest.raises(ProtocolError, match="1 of this client's holders dealt, its threshold is 3"):
        mask(session, graph)


def test_garbage_beside_a_right_graph_costs_the_share_and_not_the_mask(dealt):
    """So a broken box cannot make honest clients disagree on their masks."""
    right, words = mask(dealt, dealt.dealt.raw)
    broken, same = mask(dealt, dealt.dealt.raw, bytes(BOX * len(right.dealers)))
    assert (same == words).all()
    assert broken.dealers == ()
    assert broken.held == b""


def test_boxes_that_change_places_or_holders_do_not_open(dealt):
    dealers = dealt.dealt.graph.picked_by[ME]
    right = [dealt.box(dealer, ME) for dealer in dealers]
    swapped, _ = mask(dealt, dealt.dealt.raw, b"".join([right[1], right[0], *right[2:]]))
    assert swapped.dealers == dealers[2:]
    assert len(swapped.held) == PAIR * len(dealers[2:])
    other = next(holder for holder in dealt.dealt.deals[dealers[0]].picks if holder != ME)
    foreign, _ = mask(dealt, dealt.dealt.raw, b"".join([dealt.box(dealers[0], other), *right[1:]]))
    assert foreign.dealers == dealers[1:]


@pytest.mark.parametrize("change", [-1, 1, -BOX, BOX])
def test_another_number_of_boxes_is_refused(dealt, change):
    right = dealt.boxes[dealt.name(ME)]
    with pytest.raises(ProtocolError, match=f"boxes of {len(right) + change} bytes, expected {len(right)}"):
        mask(dealt, dealt.dealt.raw, (right + bytes(BOX))[: len(right) + change])


def test_two_graphs_give_one_client_two_masks_so_a_state_serves_once(dealt):
    """What the state machine is for: a client that answered twice from one state would give away a difference."""
    member, _ = mask(dealt, dealt.dealt.raw)
    with pytest.raises(ProtocolError, match="answered once"):
        client.mask(member, without(dealt, 0), b"", dealt.vectors[ME])


# --- agree: the survivors


def agree(session, numbers, raw=None):
    return client.agree(session.members[ME], bitmap(numbers, 10) if raw is None else raw, session.identities[ME])


def test_survivors_without_this_client_are_refused(masked):
    with pytest.raises(ProtocolError, match="not among those that survived"):
        agree(masked, set(range(10)) - {ME})


def test_too_few_survivors_are_refused(masked):
    with pytest.raises(ProtocolError, match="7 members survived, at least 8 must have"):
        agree(masked, range(7))


def test_a_survivor_that_never_dealt_is_refused(cohort):
    session = cohort(*SIZE, "never dealt").run("mask", {"deal": [9]})
    with pytest.raises(ProtocolError, match="a survivor that never dealt"):
        agree(session, range(10))


@pytest.mark.parametrize("raw", [b"", b"\xff", b"\xff\x03\x00", b"\xff\x07"], ids=lambda raw: raw.hex() or "empty")
def test_a_set_that_is_none_is_refused(masked, raw):
    with pytest.raises(ProtocolError, match=r"a set of members of|members beyond the 10"):
        agree(masked, (), raw)


def test_one_client_signs_one_set(masked):
    member, _ = agree(masked, range(10))
    for numbers in (range(10), range(9), range(8)):
        with pytest.raises(ProtocolError, match="answered once"):
            client.agree(member, bitmap(numbers, 10), masked.identities[ME])


def test_two_halves_that_signed_two_sets_are_no_quorum_for_either(cohort):
    session = cohort(*SIZE, "halves").run("mask")
    sets = [bitmap(range(9), 10), bitmap([*range(8), 9], 10)]
    members, signatures = {}, ({}, {})
    for number in range(8):
        half = number % 2
        members[number], signatures[half][number] = client.agree(
            session.members[number], sets[half], session.identities[number]
        )
    for half in (0, 1):
        everybody = session.attestations | {session.name(number): made for number, made in signatures[half].items()}
        with pytest.raises(ProtocolError, match="4 of 10 clients signed, at least 8 must have"):
            server.endorse(session.assembly, session.dealt, sets[half], everybody, session.attestations)
        kept = [signatures[half].get(number, session.attestations[session.name(number)]) for number in range(9)]
        forged = Signatures(bitmap(signatures[half], 10), tuple(kept)).pack()
        for number in signatures[half]:
            with pytest.raises(ProtocolError, match=r"4 signatures|signed neither"):
                client.reveal(members[number], forged)


# --- reveal: the signatures


def endorsement(session, change=None, signers=None):
    """The honest message, with each survivor's signature passed through ``change(number, signature)``."""
    kept = [
        session.signatures.get(session.name(number), session.attestations[session.name(number)]) for number in range(10)
    ]
    signers = range(8) if signers is None else signers
    if change:
        kept = [change(number, signature) for number, signature in enumerate(kept)]
    return Signatures(bitmap(signers, 10), tuple(kept)).pack()


def test_a_quorum_and_the_attestations_of_those_that_are_gone_are_enough(agreed):
    assert endorsement(agreed) == agreed.endorse()
    assert len(client.reveal(agreed.members[ME], endorsement(agreed)).dealers) > 1


def test_too_few_signers_are_refused(agreed):
    said = agreed.attestations
    raw = endorsement(agreed, lambda number, made: said[agreed.name(number)] if number == 7 else made, range(7))
    with pytest.raises(ProtocolError, match="7 signatures on the survivors, expected at least 8"):
        client.reveal(agreed.members[ME], raw)


def test_one_signature_does_not_count_twice(agreed):
    with pytest.raises(ProtocolError, match="member 1 signed neither"):
        client.reveal(
            agreed.members[ME],
            endorsement(agreed, lambda number, made: agreed.signatures["00000"] if number == 1 else made),
        )


def test_an_attestation_is_no_signature_on_the_survivors(agreed):
    with pytest.raises(ProtocolError, match="member 8 signed neither"):
        client.reveal(agreed.members[ME], endorsement(agreed, signers=range(9)))


def test_a_signature_on_the_survivors_is_no_attestation(agreed):
    """Each has its place, so that there is one spelling."""
    with pytest.raises(ProtocolError, match="member 7 signed neither"):
        client.reveal(agreed.members[ME], endorsement(agreed, signers=range(7)))


def test_a_signature_on_another_set_is_refused(cohort, agreed):
    other = cohort(*SIZE, "agreed").run("mask")
    _, elsewhere = client.agree(other.members[7], bitmap(range(8), 10), other.identities[7])
    with pytest.raises(ProtocolError, match="member 7 signed neither"):
        client.reveal(agreed.members[ME], endorsement(agreed, lambda number, made: elsewhere if number == 7 else made))


def test_signers_from_outside_the_survivors_are_refused(cohort):
    session = cohort(*SIZE, "outsiders").run("agree", {"mask": [9], "agree": [8]})
    kept = [session.signatures.get(session.name(n), session.attestations[session.name(n)]) for n in range(9)]
    raw = Signatures(bitmap([*range(8), 9], 10), tuple(kept)).pack()
    with pytest.raises(ProtocolError, match="of survivors only"):
        client.reveal(session.members[ME], raw)


def test_a_survivor_without_any_signature_is_refused(agreed):
    with pytest.raises(ProtocolError, match="member 9 signed neither these survivors nor this graph"):
        client.reveal(agreed.members[ME], endorsement(agreed, lambda number, made: bytes(64) if number == 9 else made))


def test_a_second_reveal_tells_nothing_that_the_first_did_not(cohort):
    """Whichever signatures come with it: what is revealed depends on the signed set alone."""
    session = cohort(*SIZE, "twice").run("agree")
    member = session.members[ME]
    first = client.reveal(member, session.endorse()).pack()
    for gone in (0, 9):
        fewer = {name: made for name, made in session.signatures.items() if name != session.name(gone)}
        again = server.endorse(session.assembly, session.dealt, session.survivors, fewer, session.attestations)
        assert again != session.endorse()
        assert client.reveal(member, again).pack() == first


def test_of_each_secret_pair_one_is_revealed(cohort):
    session = cohort(*SIZE, "one of two").run("agree", {"mask": [8, 9]})
    revealed = client.reveal(session.members[ME], session.endorse())
    member = session.members[ME]
    assert revealed.dealers == (ME, *member.dealers)
    pairs = np.frombuffer(member.own + member.held, "<u4").reshape(-1, 2, LIMBS)
    for dealer, share, pair in zip(revealed.dealers, revealed.shares, pairs, strict=True):
        assert (share == pair[int(dealer in {8, 9})]).all()
        assert (share != pair[int(dealer not in {8, 9})]).any()
    assert {8, 9} & set(revealed.dealers)


# --- replays


def test_a_whole_earlier_session_replayed_is_refused_at_its_first_message(cohort):
    """Same clients, same invitation: keys are fresh in each session, and a roster with the old ones is not theirs."""
    earlier = cohort(*SIZE, "earlier").run("agree")
    again, _ = client.join(
        earlier.session, 8, 1, earlier.identities[ME], cohort(*SIZE, "later").entropy, NO_REGISTRATION
    )
    with pytest.raises(ProtocolError, match="other keys for this client"):
        client.deal(again, earlier.assembly.roster.raw, earlier.identities[ME], earlier.entropy, None)
    for step in (
        lambda: client.mask(again, earlier.dealt.raw, b"", earlier.vectors[ME]),
        lambda: client.agree(again, earlier.survivors, earlier.identities[ME]),
        lambda: client.reveal(again, earlier.endorse()),
    ):
        with pytest.raises(ProtocolError, match="'joined'"):
            step()


@pytest.mark.parametrize("what", ["graph", "survivors"])
def test_messages_of_another_session_are_refused_by_members_of_this_one(cohort, what):
    one, other = cohort(*SIZE, "one").run("mask"), cohort(*SIZE, "other").run("agree")
    if what == "graph":
        member = cohort(*SIZE, "one").run("deal").members[ME]
        with pytest.raises(ProtocolError, match=r"not signed|other picks"):
            client.mask(member, other.dealt.raw, other.boxes[other.name(ME)], one.vectors[ME])
    else:
        member, _ = client.agree(one.members[ME], other.survivors, one.identities[ME])
        with pytest.raises(ProtocolError, match="signed neither"):
            client.reveal(member, other.endorse())


def test_a_box_key_serves_one_session_and_one_direction(joined):
    keys = {
        Agreement(member.box_private, session).key(public_of(joined.members[9].box_private), "box", a, b)
        for member in joined.members[:2]
        for session in (joined.session, b"x" * 32)
        for a, b in ((b"0000", b"0009"), (b"0009", b"0000"))
    }
    assert len(keys) == 8


def test_adverts_are_of_one_length_and_carry_no_private_key(joined):
    for member, raw in zip(joined.members, joined.adverts.values(), strict=True):
        assert len(raw) == ADVERT
        assert isinstance(parse_advert(raw), Advert)
        for secret in (member.box_private, member.mask_private, member.self_seed):
            assert secret not in raw
