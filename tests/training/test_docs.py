"""The examples of the documents run as they stand there."""

import re
from pathlib import Path

from unproject.recipes import FROM_LABELS, RECIPES
from unproject.training import loop
from unproject.training.door import check_numbers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = loop.train
    monkeypatch.setattr(loop, "train", lambda *given, **named: train(*given, **named, steps=1, workers=0))
    names = {"__name__": "example"}
    exec(compile(examples()[0], str(PAGE), "exec"), names)
    assert names["result"].step == 1 and (tmp_path / "runs" / "rooms" / "weights.safetensors").is_file()


def test_the_stages_of_flow3r_are_recipes():
    names: dict = {"__name__": "example"}
    exec(compile(examples()[1], str(PAGE), "exec"), names)
    for recipe in (names["first"], names["second"]):
        check_numbers(recipe)
    assert names["first"].trained == ("flow_head",) and len(names["second"].sources) == 2


def test_the_runs_of_reliev3r_are_recipes():
    names: dict = {"__name__": "example"}
    for example in examples()[2:4]:
        exec(compile(example, str(PAGE), "exec"), names)
    for recipe in (names["alone"], names["first"], names["second"], names["recipe"]):
        check_numbers(recipe)
    assert names["recipe"].sources[0].dataset.dataset is names["photos"]


def test_all_recipes_of_the_command_line_are_named():
    said = PAGE.read_text().partition("## From the command line")[2].partition("`--dry-run`")[0]
    assert {name for name in (*RECIPES, *FROM_LABELS) if f"`{name}`" not in said} == set()
