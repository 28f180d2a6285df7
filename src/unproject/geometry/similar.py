"""Similarities x -> scale rotation x + translation: what two reconstructions of one scene differ by."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.geometry.align import similarity, weighted_median
from unproject.geometry.rigid import from_rt, so3_exp, so3_log


@dataclass(frozen=True)
class Similarity:
    """``a_from_b``, where frames a and b may differ in unit."""

    scale: Float[Tensor, "*batch"]
    rotation: Float[Tensor, "*batch 3 3"]
    translation: Float[Tensor, "*batch 3"]

    @staticmethod
    def identity(dtype: torch.dtype = torch.float64) -> "Similarity":
        """Changes nothing."""
        return Similarity(torch.ones((), dtype=dtype), torch.eye(3, dtype=dtype), torch.zeros(3, dtype=dtype))

    @staticmethod
    def exp(step: Float[Tensor, "*batch 7"]) -> "Similarity":
        """From rotation vector, translation and logarithm of scale, each by itself: not the group's exponential."""
        return Similarity(step[..., 6].exp(), so3_exp(step[..., :3]), step[..., 3:6])

    def log(self) -> Float[Tensor, "*batch 7"]:
        """Inverse of `exp`."""
        return torch.cat([so3_log(self.rotation), self.translation, self.scale.log()[..., None]], dim=-1)

    def __matmul__(self, other: "Similarity") -> "Similarity":
        """``a_from_c`` of ``a_from_b`` and ``b_from_c``."""
        return Similarity(
            self.scale * other.scale,
            self.rotation @ other.rotation,
            self.points(other.translation[..., None, :])[..., 0, :],
        )

    def inverse(self) -> "Similarity":
        """``b_from_a``."""
        rotation, scale = self.rotation.mT, 1 / self.scale
        return Similarity(scale, rotation, -scale[..., None] * (rotation @ self.translation[..., None])[..., 0])

    def points(self, points: Float[Tensor, "*batch P 3"]) -> Float[Tensor, "*batch P 3"]:
        """Points of frame b in frame a."""
        return self.scale[..., None, None] * (points @ self.rotation.mT) + self.translation[..., None, :]

    def poses(self, b_from_cam: Float[Tensor, "*batch N 4 4"]) -> Float[Tensor, "*batch N 4 4"]:
        """``a_from_cam``: rigid, since the scale goes to the centre of the camera (and to its depths) alone."""
        rotation = self.rotation[..., None, :, :] @ b_from_cam[..., :3, :3]
        return from_rt(rotation, self.points(b_from_cam[..., :3, 3]))


def robust_similarity(
    x: Float[Tensor, "P 3"],
    y: Float[Tensor, "P 3"],
    weight: Float[Tensor, " P"],
    error: Float[Tensor, " P"],
    rounds: int = 12,
) -> tuple[Similarity, Float[Tensor, ""]]:
    """The similarity ``y_from_x``, and the usual miss in units of ``error``.

    A point of weight w counts as w / (error^2 (1 + (miss / usual miss)^2)), where its miss is in units of its own
    ``error`` (as its distance from a camera) and the usual one is the weighted median of the round before: outliers up
    to half the weight do little. Starts from the fit to the points that agree best on scale.
    """
    trust = weight / error.square()
    kept = trust * _of_common_scale(x, y, trust)
    found, usual = Similarity(*similarity(x, y, kept)), weight.new_tensor(torch.inf)
    for _ in range(rounds):
        miss = (y - found.points(x)).norm(dim=-1) / error
        usual = weighted_median(miss, weight)
        reach = 1.5 * usual.clamp(min=1e-9)
        found = Similarity(*similarity(x, y, trust / (1 + (miss / reach).square()).square()))
    return found, usual


def _of_common_scale(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """1 for the half of the points whose distance from the middle grew by what is usual, else 0."""
    middle_x, middle_y = (
        torch.stack([weighted_median(axis, weight) for axis in points.unbind(-1)]) for points in (x, y)
    )
    away_x, away_y = (x - middle_x).norm(dim=-1), (y - middle_y).norm(dim=-1)
    tiny = torch.finfo(x.dtype).tiny
    growth = (away_y.clamp(min=tiny) / away_x.clamp(min=tiny)).log()
    off = (growth - weighted_median(growth, weight)).abs()
    return (off <= weighted_median(off, weight)).to(weight)
