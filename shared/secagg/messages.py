"""What crosses the wire in a session, one class a message; all fields are fixed in length, so there is one spelling.

Members are numbered by their place on the roster. Sets of members are bitmaps, one bit a member, so that somebody is
either in a set or not: there is no way to write down a client that survived and dropped out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from shared.errors import ProtocolError
from shared.secagg.keys import KEY, SIGNATURE, TAG, digest
from shared.secagg.shamir import LIMBS, PRIME, SHARE, Shares
from shared.secagg.terms import LARGEST_ROSTER

PAIR: Final = 2 * SHARE  # bytes: a share of the self mask's seed, then one of the mask key
BOX: Final = PAIR + TAG
PRINT: Final = 32  # bytes: SHA-256 of one share, by which a wrong one is known
NO_REGISTRATION: Final = bytes(SIGNATURE)


@dataclass(frozen=True)
class Advert:
    """Client -> server, join: who takes part and with which keys of this session.

    Attributes:
        identity: registered Ed25519 key.
        box_key, mask_key: X25519 keys of this session.
        signature: by ``identity``, over both keys.
        registration: an independent registrar's signature over ``identity``, or zeros.
    """

    identity: bytes
    box_key: bytes
    mask_key: bytes
    signature: bytes
    registration: bytes

    def pack(self) -> bytes:
        """On the wire."""
        return self.identity + self.box_key + self.mask_key + self.signature + self.registration


ADVERT: Final = 3 * KEY + 2 * SIGNATURE


def parse_advert(raw: bytes) -> Advert:
    """An advert, not yet verified.

    Raises:
        ProtocolError: wrong length.
    """
    _exactly(raw, ADVERT, "an advert")
    a, b, c, d = KEY, 2 * KEY, 3 * KEY, 3 * KEY + SIGNATURE
    return Advert(raw[:a], raw[a:b], raw[b:c], raw[c:d], raw[d:])


@dataclass(frozen=True)
class Roster:
    """Server -> clients, share: everybody's adverts, in one order for all.

    Attributes:
        raw: on the wire.
        adverts: parsed; a member's number is its place.
        digest: SHA-256 of ``raw``.
        place: identity -> number.
    """

    raw: bytes
    adverts: tuple[Advert, ...]
    digest: bytes
    place: dict[bytes, int]


@lru_cache(maxsize=4)
def parse_roster(raw: bytes) -> Roster:
    """A roster without repeated keys. Cached: a process that serves many clients reads it once.

    Raises:
        ProtocolError: not a whole number of adverts, too many, or a key that stands there twice.
    """
    if not raw or len(raw) % ADVERT or len(raw) > ADVERT * LARGEST_ROSTER:
        raise ProtocolError(
            f"secagg: a roster of {len(raw)} bytes, expected a multiple of {ADVERT}, from 1 to {LARGEST_ROSTER} times"
        )
    adverts = tuple(parse_advert(raw[start : start + ADVERT]) for start in range(0, len(raw), ADVERT))
    for name in ("identity", "box_key", "mask_key"):
        if len({getattr(advert, name) for advert in adverts}) != len(adverts):
            raise ProtocolError(f"secagg: the roster lists one {name} twice")
    return Roster(raw, adverts, digest(raw), {advert.identity: n for n, advert in enumerate(adverts)})


@dataclass(frozen=True)
class Deals:
    """Client -> server, deal: the client's two secrets, shared among the holders it picked.

    Attributes:
        picks: (k,) numbers of the holders; the dealer itself is holder 0, they are 1 .. k.
        signature: by the dealer's identity, over the roster and the picks.
        boxes: one for each pick: its two shares, sealed for it alone.
        prints: (k + 1) pairs of SHA-256 of the two shares, the dealer's own first.
    """

    picks: tuple[int, ...]
    signature: bytes
    boxes: tuple[bytes, ...]
    prints: bytes

    def row(self) -> bytes:
        """What everybody is told of it."""
        return pack_numbers(self.picks) + self.signature

    def pack(self) -> bytes:
        """On the wire."""
        return self.row() + b"".join(self.boxes) + self.prints


def deals_size(neighbours: int) -> int:
    """Bytes of a member's deals."""
    return row_size(neighbours) + BOX * neighbours + 2 * PRINT * (neighbours + 1)


