from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from planar_world import about, clip

from unproject.teachers.base import Shot, Teacher
from unproject.teachers.flow import DisTeacher
from unproject.teachers.matches import SiftTeacher
from unproject.teachers.tracks import KltTeacher
from unproject.types import Labels

TEACHERS = [KltTeacher(target=200), DisTeacher(), SiftTeacher()]


@pytest.fixture(scope="module")
def images():
    frames = clip([about((80, 60), shift=(2.0 * n, 0)) for n in range(3)], 120, 160)
    return [np.repeat(frame[..., None], 3, axis=2) for frame in frames]


def test_a_teacher_must_say_how_it_labels():
    with pytest.raises(TypeError, match="label"):
        Teacher()


@pytest.mark.parametrize("teacher", TEACHERS, ids=lambda teacher: type(teacher).__name__)
def test_every_teacher_labels_with_weights_twice_the_same_and_is_frozen(teacher, images):
    one, two = teacher.label(Shot.of(images)), teacher.label(Shot.of(images))
    given = [name for name in Labels.__dataclass_fields__ if getattr(one, name) is not None]
    assert len(given) == 1
    label, again = getattr(one, given[0]), getattr(two, given[0])
    assert label.weight.min() >= 0
    assert label.weight.max() <= 1
    assert label.weight.mean() > 0.3
    for name in label.__dataclass_fields__:
        assert (getattr(label, name) == getattr(again, name)).all()
    with pytest.raises(FrozenInstanceError):
        teacher.anything = 1
