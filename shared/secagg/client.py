"""The client's side of a session, in five steps; no IO, randomness as an argument.

Protocol: Bell et al. 2020 (the variant against malicious servers, with every client dealing shares to neighbours of its
own choice) with Bonawitz et al. 2017's agreement on the survivors by everybody. A client believes nothing about the
others that is not signed by them, and reveals a share only for the one set of survivors that a quorum has signed.
Whatever a server sends in between, the client answers each step once or ends the session.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.secagg.keys import KEY, Agreement, digest, open_box, public_of, seal_box, sign, signed
from shared.secagg.masks import Words, add_masks, to_words
from shared.secagg.messages import (
    PAIR,
    Advert,
    Deals,
    Graph,
    Reveal,
    Roster,
    bits,
    cut_boxes,
    pack_numbers,
    pack_shares,
    parse_graph,
    parse_roster,
    parse_shares,
    parse_signatures,
)
from shared.secagg.shamir import SHARE, Entropy, split
from shared.secagg.terms import Terms, terms_for

JOINED, DEALT, UPLOADED, AGREED = "joined", "dealt", "uploaded", "agreed"
_NOBODY: Final = bytes(KEY)  # stands for "no session" where a signature outlives sessions


@dataclass(frozen=True)
class Member:
    """What a client remembers of a session: plain values only, so that they can be kept between two messages.

    Attributes:
        phase: last step taken.
        session: 32-byte name of the session, a digest of everything that was asked for.
        smallest, colluders: of the plan.
        box_private, mask_private: X25519 keys.
        self_seed: key of the mask that only this client adds.
        roster, number: everybody, and this client's place.
        picks: holders of its secrets.
        own: its own shares of them, PAIR bytes.
        graph: who picked whom, as it was told.
        dealers, held: whose shares it holds, and the shares, PAIR bytes each.
        survivors: bitmap it has signed.
    """

    phase: str
    session: bytes
    smallest: int
    colluders: int
    box_private: bytes
    mask_private: bytes
    self_seed: bytes
    roster: bytes = b""
    number: int = 0
    picks: tuple[int, ...] = ()
    own: bytes = b""
    graph: bytes = b""
    dealers: tuple[int, ...] = ()
    held: bytes = b""
    survivors: bytes = b""


def join(
    session: bytes,
    smallest: int,
    colluders: int,
    identity: Ed25519PrivateKey,
    entropy: Entropy,
    registration: bytes,
) -> tuple[Member, Advert]:
    """Step 1, run by each client on an invitation: fresh keys, signed.

    Args:
        session: digest of the invitation.
        smallest, colluders: of the plan that the client's gate has accepted.
        identity: registered key.
        entropy: source of all of the session's secrets.
        registration: an independent registrar's signature, or ``NO_REGISTRATION``.
    """
    box_private, mask_private, self_seed = (entropy(KEY) for _ in range(3))
    keys = public_of(box_private), public_of(mask_private)
    public = identity.public_key().public_bytes_raw()
    advert = Advert(public, *keys, sign(identity, "keys", session, *keys), registration)
    return Member(JOINED, session, smallest, colluders, box_private, mask_private, self_seed), advert


def deal(
    member: Member, raw: bytes, identity: Ed25519PrivateKey, entropy: Entropy, registrar: bytes | None
) -> tuple[Member, Deals]:
    """Step 2, run by each client on the roster: pick holders, deal both secrets to them.

    Args:
        member: after :func:`join`.
        raw: the roster.
        identity: registered key.
        entropy: chooses the holders and the polynomials.
        registrar: key whose signature every identity must carry, if the client's consent names one.

    Raises:
        ProtocolError: wrong step; a roster that repeats a key, is smaller than the plan's smallest cohort, does not
            hold this client with the keys it sent, or names a member whose keys or registration are not signed.
    """
    _step(member, JOINED)
    roster = parse_roster(raw)
    number = _own_place(member, roster, identity.public_key().public_bytes_raw())
    if registrar is not None:
        _check_registrations(roster, registrar)
    terms = _terms(member, len(roster.adverts))
    picks = _choose(len(roster.adverts), number, terms.neighbours, entropy)
    _check_signed(roster, member.session, picks)
    count = terms.neighbours + 1
    shares = np.concatenate(
        [split(secret, terms.threshold, count, entropy) for secret in (member.self_seed, member.mask_private)], axis=1
    )
    pairs = [pack_shares(row) for row in shares]
    agreement = Agreement(member.box_private, member.session)
    boxes = tuple(
        seal_box(agreement.key(roster.adverts[pick].box_key, "box", _place(number), _place(pick)), pair)
        for pick, pair in zip(picks, pairs[1:], strict=True)
    )
    prints = b"".join(digest(half) for pair in pairs for half in (pair[:SHARE], pair[SHARE:]))
    signature = sign(identity, "picks", member.session, roster.digest, pack_numbers(picks))
    dealt = replace(member, phase=DEALT, roster=raw, number=number, picks=picks, own=pairs[0])
    return dealt, Deals(picks, signature, boxes, prints)


def mask(member: Member, raw: bytes, boxes: bytes, vector: NDArray[np.integer]) -> tuple[Member, Words]:
    """Step 3, run by each client that dealt: mask one vector, once.

    Args:
        member: after :func:`deal`.
        raw: the graph: who picked whom.
        boxes: for this client, one from each dealer that picked it.
        vector: (length,) sealed integers; a sealed vector belongs to this session alone and is never masked again.

    Returns:
        (length,) uint32 words that look uniform to everybody, until they are summed up.

    Raises:
        ProtocolError: wrong step; a graph that gives others as this client's picks, or in which too few members dealt,
            or too few of its holders, or somebody's row is not signed.
    """
    _step(member, DEALT)
    roster = parse_roster(member.roster)
    terms = _terms(member, len(roster.adverts))
    graph = _signed_graph(raw, member.roster, member.session, terms.neighbours)
    _check_members(graph.dealt, terms, member.number, "dealt")
    if graph.picks[member.number] != member.picks:
        raise ProtocolError("secagg: the graph gives other picks for this client than it made")
    alive = graph.dealt.intersection(member.picks)
    if len(alive) + 1 < terms.threshold:
        raise ProtocolError(f"secagg: {len(alive)} of this client's holders dealt, its threshold is {terms.threshold}")
    dealers = graph.picked_by[member.number]
    held = _open_all(member, roster, dealers, cut_boxes(boxes, len(dealers)))
    words = to_words(vector)
    agreement = Agreement(member.mask_private, member.session)
    plus, minus = [member.self_seed], list[bytes]()
    for partner in sorted(alive.union(dealers)):
        key = pair_key(agreement, roster, member.number, partner)
        (plus if member.number < partner else minus).append(key)
    add_masks(words, plus, minus)
    masked = replace(member, phase=UPLOADED, graph=raw, dealers=tuple(held), held=b"".join(held.values()))
    return masked, words


def attest(member: Member, identity: Ed25519PrivateKey) -> bytes:
    """Step 3, sent with the masked vector: a signature on the graph that it was masked under.

    Without it a server could show one client a graph of its own, which leaves out the partners that the server cannot
    make drop out, while all others sign that this client survived.

    Raises:
        ProtocolError: wrong step.
    """
    _step(member, UPLOADED)
    return sign(identity, "masked", member.session, masked_under(member.roster, _graph(member).digest))


def agree(member: Member, survivors: bytes, identity: Ed25519PrivateKey) -> tuple[Member, bytes]:
    """Step 4, run by each client that uploaded: sign the set of those whose vectors are summed up; one set only.

    Raises:
        ProtocolError: wrong step (a second set, too); a set that is too small, lacks this client, names somebody who
            did not deal, or leaves a survivor too few holders: the others' sum could be had without that one's vector.
    """
    _step(member, UPLOADED)
    terms = _terms(member, len(parse_roster(member.roster).adverts))
    alive = bits(survivors, terms.members)
    _check_members(alive, terms, member.number, "survived")
    _check_holders(member.graph, survivors, terms)
    said = transcript(member.roster, _graph(member).digest, survivors)
    return replace(member, phase=AGREED, survivors=survivors), sign(identity, "survivors", member.session, said)


def reveal(member: Member, raw: bytes) -> Reveal:
    """Step 5, run by each client that signed: one share of each secret it holds. The session is over then: forget it.

    Formal guarantees:
        Of a survivor's secrets only the self mask's seed is revealed, of all others only the mask key: never both, as
        every client does so for one set of survivors, and any two quorums share an honest client. And no seed of a
        client that masked under another graph than this one.

    Raises:
        ProtocolError: wrong step; fewer signers than the quorum, a signer outside the set of survivors, or a survivor
            without a signature that verifies.
    """
    _step(member, AGREED)
    roster = parse_roster(member.roster)
    terms = _terms(member, len(roster.adverts))
    alive = bits(member.survivors, terms.members)
    signers = _signers(member.roster, _graph(member).digest, member.survivors, member.session, raw)
    if not signers <= alive or len(signers) < terms.quorum:
        raise ProtocolError(
            f"secagg: {len(signers)} signatures on the survivors, expected at least {terms.quorum}, of survivors only"
        )
    dealers = (member.number, *member.dealers)
    pairs = parse_shares(member.own + member.held).reshape(len(dealers), 2, -1)
    kind = [0 if dealer in alive else 1 for dealer in dealers]
    return Reveal(dealers, pairs[np.arange(len(dealers)), kind])


def transcript(roster: bytes, graph: bytes, survivors: bytes) -> bytes:
    """What all must have seen alike: the roster, the digest of the graph, who survived."""
    return digest(parse_roster(roster).digest, graph, survivors)


def masked_under(roster: bytes, graph: bytes) -> bytes:
    """What a client says about its masks: the roster and the digest of the graph that they come from."""
    return digest(parse_roster(roster).digest, graph)


def pair_key(agreement: Agreement, roster: Roster, own: int, partner: int) -> bytes:
    """The key of the mask between two members.

    It names both, because two rows of a roster can hold one X25519 key in two spellings (RFC 7748 ignores the highest
    bit): the mask with a copy of a partner's key must not cancel the mask with the partner.
    """
    low, high = sorted((own, partner))
    return agreement.key(roster.adverts[partner].mask_key, "mask", _place(low), _place(high))


def registration(registrar: Ed25519PrivateKey, identity: bytes) -> bytes:
    """An independent registrar's word that a key belongs to a real client."""
    return sign(registrar, "registration", _NOBODY, identity)


