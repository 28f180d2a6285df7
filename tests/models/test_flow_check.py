"""Which convention a flow head speaks: told by the network itself, for each and for a head that knows nothing."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from spoken_flow import PAIRS, speaking

from unproject.errors import InputError
from unproject.models import build, checkpoints, flow_check
from unproject.models.build import from_config
from unproject.models.flow3r import Flow3r, FlowConvention, pixel_flow, released_flow

CONVENTIONS = get_args(FlowConvention)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_convention_and_its_inverse(convention):
    pixels = torch.randn(2, 6, 9, 2) * 4
    torch.testing.assert_close(pixel_flow(released_flow(pixels, convention), convention), pixels, atol=1e-5, rtol=1e-5)


def test_conventions_are_what_they_are_called():
    """A pixel that goes three to the right and one down, from column 2 and row 1 of 9x6."""
    flow = torch.tensor([3.0, 1.0]).expand(6, 9, 2)
    said = {name: released_flow(flow, name)[1, 2].tolist() for name in CONVENTIONS}
    assert said["pixels"] == [3, 1]
    assert said["grid_sample"] == pytest.approx([2 * 5 / 8 - 1, 2 * 2 / 5 - 1], abs=1e-6)
    assert said["pytorch3d"] == pytest.approx([1 - 2 * 5 / 8, 1 - 2 * 2 / 5], abs=1e-6)


def test_the_other_picture_is_moved_by_whole_patches():
    first, other = flow_check.pictures(14)[0]
    down, right = (14 * steps for steps in flow_check.MOVED)
    assert torch.equal(first[:, down:, right:], other[:, :-down, :-right])
    assert first.std() > 0.1


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_spoken_convention_is_found_and_no_other_fits(convention):
    model = speaking(convention)
    fits = {reading.convention: reading.fits for reading in flow_check.readings(model)}
    assert fits == {name: name == convention for name in CONVENTIONS}
    flow_check.settle(model)
    assert model.config.flow_convention == convention
    # What it was made with is no news.
    assert len(model.notes) == (convention != "pytorch3d")
    said = model.raw(flow_check.pictures(14), PAIRS).flow[0]
    assert pixel_flow(said, model.config.flow_convention)[0].norm(dim=-1).median() < 0.01 * said.shape[2]


def test_a_wrong_declaration_is_put_right_with_a_note():
    model = speaking("pytorch3d")
    model.config = replace(model.config, flow_convention="grid_sample")
    flow_check.settle(model)
    assert model.config.flow_convention == "pytorch3d"
    (note,) = model.notes
    assert note.startswith("flow is read as 'pytorch3d'") and "as 'grid_sample'" in note and "\n" not in note


def test_a_head_that_knows_nothing_fits_nothing():
    """Next to nothing said of a picture to itself is what a good head of displacements says, too."""
    model = build("flow3r", "tiny")
    assert isinstance(model, Flow3r)
    readings = {reading.convention: reading for reading in flow_check.readings(model)}
    assert readings["pixels"].still < flow_check.STILL_ENOUGH and not any(r.fits for r in readings.values())
    flow_check.settle(model)
    assert model.config.flow_convention == "pytorch3d" and model.training
    (note,) = model.notes
    assert "fits no known convention" in note and all(f"'{name}'" in note for name in CONVENTIONS)


def test_without_a_flow_head_there_is_nothing_to_ask():
    model = build("pi3", "tiny")
    assert isinstance(model, Flow3r)
    flow_check.settle(model)
    assert not model.notes
    with pytest.raises(ValueError, match="no flow head"):
        flow_check.readings(model)


def test_a_released_file_is_asked_and_ours_remembers(tmp_path):
    torch.save(speaking("grid_sample").state_dict(), tmp_path / "flow3r.bin")
    model = checkpoints.load(tmp_path / "flow3r.bin")
    assert model.config.flow_convention == "grid_sample" and len(model.notes) == 1
    checkpoints.save(model, tmp_path / "ours.safetensors")
    again = checkpoints.load(tmp_path / "ours.safetensors")
    assert again.config == model.config and again.notes == model.notes
    # A network that starts from it must be made to read the head as it speaks.
    for file in ("flow3r.bin", "ours.safetensors"):
        with pytest.raises(InputError, match="speaks 'grid_sample', this network 'pytorch3d'; make it with"):
            checkpoints.start_from(build("flow3r", "tiny"), tmp_path / file)
        checkpoints.start_from(from_config(model.config), tmp_path / file)
    checkpoints.start_from(build("pi3", "tiny"), tmp_path / "ours.safetensors")
