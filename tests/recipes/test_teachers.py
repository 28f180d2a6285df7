"""Teachers by name: what can be had, and what is said of names that cannot."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from unproject.errors import UsageError
from unproject.recipes.refine import RefineTeacher
from unproject.recipes.teachers import LEARNED, OURS, teachers_named
from unproject.teachers.base import licences
from unproject.teachers.depth import MogeTeacher
from unproject.teachers.flow import DisTeacher
from unproject.teachers.tracks import KltTeacher

DOCS = Path(__file__).parents[2] / "docs" / "teachers.md"


def test_names_become_teachers_in_their_order():
    assert teachers_named("tracks, flow,refine") == (KltTeacher(), DisTeacher(), RefineTeacher())
    given = teachers_named("depth:moge2=weights/model.pt,flow", device="cpu")
    assert given == (MogeTeacher(device="cpu", weights=Path("weights/model.pt")), DisTeacher())


@pytest.mark.parametrize("name", [*OURS, *LEARNED])
def test_every_name_is_made_without_its_network_pickled_and_says_its_licence(name):
    (teacher,) = teachers_named(name)
    assert pickle.loads(pickle.dumps(teacher)) == teacher and hash(teacher) == hash(teacher)
    (line,) = licences([teacher])
    assert line == f"{type(teacher).__name__}: licence {teacher.licence}"
    text = DOCS.read_text()
    assert f"`{name}`" in text
    if name in LEARNED:
        assert teacher.package.install in text and teacher.package.weights_from in text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", "no teacher is named; choose from flow, tracks, matches, refine, flow:ufm"),
        (" , ", "no teacher is named"),
        ("flow,flow:ufm", "two teachers of flow"),
        ("tracks,tracks", "two teachers of tracks"),
        ("sift", "no teacher is called 'sift'; choose from flow"),
        ("depth:midas", "no teacher is called 'depth:midas'"),
        ("depth", "needs a network of others: choose one of depth:depth-pro, depth:moge2, depth:da3"),
        ("flow=a.pt", "flow has no weights"),
        ("matches:lightglue=a.pt", "leave out the path"),
    ],
)
def test_a_name_that_cannot_be_honoured_is_a_usage_error(names, message):
    with pytest.raises(UsageError, match=message):
        teachers_named(names)


def test_a_device_that_is_not_here_is_refused_when_the_teacher_is_made():
    with pytest.raises(UsageError, match="--device gpu is not known"):
        teachers_named("depth:moge2", device="gpu")


def test_the_example_of_the_documents_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    noise = np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), dtype=np.uint8)
    names = {"__name__": "example", "images": list(noise)}
    exec(compile(example, str(DOCS), "exec"), names)
    assert names["labels"].flow.value.shape == (1, 2, 48, 64, 2)
    assert "RefineTeacher: licence Apache-2.0" in capsys.readouterr().out