def _step(member: Member, phase: str) -> None:
    if member.phase != phase:
        raise ProtocolError(f"secagg: this session is at {member.phase!r}, a message for {phase!r} is answered once")


def _terms(member: Member, members: int) -> Terms:
    try:
        return terms_for(members, member.smallest, member.colluders)
    except ValueError as error:
        raise ProtocolError(f"secagg: a roster of {members}: {error}") from error


def _graph(member: Member) -> Graph:
    terms = _terms(member, len(parse_roster(member.roster).adverts))
    return parse_graph(member.graph, terms.members, terms.neighbours)


def _own_place(member: Member, roster: Roster, identity: bytes) -> int:
    number = roster.place.get(identity)
    if number is None:
        raise ProtocolError("secagg: a roster without this client")
    advert = roster.adverts[number]
    if (advert.box_key, advert.mask_key) != (public_of(member.box_private), public_of(member.mask_private)):
        raise ProtocolError("secagg: the roster lists other keys for this client than it sent")
    return number


def _check_signed(roster: Roster, session: bytes, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        advert = roster.adverts[number]
        if not signed(advert.identity, advert.signature, "keys", session, advert.box_key, advert.mask_key):
            raise ProtocolError(f"secagg: the keys of member {number} are not signed by it for this session")


def _check_registrations(roster: Roster, registrar: bytes) -> None:
    for number, advert in enumerate(roster.adverts):
        if not signed(registrar, advert.registration, "registration", _NOBODY, advert.identity):
            raise ProtocolError(f"secagg: member {number} is not registered by the key that consent names")


def _check_members(members: frozenset[int], terms: Terms, number: int, what: str) -> None:
    if number not in members:
        raise ProtocolError(f"secagg: this client is not among those that {what}")
    if len(members) < terms.quorum:
        raise ProtocolError(f"secagg: {len(members)} members {what}, at least {terms.quorum} must have")


@lru_cache(maxsize=4)
def _check_holders(raw: bytes, survivors: bytes, terms: Terms) -> None:
    """Cached: a process's clients are all asked to sign the same set."""
    graph, alive = parse_graph(raw, terms.members, terms.neighbours), bits(survivors, terms.members)
    if not alive <= graph.dealt:
        raise ProtocolError("secagg: a survivor that never dealt")
    for number in sorted(alive):
        near = len(alive.intersection(graph.picks[number]))
        if near + 1 < terms.threshold:
            raise ProtocolError(
                f"secagg: {near} holders of survivor {number} survived, its threshold is {terms.threshold}"
            )


def _choose(members: int, number: int, count: int, entropy: Entropy) -> tuple[int, ...]:
    """``count`` others, uniformly without replacement; in rising order. The bias of the modulus is below 2^-40."""
    others = members - 1
    chosen: set[int] = set(range(others)) if count == others else set()
    while len(chosen) < count:
        word = int.from_bytes(entropy(8), "little")
        chosen.add(word % others)
    return tuple(sorted(other + (other >= number) for other in chosen))


def _open_all(member: Member, roster: Roster, dealers: tuple[int, ...], boxes: tuple[bytes, ...]) -> dict[int, bytes]:
    """The shares that open; a box that does not is held by nobody, and its dealer is masked with all the same."""
    agreement, held = Agreement(member.box_private, member.session), {}
    for dealer, box in zip(dealers, boxes, strict=True):
        key = agreement.key(roster.adverts[dealer].box_key, "box", _place(dealer), _place(member.number))
        pair = open_box(key, box)
        if pair is not None and len(pair) == PAIR:
            held[dealer] = pair
    return held


@lru_cache(maxsize=4)
def _signed_graph(raw: bytes, roster: bytes, session: bytes, neighbours: int) -> Graph:
    """A graph of which every row and every dealer's keys are signed. Cached: a process's clients are sent the same."""
    everybody = parse_roster(roster)
    graph = parse_graph(raw, len(everybody.adverts), neighbours)
    _check_signed(everybody, session, tuple(graph.dealt))
    for dealer, picks in graph.picks.items():
        signature, identity = graph.signatures[dealer], everybody.adverts[dealer].identity
        if not signed(identity, signature, "picks", session, everybody.digest, pack_numbers(picks)):
            raise ProtocolError(f"secagg: the picks of member {dealer} are not signed by it for this roster")
    return graph


@lru_cache(maxsize=4)
def _signers(roster: bytes, graph: bytes, survivors: bytes, session: bytes, raw: bytes) -> frozenset[int]:
    """Who signed the survivors, with every survivor's signature verified. Cached as above."""
    adverts = parse_roster(roster).adverts
    alive = bits(survivors, len(adverts))
    message = parse_signatures(raw, len(adverts), len(alive))
    signers = bits(message.signers, len(adverts))
    all_said, masks_said = transcript(roster, graph, survivors), masked_under(roster, graph)
    for number, signature in zip(sorted(alive), message.signatures, strict=True):
        purpose, said = ("survivors", all_said) if number in signers else ("masked", masks_said)
        if not signed(adverts[number].identity, signature, purpose, session, said):
            raise ProtocolError(f"secagg: member {number} signed neither these survivors nor this graph")
    return signers


def _place(number: int) -> bytes:
    return number.to_bytes(4, "little")
