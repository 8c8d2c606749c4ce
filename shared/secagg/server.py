"""The server's side of a session; no IO. It sees adverts, boxes, masked vectors and revealed shares, and gets the sum.

Hostile or broken clients are left out where they can be told; where they cannot (a masked vector is any vector), the
sum is garbage, and docs/secure-aggregation.md says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.secagg.client import masked_under, pair_key, transcript
from shared.secagg.keys import Agreement, digest, public_of, signed, usable
from shared.secagg.masks import Words, add_masks, from_words
from shared.secagg.messages import (
    PRINT,
    Deals,
    Graph,
    Roster,
    Signatures,
    bitmap,
    bits,
    check_picks,
    pack_graph,
    pack_numbers,
    pack_shares,
    parse_advert,
    parse_deals,
    parse_graph,
    parse_reveal,
    parse_roster,
)
from shared.secagg.shamir import Shares, combine
from shared.secagg.terms import Terms, terms_for


@dataclass(frozen=True)
class Assembly:
    """A session after the first step.

    Attributes:
        session: its name.
        terms: its public numbers.
        names: client of each number.
        roster: everybody's adverts.
    """

    session: bytes
    terms: Terms
    names: tuple[str, ...]
    roster: Roster

    @cached_property
    def place(self) -> dict[str, int]:
        """Number of each client."""
        return {name: number for number, name in enumerate(self.names)}


@dataclass(frozen=True)
class Dealt:
    """A session after the second step.

    Attributes:
        deals: by number, of those that dealt.
        raw, graph: who picked whom, on the wire and parsed.
    """

    deals: Mapping[int, Deals]
    raw: bytes
    graph: Graph


def assemble(
    session: bytes,
    smallest: int,
    colluders: int,
    adverts: Mapping[str, bytes],
    registered: Collection[bytes] | None,
) -> Assembly:
    """The roster, from what clients sent.

    Args:
        session: its name.
        smallest, colluders: of the plan.
        adverts: client -> its message; those that are malformed, unsigned, unregistered, repeat another's key or hold
            one that makes no secret are left out.
        registered: identities that may take part; None = any, each once.

    Raises:
        ProtocolError: fewer than ``smallest`` are left.
    """
    kept: dict[str, bytes] = {}
    seen: set[tuple[str, bytes]] = set()  # by purpose: an identity copied into a key must not shut its owner out
    for name, raw in adverts.items():
        try:
            advert = parse_advert(raw)
        except ProtocolError:
            continue
        keys = {("identity", advert.identity), ("box", advert.box_key), ("mask", advert.mask_key)}
        known = registered is None or advert.identity in registered
        if not known or keys & seen or not (usable(advert.box_key) and usable(advert.mask_key)):
            continue
        if signed(advert.identity, advert.signature, "keys", session, advert.box_key, advert.mask_key):
            kept[name] = raw
            seen |= keys
    try:
        terms = terms_for(len(kept), smallest, colluders)
    except ValueError as error:
        raise ProtocolError(f"secagg: too few joined: {error}") from error
    return Assembly(session, terms, tuple(kept), parse_roster(b"".join(kept.values())))


def collect(assembly: Assembly, deals: Mapping[str, bytes]) -> Dealt:
    """Deals by member; malformed or unsigned ones count as not dealt.

    Raises:
        ProtocolError: a quorum did not deal.
    """
    terms, parsed = assembly.terms, {}
    for number, name in enumerate(assembly.names):
        try:
            parsed[number] = _deals(assembly, deals[name], number)
        except (LookupError, ProtocolError):
            continue
    _check_quorum(len(parsed), terms, "dealt")
    raw = pack_graph({number: message.row() for number, message in parsed.items()}, terms.members)
    return Dealt(parsed, raw, parse_graph(raw, terms.members, terms.neighbours))


def boxes_for(assembly: Assembly, dealt: Dealt) -> dict[str, bytes]:
    """What each client that dealt is sent beside the graph: the boxes of those that picked it."""
    box = {
        (dealer, pick): sealed
        for dealer, message in dealt.deals.items()
        for pick, sealed in zip(message.picks, message.boxes, strict=True)
    }
    return {
        assembly.names[number]: b"".join(box[dealer, number] for dealer in dealt.graph.picked_by[number])
        for number in dealt.deals
    }


def admit(assembly: Assembly, dealt: Dealt, name: str, attestation: bytes) -> None:
    """Whether a masked vector may be added: whose clients would refuse as a survivor is left out before.

    Args:
        assembly, dealt: the session so far.
        name: client that sent it.
        attestation: of the graph, sent with it; to be kept for :func:`endorse`.

    Raises:
        ProtocolError: the client did not deal, or did not sign that it masked under this graph.
    """
    said = masked_under(assembly.roster.raw, dealt.graph.digest)
    number = assembly.place.get(name)
    if number is None or number not in dealt.deals:
        raise ProtocolError(f"secagg: {name!r} uploaded, but did not deal")
    if not signed(assembly.roster.adverts[number].identity, attestation, "masked", assembly.session, said):
        raise ProtocolError(f"secagg: {name!r} did not sign the graph that its vector is masked under")


def survivors_of(assembly: Assembly, uploaded: Collection[str]) -> bytes:
    """The set to agree on: those whose masked vectors are in the sum.

    Raises:
        ProtocolError: it is too small.
    """
    numbers = [number for number, name in enumerate(assembly.names) if name in uploaded]
    _check_quorum(len(numbers), assembly.terms, "uploaded")
    return bitmap(numbers, assembly.terms.members)


def endorse(
    assembly: Assembly,
    dealt: Dealt,
    survivors: bytes,
    signatures: Mapping[str, bytes],
    attestations: Mapping[str, bytes],
) -> bytes:
    """A signature of each survivor: on the survivors if that verifies, else on the graph.

    Args:
        assembly, dealt, survivors: the session so far.
        signatures: client -> its answer to the survivors.
        attestations: client -> what came with its vector; needed of those that are gone since.

    Raises:
        ProtocolError: those that verify are no quorum, or some survivor has neither.
    """
    said = transcript(assembly.roster.raw, dealt.graph.digest, survivors)
    kept, signers = [], []
    for number in sorted(bits(survivors, assembly.terms.members)):
        name = assembly.names[number]
        signature = signatures.get(name, b"")
        if signed(assembly.roster.adverts[number].identity, signature, "survivors", assembly.session, said):
            signers.append(number)
        else:
            signature = attestations.get(name, b"")
            admit(assembly, dealt, name, signature)
        kept.append(signature)
    _check_quorum(len(signers), assembly.terms, "signed")
    return Signatures(bitmap(signers, assembly.terms.members), tuple(kept)).pack()


def unmask(
    assembly: Assembly, dealt: Dealt, survivors: bytes, total: Words, reveals: Mapping[str, bytes]
) -> NDArray[np.int64]:
    """The sum of the survivors' vectors.

    Args:
        assembly, dealt, survivors: the session so far.
        total: (length,) sum of the masked vectors modulo 2^32; left as it is.
        reveals: client -> its message.

    Returns:
        (length,) int64.

    Raises:
        ProtocolError: too few right shares of somebody's secret: the sum stays masked.
    """
    alive = bits(survivors, assembly.terms.members)
    shares = _revealed(assembly, dealt, alive, reveals)
    added: list[bytes] = []
    subtracted: list[bytes] = []
    for number in dealt.deals:
        secret = _recovered(assembly, shares.get(number, {}), number)
        if number in alive:
            added.append(secret)
            continue
        if public_of(secret) != assembly.roster.adverts[number].mask_key:
            raise ProtocolError(f"secagg: member {number} dealt shares of another key than its own")
        agreement = Agreement(secret, assembly.session)
        partners = {*dealt.graph.picks[number], *dealt.graph.picked_by[number]} & alive
        for partner in partners:
            key = pair_key(agreement, assembly.roster, number, partner)
            (added if partner < number else subtracted).append(key)
    words = total.copy()
    add_masks(words, subtracted, added)
    return from_words(words)


def _check_quorum(count: int, terms: Terms, what: str) -> None:
    if count < terms.quorum:
        raise ProtocolError(f"secagg: {count} of {terms.members} clients {what}, at least {terms.quorum} must have")


def _deals(assembly: Assembly, raw: bytes, number: int) -> Deals:
    """One member's deals, picks checked and signed.

    Raises:
        ProtocolError: they are not.
    """
    terms, deals = assembly.terms, parse_deals(raw, assembly.terms.neighbours)
    check_picks(number, deals.picks, terms.members)
    identity, picks = assembly.roster.adverts[number].identity, pack_numbers(deals.picks)
    if not signed(identity, deals.signature, "picks", assembly.session, assembly.roster.digest, picks):
        raise ProtocolError(f"secagg: the picks of {assembly.names[number]!r} are not signed by it for this roster")
    return deals


def _revealed(
    assembly: Assembly, dealt: Dealt, alive: frozenset[int], reveals: Mapping[str, bytes]
) -> dict[int, dict[int, Shares]]:
    """By dealer and position, the shares that carry the print that their dealer gave; others are dropped."""
    place = {
        number: {pick: position for position, pick in enumerate((number, *deals.picks), 1)}
        for number, deals in dealt.deals.items()
    }
    found: dict[int, dict[int, Shares]] = defaultdict(dict)
    for holder in alive:
        raw = reveals.get(assembly.names[holder])
        if raw is None:
            continue
        try:
            message = parse_reveal(raw, assembly.terms.members)
        except ProtocolError:
            continue
        for dealer, share in zip(message.dealers, message.shares, strict=True):
            position = place.get(dealer, {}).get(holder)
            if position is not None:
                start = PRINT * (2 * (position - 1) + (dealer not in alive))
                if digest(pack_shares(share)) == dealt.deals[dealer].prints[start : start + PRINT]:
                    found[dealer][position] = share
    return found


def _recovered(assembly: Assembly, shares: Mapping[int, Shares], number: int) -> bytes:
    threshold = assembly.terms.threshold
    if len(shares) < threshold:
        raise ProtocolError(
            f"secagg: {len(shares)} right shares of a secret of {assembly.names[number]!r}, {threshold} are needed"
        )
    positions = sorted(shares)[:threshold]
    try:
        return combine(positions, np.array([shares[x] for x in positions]))
    except ValueError as error:
        raise ProtocolError(f"secagg: {assembly.names[number]!r} dealt shares of no secret") from error
