"""Both sides of one run: whatever one of them says that the other does not, is found."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.audit.reading import read_evidence
from shared.audit.reconcile import reconcile_findings
from shared.privacy.chain import sign_head

CLIENTS = Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32)  # of the fixture ``written``
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([5]) * 32)


@pytest.fixture
def clean(written, tmp_path):
    return read_evidence(written(tmp_path / "run"))


def found(evidence):
    return {finding.check: finding for finding in reconcile_findings(evidence)}


def with_client(evidence, **changes):
    return replace(evidence, clients=(replace(evidence.clients[0], **changes),))


def with_payment(evidence, place, **changes):
    payments = list(evidence.clients[0].payments)
    payments[place] = replace(payments[place], **changes)
    return with_client(evidence, payments=tuple(payments))


def with_sum(evidence, place, **changes):
    sums = list(evidence.server.sums)
    sums[place] = replace(sums[place], **changes)
    return replace(evidence, server=replace(evidence.server, sums=tuple(sums)))


def with_receipt(evidence, place, receipt=None, clients=None, **changes):
    [(old, names)] = evidence.server.sums[place].receipts
    made = receipt or replace(old, **changes)
    return with_sum(evidence, place, receipts=((made, names if clients is None else clients),))


def test_both_sides_of_a_clean_run_agree(clean):
    assert {finding.outcome for finding in found(clean).values()} == {"pass"}


# --- receipts


def test_a_receipt_that_nobody_signed_is_found(clean):
    for changes in ({"signature": "00" * 64}, {"tip": "0" * 64}):
        finding = found(with_receipt(clean, 1, **changes))["receipts"]
        assert (finding.outcome, finding.values["why"], finding.values["round"]) == ("fail", "signature", 1)
        assert finding.places[0].lines == (clean.server.sums[1].line,)


def test_a_receipt_of_another_round_is_found(clean):
    finding = found(with_sum(clean, 1, receipts=clean.server.sums[0].receipts))["receipts"]
    assert finding.values["why"] == "round"


def test_a_signed_receipt_that_is_not_the_line_in_the_clients_ledger_is_found(clean):
    [(old, _)] = clean.server.sums[1].receipts
    forged = sign_head(CLIENTS, old.seq, "0" * 64, old.round)
    assert found(with_receipt(clean, 1, forged))["receipts"].values["why"] == "tip"


def test_a_ledger_shorter_than_its_own_receipt_was_cut(clean):
    log = clean.clients[0]
    cut = with_client(clean, lines=60, heads=tuple(head for head in log.heads if head.line <= 60))
    finding = found(cut)["tail-client"]
    gone = [seq for seq in (one.receipts[0][0].seq for one in clean.server.sums) if seq > 60]
    assert finding.outcome == "fail"
    assert finding.values == {"file": "clients.jsonl", "lines": 60, "line": gone[0], "count": len(gone)}


def test_a_broken_ledger_is_not_said_to_be_cut_besides(clean):
    log = clean.clients[0]
    heads = tuple(head for head in log.heads if head.line <= 60)
    made = found(with_client(clean, lines=60, heads=heads, broken="edited"))
    assert made["tail-client"].outcome == "pass"
    assert made["receipts"].outcome == "pass"


def test_a_client_keeps_its_key_and_its_ledger_grows(clean):
    [(old, _)] = clean.server.sums[2].receipts
    other = found(with_receipt(clean, 2, sign_head(OTHER, old.seq, old.tip, old.round)))
    assert other["receipts"].values["why"] == "key"
    assert other["client-ledgers"].outcome == "fail"
    back = found(with_receipt(clean, 2, sign_head(CLIENTS, 2, old.tip, old.round)))
    assert back["receipts"].values["why"] == "order"


def test_fewer_receipts_than_survivors_are_found(clean):
    assert found(with_receipt(clean, 1, clients=("1", "2")))["receipts"].values["why"] == "absent"
    assert found(with_sum(clean, 1, survivors=9))["receipts"].values["why"] == "absent"
    assert found(with_sum(clean, 1, receipts=()))["receipts"].values["why"] == "absent"


def test_a_receipt_of_a_client_that_was_not_asked_is_found(clean):
    names = tuple(str(number) for number in range(2, 12))
    assert found(with_receipt(clean, 1, clients=names))["receipts"].values["why"] == "stranger"


def test_without_any_receipt_nothing_ties_the_sides(clean):
    bare = clean
    for place in range(4):
        bare = with_sum(bare, place, receipts=())
    made = found(bare)
    assert [made[check].outcome for check in ("receipts", "tail-client", "results-paid")] == ["cannot tell"] * 3


def test_a_clients_ledger_that_is_missing_is_found_if_others_are_there(clean):
    other = replace(clean.clients[0], key="0" * 64, payments=(), results=(), pins=())
    finding = found(replace(clean, clients=(other,)))["client-ledgers"]
    assert (finding.outcome, finding.values["count"]) == ("fail", 1)
    assert finding.values["key"] == clean.clients[0].key
    nobody = found(replace(clean, clients=()))["client-ledgers"]
    assert (nobody.outcome, nobody.values) == ("cannot tell", {"count": 1})


def test_two_pasts_under_one_key_are_found(clean):
    other = replace(clean.clients[0], file="other.jsonl", payments=(), results=())
    finding = found(replace(clean, clients=(*clean.clients, other)))["key-shared"]
    assert [place.file for place in finding.places] == ["clients.jsonl", "other.jsonl"]


# --- payments, vectors


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"server": "0" * 64}, "unknown"),
        ({"round": 9}, "unknown"),
        ({"release": "profile"}, "unknown"),
        ({"attempt": 2}, "unknown"),
        ({"task": "0" * 64}, "task"),
        ({"client": "stranger"}, "cohort"),
        ({"rho": 0.001}, "price"),
        ({"rho": None}, "price"),
    ],
)
def test_a_payment_that_no_charge_explains_is_found(clean, changes, why):
    finding = found(with_payment(clean, 12, **changes))["payments-asked"]
    assert (finding.outcome, finding.values["why"], finding.values["count"]) == ("fail", why, 1)
    assert finding.places[0].lines == (clean.clients[0].payments[12].line,)


def test_a_payment_of_another_run_is_not_this_servers_business(clean):
    assert found(with_payment(clean, 12, run="another", server="0" * 64))["payments-asked"].outcome == "pass"


def test_what_a_broken_ledger_of_the_server_may_hold_is_not_held_against_a_client(clean):
    cut = replace(clean.server, charges=clean.server.charges[:2], broken="edited")
    assert found(replace(clean, server=cut))["payments-asked"].outcome == "pass"
    whole = replace(clean.server, charges=clean.server.charges[:2])
    assert found(replace(clean, server=whole))["payments-asked"].outcome == "fail"


def test_a_client_in_a_sum_without_a_vector_in_its_ledger_is_found(clean):
    results = clean.clients[0].results
    finding = found(with_client(clean, results=(*results[:14], *results[15:])))["results-paid"]
    assert finding.outcome == "fail"
    assert finding.values == {"client": results[14].client, "round": 1, "release": "update", "count": 1}


def test_a_vector_that_was_not_paid_for_before_is_found(clean):
    payments = clean.clients[0].payments
    finding = found(with_client(clean, payments=(*payments[:5], *payments[6:])))["result-unpaid"]
    assert (finding.outcome, finding.values["client"]) == ("fail", payments[5].client)
    late = with_payment(clean, 5, line=10_000)
    assert found(late)["result-unpaid"].outcome == "fail"


def test_one_vector_under_two_masks_is_found(clean):
    results = list(clean.clients[0].results)
    results[25] = replace(results[25], digest=results[15].digest)
    finding = found(with_client(clean, results=tuple(results)))["sealed-once"]
    assert finding.outcome == "fail"
    assert finding.values == {"client": results[25].client, "round": 2, "before": 1, "count": 1}


def test_vectors_without_noise_of_their_own_may_be_equal(clean):
    log = clean.clients[0]
    payments = tuple(replace(one, share_sigma=0.0) for one in log.payments)
    results = tuple(replace(one, digest="0" * 64) for one in log.results)
    assert "sealed-once" not in found(with_client(clean, payments=payments, results=results))


def test_payments_behind_the_last_head_cannot_be_told_from_a_cut(clean):
    log = clean.clients[0]
    cut = with_client(clean, heads=log.heads[:-1])
    finding = found(cut)["tail-client-unsigned"]
    assert (finding.outcome, finding.values) == ("cannot tell", {"file": "clients.jsonl", "count": 1})
