"""Flow by matching: it follows features that move, and sees the target, which factored flow does not."""

import torch

from unproject.nn.tracking_head import TrackingHead


def head(**kwargs) -> TrackingHead:
    made = TrackingHead(32, 16, 14)
    # Only what matching says: the dense part corrects it, and starts from anything.
    for parameter in made.leave.parameters():
        torch.nn.init.zeros_(parameter)
    return made


@torch.no_grad()
def test_features_that_move_by_a_patch_move_by_its_pixels():
    made = head()
    made.matching.sharpness.fill_(16.0)
    target = torch.randn(2, 4, 6, 32)
    source = target.roll((1, -2), dims=(1, 2))
    flow = made(source.flatten(1, 2), target.flatten(1, 2), 4)
    assert flow.shape == (2, 2, 56, 84)
    # Away from the seam of the roll, and from where interpolation reaches it.
    inner = flow[:, :, 14 + 7 : -7, 7 : -(28 + 7)]
    assert (inner - torch.tensor([28.0, -14.0]).view(1, 2, 1, 1)).abs().max() < 0.1


@torch.no_grad()
def test_the_same_features_stand_still():
    made = head()
    made.matching.sharpness.fill_(16.0)
    tokens = torch.randn(1, 12, 32)
    assert made(tokens, tokens, 3).abs().max() < 0.1


def test_gradients_reach_both_views_and_every_weight():
    made = TrackingHead(32, 16, 14)
    source, target = torch.randn(1, 12, 32, requires_grad=True), torch.randn(1, 12, 32, requires_grad=True)
    made(source, target, 3).square().mean().backward()
    assert source.grad.abs().sum() > 0 and target.grad.abs().sum() > 0
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in made.parameters())


@torch.no_grad()
def test_it_asks_where_in_the_target_things_are():
    """The patches of the target in another order are another picture, and another flow."""
    made = TrackingHead(32, 16, 14)
    source, target = torch.randn(1, 12, 32), torch.randn(1, 12, 32)
    said, shuffled = made(source, target, 3), made(source, target[:, torch.randperm(12)], 3)
    assert not torch.allclose(said, shuffled, rtol=1e-2)
