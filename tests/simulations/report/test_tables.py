"""Rows of the report: each says what it was measured on."""

from __future__ import annotations

from simulations.report import tables
from simulations.report.folder import read_run


def test_the_header_gives_the_result_beside_the_floor_and_the_ceiling(run_folder):
    folder = run_folder(changed={"test": {"recall@20": 0.3294, "coverage@20": 0.4121}})
    assert tables.result(read_run(folder)) == (
        "On test items, recall@20 is 0.329 (popularity 0.184; EASE, the ceiling without privacy, 0.406)"
        " and coverage@20 is 0.412 (popularity 0.068; EASE 0.322)."
    )


def test_quality_rows_name_the_split_and_what_is_exact_only_in_a_simulation(run_folder):
    columns, rows = tables.quality(read_run(run_folder()))
    assert columns[:2] == ("recall@20", "ndcg@10")
    assert [(row.name, row.measured_on, row.mine) for row in rows[:2]] == [
        ("This run", "test", True),
        ("This run", "valid", True),
    ]
    assert all(row.note == "oracle, simulation only" for row in rows if row.mine)
    notes = {row.name: row.note for row in rows}
    assert notes["EASE"] == "the ceiling, without privacy"
    assert notes["DP-EASE"] == "private, ε = 8.00"
    tfidf = next(row for row in rows if row.name == "TF-IDF")
    assert tfidf.cells[columns.index("head_share@20")] == "—"


def test_costs_are_summed_over_the_rounds(run_folder):
    folder = run_folder(
        rounds=3,
        each=lambda r: r | {"bytes": {"up": 1_000_000 * r["round"], "down": 5}, "seconds": 30.0},
    )
    costs = {cost.name: (cost.total, cost.typical) for cost in tables.costs(read_run(folder))}
    assert costs["Bytes from clients"] == ("6.0 MB", "2.0 MB")
    assert costs["Bytes to clients"] == ("15 B", "5 B")
    assert costs["Time"] == ("1 min 30 s", "30 s")


def test_recommendations_of_one_person_share_their_bars_scale(run_folder):
    run = read_run(run_folder())
    names = tables.part_names(run)
    assert names == ("text", "popularity", "exposure")
    found = tables.recommendations(run.examples[0], names)
    assert [one.held_out for one in found] == [True, False, False]
    assert found[2].parts == "text +0.61, popularity +0.31, exposure -0.12"
    lines = {one.svg.split('class="zero" d="')[1].split(" ")[0] for one in found}
    assert len(lines) == 1  # the zero of every bar is in one place
