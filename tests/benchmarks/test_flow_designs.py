"""The tables of Flow3r's ablation: which runs their rows are made from, and what rows share."""

import pytest

from benchmarks.flow_designs import COLUMNS, rows, stages
from benchmarks.table import of_seeds
from unproject.recipes.flow_designs import DESIGNS


@pytest.mark.parametrize(("table", "firsts", "heads"), [("designs", 2, 4), ("amount", 4, 2)])
def test_rows_share_stages_and_a_folder_has_one_recipe(table, firsts, heads):
    found = {}
    for row in rows(table).values():
        for seed in range(2):
            run = stages(row, seed, "dis", "pi3", 8)
            assert [place.split("-")[0] for place in run][:: len(run) - 1] == ["geometry", "all"]
            for place, recipe in run.items():
                assert found.setdefault(place, recipe) == recipe, place
    kinds = [place.split("-")[0] for place in found]
    assert [kinds.count(kind) for kind in ("geometry", "head", "all")] == [firsts, heads, 2 * len(rows(table))]
    assert len(set(found.values())) == len(found)


def test_table_1_has_every_design_and_a_column_nobody_measured_is_empty():
    assert list(rows("designs")) == list(DESIGNS)
    said = of_seeds("none", [{"rta30": 0.2}, {"rta30": 0.4}], COLUMNS)
    assert "| - | 0.300 ± 0.141 | - |" in said
