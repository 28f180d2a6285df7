"""Labels from a teacher of flow: near the truth where it is sure, for the pairs that are asked for."""

from dataclasses import dataclass, fields

import numpy as np
import torch

from unproject.data.base import Chosen, Framing
from unproject.data.clips import SyntheticClips
from unproject.recipes.taught import TaughtFlow
from unproject.teachers.base import Shot, Teacher
from unproject.teachers.flow import DisTeacher
from unproject.types import Known, Labels

FRAMING = Framing(views=3, pairs=((0, 1), (2, 0), (1, 2), (2, 1)), height=70, width=98)


def test_dis_tells_the_flow_of_every_pair():
    data = SyntheticClips(span_s=(0.2, 0.3), augmentation=None, moving=False)
    taught, exact = TaughtFlow(dataset=data, teacher=DisTeacher())([0, 3], FRAMING), data([0, 3], FRAMING)
    assert torch.equal(taught.views.images, exact.views.images) and taught.views.intrinsics is None
    assert taught.names == exact.names
    flow, truth = taught.labels.flow, exact.labels.flow
    assert flow.value.shape == truth.value.shape and flow.weight.shape == truth.weight.shape
    for pair in range(4):
        sure = (flow.weight[:, pair] > 0.5) & (truth.weight[:, pair] > 0.5)
        miss = (flow.value - truth.value)[:, pair].norm(dim=-1)[sure]
        still = truth.value[:, pair].norm(dim=-1)[sure]
        assert sure.float().mean() > 0.5 and miss.median() < still.median() / 4
    known = {f.name for f in fields(taught.labels) if getattr(taught.labels, f.name) is not None}
    assert known == {"flow"}


@dataclass(frozen=True)
class Brightness(Teacher):
    """Says how bright the first image is, and the second: which pair it was shown, and in which form."""

    def label(self, shot: Shot) -> Labels:
        first, second = shot.images
        assert first.dtype == np.uint8 and first.shape == (70, 98, 3)
        flow = torch.tensor([first.mean(), second.mean()], dtype=torch.float32).expand(1, 1, 70, 98, 2)
        return Labels(flow=Known(flow, torch.ones(1, 1, 70, 98)))


def test_any_teacher_is_shown_each_pair_of_images_in_order():
    data = Chosen(dataset=SyntheticClips(augmentation=None), numbers=(1, 2))
    taught = TaughtFlow(dataset=data, teacher=Brightness())
    assert taught.count == 2 and TaughtFlow(dataset=SyntheticClips(), teacher=Brightness()).count is None
    sample = taught([1, 0], FRAMING)
    bright = 255 * sample.views.images.mean((2, 3, 4))
    for pair, (source, target) in enumerate(FRAMING.pairs):
        said = sample.labels.flow.value[:, pair, 0, 0]
        assert torch.allclose(said, torch.stack([bright[:, source], bright[:, target]], dim=1), atol=0.5)


@dataclass(frozen=True)
class Columns(Teacher):
    """Says each pixel's column, and trusts all but the last one."""

    def label(self, shot: Shot) -> Labels:
        height, width, _ = shot.images[0].shape
        columns = torch.arange(width, dtype=torch.float32) + 0.5
        flow = torch.stack([columns.expand(height, width), torch.ones(height, width)], dim=-1)
        weight = (columns < width - 1).float().expand(height, width)
        return Labels(flow=Known(flow[None, None], weight[None, None]))


def test_what_a_teacher_says_of_larger_images_is_told_for_the_small_ones():
    data = SyntheticClips(augmentation=None)
    taught = TaughtFlow(dataset=data, teacher=Columns(), times=3)([0], FRAMING)
    assert torch.equal(taught.views.images, data([0], FRAMING).views.images)
    flow = taught.labels.flow
    assert torch.allclose(flow.value[0, 0, 5, :, 0], torch.arange(98) + 0.5)  # columns of the small image
    assert torch.allclose(flow.value[..., 1], torch.tensor(1 / 3))
    assert torch.equal(flow.weight[0, 2, 5], (torch.arange(98) < 97).float())


def test_dis_is_right_more_often_about_what_it_sees_larger():
    data = SyntheticClips(span_s=(0.8, 2.6), augmentation=None)
    small = Framing(views=2, pairs=((0, 1), (1, 0)), height=40, width=50)
    truth = data(range(8), small).labels.flow
    wrong = []
    for times in (1, 3):
        said = TaughtFlow(dataset=data, teacher=DisTeacher(), times=times)(range(8), small).labels.flow
        both = (said.weight > 0.5) & (truth.weight > 0.5)
        assert both.float().mean() > 0.1
        wrong.append(((said.value - truth.value).norm(dim=-1)[both] > 2.5).float().mean().item())
    assert wrong[1] < 0.6 * wrong[0], wrong
