"""Letting clients in: an invitation works once, in time, for the keys that were made with it; out is out for good."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from server import enrolling
from server.enrolling import approve, invite, read_clients, read_invitations, revoke, settle, standing_of, withdraw
from shared.enrolment import pass_from_dict
from shared.errors import DataError, RunError
from shared.keys import own_key
from shared.privacy.ledger import public_hex
from shared.secagg.client import registration


class SuperLink:
    """What ``settle`` tells of it; breaks when it is told to."""

    def __init__(self):
        self.nodes, self.down = {}, False

    def register(self, key):
        if self.down:
            raise RunError("the SuperLink does not answer")
        return next((node for node, known in self.nodes.items() if known == key), None) or self._fresh(key)

    def _fresh(self, key):
        node = 1000 + len(self.nodes)
        self.nodes[node] = key
        return node

    def unregister(self, node):
        if self.down:
            raise RunError("the SuperLink does not answer")
        self.nodes.pop(node, None)


@pytest.fixture
def superlink():
    return SuperLink()


def stands(house, now):
    return [standing_of(each, read_clients(house), now) for each in read_invitations(house)]


def test_who_was_invited_is_let_in_under_the_registrars_word(house, now, answer):
    invited = invite(house, "ann", 14, now)
    client = approve(house, answer(invited), "bob", now)
    assert read_clients(house) == (client,)
    assert client.name == client.identity[:16]
    assert (client.by, client.node, client.revoked) == ("bob", None, None)
    registrar = own_key(house.registrar_key)
    assert public_hex(registrar) == invited.roster
    assert bytes.fromhex(client.registration) == registration(registrar, bytes.fromhex(client.identity))
    assert stands(house, now) == ["used"]


def test_an_invitation_is_one_that_a_device_reads(house, now):
    invited = invite(house, "ann", 14, now)
    assert pass_from_dict(invited.__dict__, "here") == invited
    assert invited.address == "localhost:8443"


def test_a_used_code_is_gone_from_the_disk(house, now, answer):
    invited = invite(house, "ann", 14, now)
    assert invited.code in house.invitations.read_text()
    approve(house, answer(invited), "bob", now)
    for path in house.folder.rglob("*"):
        if path.is_file():
            assert invited.code.encode() not in path.read_bytes(), path


def test_a_replayed_code_lets_nobody_in_neither_the_same_device_nor_another(house, now, answer):
    invited = invite(house, "ann", 14, now)
    approve(house, answer(invited, 1), "bob", now)
    for number in (1, 2):
        with pytest.raises(DataError, match="is used"):
            approve(house, answer(invited, number), "bob", now)
    assert len(read_clients(house)) == 1


def test_a_server_killed_between_its_two_files_does_not_take_the_code_again(house, now, answer, monkeypatch):
    invited = invite(house, "ann", 14, now)
    write = enrolling._write

    def killed(path, records):
        if path == house.invitations:
            raise KeyboardInterrupt
        write(path, records)

    monkeypatch.setattr(enrolling, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        approve(house, answer(invited, 1), "bob", now)
    monkeypatch.undo()
    with pytest.raises(DataError, match="is used"):
        approve(house, answer(invited, 2), "bob", now)


def test_an_expired_code_is_refused_from_its_second_on(house, now, answer):
    invited = invite(house, "ann", 1, now)
    late = now + timedelta(days=1)
    with pytest.raises(DataError, match="is expired"):
        approve(house, answer(invited), "bob", late)
    assert stands(house, late) == ["expired"]
    approve(house, answer(invited), "bob", late - timedelta(seconds=1))


def test_a_withdrawn_code_is_refused(house, now, answer):
    invited = invite(house, "ann", 14, now)
    withdraw(house, invited.invitation, "ann")
    with pytest.raises(DataError, match="is withdrawn"):
        approve(house, answer(invited), "bob", now)
    with pytest.raises(DataError, match="none of this name is open"):
        withdraw(house, invited.invitation, "ann")


def test_a_code_of_another_invitation_or_of_nobody_is_refused(house, now, answer):
    first, second = invite(house, "ann", 14, now), invite(house, "ann", 14, now)
    mixed = replace(answer(first), invitation=second.invitation)
    with pytest.raises(DataError, match="made with another code"):
        approve(house, mixed, "bob", now)
    with pytest.raises(DataError, match="is unknown"):
        approve(house, replace(answer(first), invitation="0" * 16), "bob", now)
    assert read_clients(house) == ()
    assert stands(house, now) == ["open", "open"]


def test_a_tampered_request_burns_nothing(house, now, answer):
    invited = invite(house, "ann", 14, now)
    good = answer(invited)
    with pytest.raises(DataError):
        approve(house, replace(good, node_key=answer(invited, 2).node_key), "bob", now)
    approve(house, good, "bob", now)


def test_a_key_is_enrolled_once_for_good(house, now, answer):
    first, second = invite(house, "ann", 14, now), invite(house, "ann", 14, now)
    client = approve(house, answer(first), "bob", now)
    with pytest.raises(DataError, match="a key is enrolled once"):
        approve(house, answer(second), "bob", now)
    revoke(house, client.name, "ann", now)
    with pytest.raises(DataError, match="a key is enrolled once"):
        approve(house, answer(second), "bob", now)


def test_a_revoked_client_stays_in_the_list_as_one(house, now, answer):
    client = approve(house, answer(invite(house, "ann", 14, now)), "bob", now)
    revoke(house, client.name, "cid", now)
    (out,) = read_clients(house)
    assert (out.revoked, out.revoked_by) == (now.isoformat(timespec="seconds"), "cid")
    with pytest.raises(DataError, match="revoked already"):
        revoke(house, client.name, "cid", now)
    with pytest.raises(DataError, match="none of this name"):
        revoke(house, "../clients", "cid", now)


@pytest.mark.parametrize("days", [0, -1, 366])
def test_an_invitation_lasts_a_year_at_most(days, house, now):
    with pytest.raises(DataError, match="1 to 365 days"):
        invite(house, "ann", days, now)


def test_the_superlink_learns_who_is_in_and_who_is_out(house, now, answer, superlink):
    clients = [approve(house, answer(invite(house, "ann", 14, now), n), "bob", now) for n in (1, 2)]
    assert settle(house, superlink.register, superlink.unregister) == 2
    assert sorted(superlink.nodes.values()) == sorted(client.node_key for client in clients)
    assert settle(house, superlink.register, superlink.unregister) == 0
    revoke(house, clients[0].name, "ann", now)
    assert settle(house, superlink.register, superlink.unregister) == 1
    assert list(superlink.nodes.values()) == [clients[1].node_key]
    assert [client.node is None for client in read_clients(house)] == [True, False]


def test_what_a_stopped_superlink_missed_is_told_later(house, now, answer, superlink):
    client = approve(house, answer(invite(house, "ann", 14, now)), "bob", now)
    superlink.down = True
    with pytest.raises(RunError):
        settle(house, superlink.register, superlink.unregister)
    assert read_clients(house) == (client,)
    superlink.down = False
    assert settle(house, superlink.register, superlink.unregister) == 1


def test_one_whom_the_superlink_does_not_take_keeps_nobody_else_out(house, now, answer, superlink):
    first, second = (approve(house, answer(invite(house, "ann", 14, now), n), "bob", now) for n in (1, 2))

    def picky(key):
        if key == first.node_key:
            raise RunError("never taken again")
        return superlink.register(key)

    with pytest.raises(RunError, match="never taken again"):
        settle(house, picky, superlink.unregister)
    assert [client.node is None for client in read_clients(house)] == [True, False]
    assert list(superlink.nodes.values()) == [second.node_key]


def test_a_client_that_was_revoked_while_it_was_registered_goes_out_next_time(house, now, answer, superlink):
    client = approve(house, answer(invite(house, "ann", 14, now)), "bob", now)

    def slow(key):
        revoke(house, client.name, "ann", now)
        return superlink.register(key)

    settle(house, slow, superlink.unregister)
    assert superlink.nodes
    settle(house, superlink.register, superlink.unregister)
    assert not superlink.nodes


@pytest.mark.parametrize("content", ["{", "[7]", '[{"name": "x"}]', "7"])
def test_a_broken_list_is_said_and_never_taken_for_an_empty_one(content, house, now, answer):
    invited = invite(house, "ann", 1, now)
    house.clients.write_text(content)
    with pytest.raises(DataError, match="put it back from a backup"):
        approve(house, answer(invited), "bob", now)
    assert house.clients.read_text() == content