def parse_deals(raw: bytes, neighbours: int) -> Deals:
    """Deals of one member; the picks are not yet checked.

    Raises:
        ProtocolError: wrong length.
    """
    row = row_size(neighbours)
    prints = row + BOX * neighbours
    _exactly(raw, deals_size(neighbours), "deals")
    picks, signature = _row(raw[:row], neighbours)
    return Deals(picks, signature, _cut(raw[row:prints], BOX), raw[prints:])


@dataclass(frozen=True)
class Graph:
    """Server -> clients, upload: who picked whom, in the dealers' own signed words.

    Attributes:
        dealt: members that dealt.
        picks: dealer -> its holders.
        picked_by: member -> the dealers that picked it, in rising order.
        signatures: dealer -> over its picks; not yet verified.
        digest: SHA-256 of it on the wire.
    """

    dealt: frozenset[int]
    picks: dict[int, tuple[int, ...]]
    picked_by: dict[int, tuple[int, ...]]
    signatures: dict[int, bytes]
    digest: bytes


def pack_graph(rows: Mapping[int, bytes], members: int) -> bytes:
    """A graph on the wire, from the rows of those that dealt."""
    return bitmap(rows, members) + b"".join(rows[number] for number in sorted(rows))


@lru_cache(maxsize=4)
def parse_graph(raw: bytes, members: int, neighbours: int) -> Graph:
    """A graph on a roster of ``members``. Cached as rosters are.

    Raises:
        ProtocolError: wrong length, or a row that is not ``neighbours`` distinct others.
    """
    dealt = bits(raw[: bitmap_size(members)], members)
    _exactly(raw, bitmap_size(members) + row_size(neighbours) * len(dealt), "a graph")
    rows = _cut(raw[bitmap_size(members) :], row_size(neighbours))
    picks: dict[int, tuple[int, ...]] = {}
    signatures: dict[int, bytes] = {}
    picked_by: dict[int, list[int]] = {number: [] for number in range(members)}
    for dealer, row in zip(sorted(dealt), rows, strict=True):
        picks[dealer], signatures[dealer] = _row(row, neighbours)
        check_picks(dealer, picks[dealer], members)
        for pick in picks[dealer]:
            picked_by[pick].append(dealer)
    pickers = {number: tuple(dealers) for number, dealers in picked_by.items()}
    return Graph(dealt, picks, pickers, signatures, digest(raw))


def check_picks(dealer: int, picks: tuple[int, ...], members: int) -> None:
    """Whether somebody's picks are such.

    Raises:
        ProtocolError: not distinct others of a roster of ``members``.
    """
    if len({*picks, dealer}) != len(picks) + 1 or max(picks, default=0) >= members:
        raise ProtocolError(f"secagg: member {dealer} did not pick {len(picks)} distinct others of {members}")


@dataclass(frozen=True)
class Signatures:
    """Server -> client, reveal: one signature of each survivor, which ties it to this client's view.

    Attributes:
        signers: bitmap of those that signed the set of survivors (and the graph with it).
        signatures: in order of all survivors' numbers: a signer's on the survivors, of any other on the graph.
    """

    signers: bytes
    signatures: tuple[bytes, ...]

    def pack(self) -> bytes:
        """On the wire."""
        return self.signers + b"".join(self.signatures)


def parse_signatures(raw: bytes, members: int, survivors: int) -> Signatures:
    """Signatures of so many survivors on a roster of ``members``.

    Raises:
        ProtocolError: wrong length.
    """
    size = bitmap_size(members)
    _exactly(raw, size + SIGNATURE * survivors, "signatures")
    return Signatures(raw[:size], _cut(raw[size:], SIGNATURE))


