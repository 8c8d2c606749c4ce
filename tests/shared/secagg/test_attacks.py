"""Whole attacks by a server and the clients that work with it; each goes as far as it can, and one refusal stops it."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.secagg import client, server
from shared.secagg.keys import KEY, SIGNATURE, Agreement, public_of, sign
from shared.secagg.masks import add_masks, from_words, to_words
from shared.secagg.messages import (
    BOX,
    NO_REGISTRATION,
    PRINT,
    Advert,
    Deals,
    Signatures,
    bitmap,
    pack_graph,
    pack_numbers,
    parse_roster,
)


def advert_of(identity, session, box_key, mask_key):
    public = identity.public_key().public_bytes_raw()
    return Advert(public, box_key, mask_key, sign(identity, "keys", session, box_key, mask_key), NO_REGISTRATION).pack()


def stripped(session, number, words, secrets):
    """A masked vector without the masks that follow from secrets: "seed", or a partner's number -> its mask key."""
    out, roster = words.copy(), session.assembly.roster
    for partner, secret in secrets.items():
        if partner == "seed":
            add_masks(out, [], [secret])
            continue
        key = client.pair_key(Agreement(secret, session.session), roster, partner, number)
        add_masks(out, *(([], [key]) if number < partner else ([key], [])))
    return from_words(out)


# --- two sets of survivors, so as to get both secrets of somebody

COLLUDERS, MEMBERS = 2, 7  # four shares each, five signatures; members 0 and 1 work with the server
SETS = [frozenset(range(7)) - set(gone) for gone in ((), (6,), (5,), (5, 6), (2,), (2, 6), (3, 4))]


@pytest.fixture(scope="module")
def colluding(cohort):
    return cohort(MEMBERS, 5, COLLUDERS, "colluding").run("mask")


def shares_got(session, told):
    """(dealer, kind) -> holders whose share the server gets, when each honest client is told a set of its own."""
    got, agreed, signatures = defaultdict(set), {}, defaultdict(dict)
    for number in range(COLLUDERS):  # these give both of everything
        for dealer in (number, *session.members[number].dealers):
            got[dealer, "seed"].add(number)
            got[dealer, "mask key"].add(number)
    for number, chosen in told.items():
        try:
            agreed[number], made = client.agree(
                session.members[number], bitmap(chosen, MEMBERS), session.identities[number]
            )
        except ProtocolError:
            continue
        signatures[chosen][number] = made
    for chosen, honest in signatures.items():
        said = client.transcript(session.assembly.roster.raw, session.dealt.graph.digest, bitmap(chosen, MEMBERS))
        ours = {n: sign(session.identities[n], "survivors", session.session, said) for n in range(COLLUDERS)}
        signed = honest | {n: made for n, made in ours.items() if n in chosen}
        kept = [signed.get(n, session.attestations[session.name(n)]) for n in sorted(chosen)]
        raw = Signatures(bitmap(signed, MEMBERS), tuple(kept)).pack()
        for number in honest:
            try:
                revealed = client.reveal(agreed[number], raw)
            except ProtocolError:
                continue
            for dealer in revealed.dealers:
                got[dealer, "seed" if dealer in chosen else "mask key"].add(number)
    return got


def worst(session, told):
    """Of the honest clients' secret pairs, the one of which the server gets most of the scarcer half."""
    got = shares_got(session, told)
    return max(min(len(got[n, "seed"]), len(got[n, "mask key"])) for n in range(COLLUDERS, MEMBERS))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(SETS), min_size=MEMBERS - COLLUDERS, max_size=MEMBERS - COLLUDERS))
def test_whatever_each_client_is_told_nobody_loses_both_secrets(colluding, sets):
    told = dict(zip(range(COLLUDERS, MEMBERS), sets, strict=True))
    assert worst(colluding, told) < colluding.terms.threshold


def test_every_split_between_two_sets_was_tried(colluding):
    """All 16 ways to tell member 6's fellows either that it survived or that it did not."""
    for choice in range(16):
        told = {n: SETS[choice >> (n - COLLUDERS) & 1] for n in range(COLLUDERS, 6)} | {6: SETS[0]}
        got = shares_got(colluding, told)
        counts = len(got[6, "seed"]), len(got[6, "mask key"])
        assert min(counts) < colluding.terms.threshold <= max(counts)  # of five, three are always told alike


def test_with_a_smaller_quorum_the_same_server_would_win(cohort, monkeypatch):
    """The test above can fail: let three signatures do, and three shares."""
    session = cohort(MEMBERS, 5, COLLUDERS, "colluding").run("mask")
    weak = dataclasses.replace(session.terms, threshold=3, quorum=3)
    monkeypatch.setattr(client, "terms_for", lambda *_: weak)
    told = {2: SETS[0], 3: SETS[0], 4: SETS[1], 5: SETS[1], 6: SETS[0]}
    assert worst(session, told) >= 3


# --- one client is shown a graph of its own


def split_view(session, victim):
    """Partners that a graph for the victim alone leaves out, and those that are said to have dropped out."""
    k, t, spare = session.terms.neighbours, session.terms.threshold, session.size - session.terms.quorum
    picks = session.dealt.graph.picks[victim]
    hidden, gone = list(picks[: k - t + 1]), list(picks[k - t + 1 :])
    for dealer in session.dealt.graph.picked_by[victim]:
        if dealer not in picks:
            (hidden if len(hidden) < spare else gone).append(dealer)
    assert len(gone) < spare
    return hidden, gone


def test_a_client_that_was_shown_another_graph_keeps_its_vector(cohort):
    """Without attestations nobody would notice: the victim need not sign, the others see one graph and one set."""
    session, victim = cohort(40, 24, 0, "split view").run("deal"), 7
    hidden, gone = split_view(session, victim)
    graph = pack_graph({n: d.row() for n, d in session.dealt.deals.items() if n not in hidden}, 40)
    alone, words = client.mask(
        session.members[victim], graph, session.boxes_under(graph, victim), session.vectors[victim]
    )
    attested = client.attest(alone, session.identities[victim])
    session.mask([number for number in range(40) if number != victim])

    # What the server would need is within reach but for the seed: every mask of the victim is with somebody "gone".
    assert session.partners(victim) == {*hidden, *gone}
    secrets = {partner: session.members[partner].mask_private for partner in gone}
    secrets["seed"] = alone.self_seed
    assert (stripped(session, victim, words, secrets) == session.vectors[victim]).all()
    holders = set(session.dealt.graph.picks[victim]) & set(hidden)
    assert len(holders) >= session.terms.threshold

    # All others agree that it survived, which is a quorum; yet nobody reveals a share of its seed.
    survivors = bitmap([n for n in range(40) if n not in gone], 40)
    agreed, kept = {}, {}
    for number in sorted(set(range(40)) - {*gone, victim}):
        agreed[number], kept[number] = client.agree(session.members[number], survivors, session.identities[number])
    assert len(kept) >= session.terms.quorum
    with pytest.raises(ProtocolError, match="did not sign the graph that its vector is masked under"):
        server.admit(session.assembly, session.dealt, session.name(victim), attested)
    for forged in (attested, bytes(SIGNATURE), kept[hidden[0]]):
        made = [kept.get(n, forged) for n in sorted({*kept, victim})]
        for signers in (set(kept), {*kept, victim}):
            raw = Signatures(bitmap(signers, 40), tuple(made)).pack()
            for number in holders:
                with pytest.raises(ProtocolError, match=f"member {victim} signed neither"):
                    client.reveal(agreed[number], raw)


def test_a_signature_counts_for_the_graph_of_its_signer_alone(cohort):
    """A colluder signs two sets of picks, so that one client sees another graph in which the same members dealt."""
    session, victim = cohort(10, 8, 1, "two graphs").run("deal"), 7
    rows = {n: d.row() for n, d in session.dealt.deals.items()}
    unpicked = next(n for n in range(1, 10) if n not in session.members[0].picks and n != victim)
    dropped = next(n for n in session.members[0].picks if n != victim)
    picks = tuple(sorted({*session.members[0].picks, unpicked} - {dropped}))
    packed = pack_numbers(picks)
    other = sign(session.identities[0], "picks", session.session, session.assembly.roster.digest, packed)
    graph = pack_graph({**rows, 0: packed + other}, 10)
    alone, _ = client.mask(session.members[victim], graph, session.boxes[session.name(victim)], session.vectors[victim])
    session.mask([n for n in range(10) if n != victim])
    agreed, made = {}, {}
    for number in range(10):
        member = alone if number == victim else session.members[number]
        agreed[number], made[number] = client.agree(member, bitmap(range(10), 10), session.identities[number])
    raw = Signatures(bitmap(range(10), 10), tuple(made.values())).pack()
    for number in set(range(10)) - {victim}:
        with pytest.raises(ProtocolError, match=f"member {victim} signed neither"):
            client.reveal(agreed[number], raw)
    with pytest.raises(ProtocolError, match="member 0 signed neither"):
        client.reveal(agreed[victim], raw)