@dataclass(frozen=True)
class Reveal:
    """Client -> server, reveal: one share for each member it holds shares of.

    Attributes:
        dealers: whose.
        shares: (m, LIMBS): of the self mask's seed for survivors, of the mask key for those that dropped out.
    """

    dealers: tuple[int, ...]
    shares: Shares

    def pack(self) -> bytes:
        """On the wire."""
        return pack_numbers(self.dealers) + pack_shares(self.shares)


def reveal_size(members: int) -> int:
    """Most bytes that one holder can reveal: a share of everybody's."""
    return (4 + SHARE) * members


def parse_reveal(raw: bytes, members: int) -> Reveal:
    """What one holder reveals.

    Raises:
        ProtocolError: wrong length, numbers that are not distinct members, values outside the field.
    """
    if len(raw) % (4 + SHARE) or len(raw) > (4 + SHARE) * members:
        raise ProtocolError(f"secagg: {len(raw)} bytes fit no number of shares of {members} members")
    count = len(raw) // (4 + SHARE)
    dealers = tuple(np.frombuffer(raw[: 4 * count], "<u4").tolist())
    if len(set(dealers)) != count or max(dealers, default=0) >= members:
        raise ProtocolError(f"secagg: shares of others than distinct members of a roster of {members}")
    return Reveal(dealers, parse_shares(raw[4 * count :]))


def pack_shares(shares: Shares) -> bytes:
    """Field elements as little-endian 32-bit words."""
    return shares.astype("<u4").tobytes()


def parse_shares(raw: bytes) -> Shares:
    """(m, LIMBS) field elements.

    Raises:
        ProtocolError: a value outside the field.
    """
    shares = np.frombuffer(raw, "<u4").reshape(-1, LIMBS)
    if (shares >= PRIME).any():
        raise ProtocolError("secagg: a share outside the field")
    return shares


def bitmap_size(members: int) -> int:
    """Bytes of a set of members."""
    return (members + 7) // 8


def bitmap(numbers: Collection[int], members: int) -> bytes:
    """A set of members as bits, the first in the lowest bit."""
    flags = np.zeros(members, np.uint8)
    flags[list(numbers)] = 1
    return np.packbits(flags, bitorder="little").tobytes()


@lru_cache(maxsize=16)
def bits(raw: bytes, members: int) -> frozenset[int]:
    """The members in a set. Cached: all clients of a process are sent the same few sets.

    Raises:
        ProtocolError: wrong length, or bits beyond the last member.
    """
    _exactly(raw, bitmap_size(members), "a set of members")
    flags = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
    if flags[members:].any():
        raise ProtocolError(f"secagg: a set names members beyond the {members} on the roster")
    return frozenset(np.flatnonzero(flags).tolist())


def pack_numbers(numbers: Sequence[int]) -> bytes:
    """Members' numbers as little-endian 32-bit words."""
    return np.asarray(numbers, "<u4").tobytes()


def row_size(neighbours: int) -> int:
    """Bytes of one dealer's row of the graph."""
    return 4 * neighbours + SIGNATURE


def cut_boxes(raw: bytes, count: int) -> tuple[bytes, ...]:
    """The boxes for one holder, one for each dealer that picked it.

    Raises:
        ProtocolError: another number of them.
    """
    _exactly(raw, BOX * count, "boxes")
    return _cut(raw, BOX)


def _row(raw: bytes, neighbours: int) -> tuple[tuple[int, ...], bytes]:
    return tuple(np.frombuffer(raw[: 4 * neighbours], "<u4").tolist()), raw[4 * neighbours :]


def _cut(raw: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(raw[start : start + size] for start in range(0, len(raw), size))


def _exactly(raw: bytes, size: int, what: str) -> None:
    if len(raw) != size:
        raise ProtocolError(f"secagg: {what} of {len(raw)} bytes, expected {size}")