# --- somebody is left without partners and without holders


def isolated(session):
    """A client all of whose partners can be said to have dropped out."""
    spare = session.size - session.terms.quorum
    return next(n for n in range(session.size) if len(session.partners(n)) <= spare)


def test_no_survivor_can_be_cut_off_from_the_others_sum(cohort):
    """A sum over one client fewer than was signed, perhaps than the smallest cohort: all see it coming, and refuse."""
    session = cohort(150, 80, 0, "isolated").run("deal")
    victim = isolated(session)
    wall = session.partners(victim)
    session.mask(sorted(set(range(150)) - wall))
    survivors = bitmap(sorted(set(range(150)) - wall), 150)
    for number in (victim, *(n for n in range(0, 150, 29) if n not in wall)):
        with pytest.raises(ProtocolError, match=f"0 holders of survivor {victim} survived"):
            client.agree(session.members[number], survivors, session.identities[number])
    # Its masks with the wall follow from keys that would be revealed, so the others' sum does not need its vector.
    secrets = {partner: session.members[partner].mask_private for partner in wall}
    seedless = {**secrets, "seed": session.members[victim].self_seed}
    assert (stripped(session, victim, session.words[victim], seedless) == session.vectors[victim]).all()
    assert (stripped(session, victim, session.words[victim], secrets) != session.vectors[victim]).any()


# --- copies of keys


def copied(key):
    """The same X25519 key in its other spelling."""
    return key[:31] + bytes([key[31] ^ 0x80])


def forged_deals(session, roster, number, picks):
    """Deals of a client that has no secrets to share: signed, and garbage."""
    signature = sign(
        session.identities[number], "picks", session.session, parse_roster(roster).digest, pack_numbers(picks)
    )
    count = len(picks)
    return Deals(picks, signature, tuple(bytes(BOX) for _ in picks), bytes(2 * PRINT * (count + 1)))


def test_copies_of_partners_keys_do_not_cancel_their_masks(cohort):
    """Two colluders copy the mask keys of the victim's two honest partners and are placed before it.

    The victim subtracts its masks with members before it and adds those with members behind it.
    """
    session, victim, honest = cohort(5, 4, 2, "copies").run("join"), 2, (3, 4)
    adverts = list(session.adverts.values())
    for colluder, partner in zip((0, 1), honest, strict=True):
        mask_key = copied(session.assembly.roster.adverts[partner].mask_key)
        box_key = public_of(bytes([colluder + 1]) * KEY)
        adverts[colluder] = advert_of(session.identities[colluder], session.session, box_key, mask_key)
        assert len(adverts[colluder]) == len(adverts[victim])
    roster = b"".join(adverts)
    rows, members = {}, {}
    for number in range(5):
        if number < 2:
            picks = tuple(n for n in range(5) if n != number)[-session.terms.neighbours :]
            rows[number] = forged_deals(session, roster, number, picks).row()
        else:
            members[number], deals = client.deal(
                session.members[number], roster, session.identities[number], session.entropy, None
            )
            rows[number] = deals.row()
    assert session.terms.neighbours == 4
    vector = session.vectors[victim]
    member, words = client.mask(members[victim], pack_graph(rows, 5), bytes(4 * BOX), vector)
    add_masks(words, [], [member.self_seed])  # as it survives, its seed will be revealed
    assert (from_words(words) != vector).any()
    assert ((words - to_words(vector)) != 0).all()


# --- what a client cannot see must not help


def test_an_upload_repeated_by_the_server_does_not_unmask_a_difference(cohort):
    """A vector that is added twice leaves its masks behind: no set of survivors explains them."""
    session = cohort(6, 5, 1, "twice").run("reveal")
    total = sum(session.words.values(), np.zeros(8, np.uint32)) + session.words[0]
    got = server.unmask(session.assembly, session.dealt, session.survivors, total, session.reveals)
    assert (np.abs(got - session.plain() - session.vectors[0]) > 2**20).any()


def test_a_sum_without_one_of_the_survivors_stays_masked(cohort):
    session = cohort(6, 5, 1, "without").run("reveal")
    total = sum((session.words[n] for n in range(1, 6)), np.zeros(8, np.uint32))
    got = server.unmask(session.assembly, session.dealt, session.survivors, total, session.reveals)
    assert (np.abs(got - session.vectors[1:].sum(axis=0)) > 2**23).all()
