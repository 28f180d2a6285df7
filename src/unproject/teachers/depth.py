"""Depth of single views by networks of others. Without weights there is none to be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from unproject.teachers.base import Shot
from unproject.teachers.learned import AT_ONCE, LearnedTeacher, Package, pictures, plain, spread
from unproject.types import Known, Labels

LOWEST, HIGHEST = 0.005, 0.995
"""Quantiles of a map that its depth is kept within (Reliev3R; sky may be said to lie 10 km away)."""
FARTHEST = 100.0
"""Medians of a map beyond which nothing is said to lie."""


@final
@dataclass(frozen=True, kw_only=True)
class DepthProTeacher(LearnedTeacher):
    """Depth Pro (Bochkovskii et al. 2024), the depth teacher of Reliev3R's paper: sharp, every view by itself."""

    licence: ClassVar[str] = "Apple's own, of code and weights: read it (the hub's copy of the weights: research only)"
    package: ClassVar[Package] = Package(
        name="depth_pro",
        install="pip install git+https://github.com/apple/ml-depth-pro",
        weights_from="https://ml-site.cdn-apple.com/models/depth-pro/depth_pro.pt",
    )

    def load(self) -> nn.Module:
        """Without a path the package looks for checkpoints/depth_pro.pt."""
        module = import_module("depth_pro.depth_pro")
        config = module.DEFAULT_MONODEPTH_CONFIG_DICT
        if self.weights is not None:
            config = replace(config, checkpoint_uri=str(self.weights))
        return module.create_model_and_transforms(config=config, device=self.place)[0]

    def label(self, shot: Shot) -> Labels:
        """`Labels.mono_depth`. No focal length is told: it would multiply a view's depth and nothing else."""
        network = self.network()
        with torch.no_grad():
            # In [-1, 1], as the package's own transform makes it.
            said = [network.infer(2 * image - 1, f_px=None)["depth"] for image in pictures(shot, self.place)]
        depth = torch.stack([plain(each) for each in said])
        return Labels(mono_depth=known_depth(depth, torch.ones_like(depth)))


@final
@dataclass(frozen=True, kw_only=True)
class MogeTeacher(LearnedTeacher):
    """MoGe-2 (Wang et al. 2025): depth with a mask, and a field of view for all views of one camera."""

    licence: ClassVar[str] = "MIT (parts of the code Apache-2.0); of the weights their card says it"
    package: ClassVar[Package] = Package(
        name="moge",
        install="pip install git+https://github.com/microsoft/MoGe",
        weights_from="model.pt of https://huggingface.co/Ruicheng/moge-2-vits-normal",
    )

    def load(self) -> nn.Module:
        """Without a path the package fetches its smallest weights from the hub."""
        model = import_module("moge.model.v2").MoGeModel
        return model.from_pretrained(str(self.weights or "Ruicheng/moge-2-vits-normal"))

    def label(self, shot: Shot) -> Labels:
        """`Labels.mono_depth` and `Labels.intrinsics`.

        One camera took all views: its field of view is the median of what the network says of the first, the middle and
        the last, and depth is asked of every view under that one, so that both agree (Reliev3R's supplement).
        """
        network, images = self.network(), torch.stack(pictures(shot, self.place))
        with torch.no_grad():
            guesses = plain(network.infer(images[spread(len(images))], use_fp16=False)["intrinsics"])
            across = float(np.median(2 * np.rad2deg(np.arctan(0.5 / guesses[:, 0, 0].numpy()))))
            said = [network.infer(some, fov_x=across, use_fp16=False) for some in images.split(AT_ONCE)]
        depth, mask, normalised = (
            torch.cat([plain(each[name]) for each in said]) for name in ("depth", "mask", "intrinsics")
        )
        height, width = depth.shape[1:]
        intrinsics = torch.tensor([width, height, 1.0])[:, None] * normalised
        ones = torch.ones(1, len(images))
        return Labels(mono_depth=known_depth(depth, mask), intrinsics=Known(intrinsics[None], ones))


@final
@dataclass(frozen=True, kw_only=True)
class DepthAnythingTeacher(LearnedTeacher):
    """Depth Anything 3, the small any-view network (Lin et al. 2025): depth of all views together, with confidence."""

    licence: ClassVar[str] = "Apache-2.0, of code and weights (LARGE and GIANT: CC BY-NC 4.0)"
    package: ClassVar[Package] = Package(
        name="depth_anything_3",
        install="pip install git+https://github.com/ByteDance-Seed/Depth-Anything-3",
        weights_from="a folder as that of https://huggingface.co/depth-anything/DA3-SMALL",
    )

    def load(self) -> nn.Module:
        """Without a path the package fetches the weights from the hub."""
        model = import_module("depth_anything_3.api").DepthAnything3
        return model.from_pretrained(str(self.weights or "depth-anything/DA3-SMALL"))

    def label(self, shot: Shot) -> Labels:
        """`Labels.mono_depth`, resized from the network's size: log-depth is what is linear between pixels."""
        images = [shot.images[view] for view in shot.views]
        with torch.no_grad():
            said = self.network().inference(images)
        depth = plain(said.depth)
        usable = (depth.isfinite() & (depth > 0)).float()
        log_depth = torch.where(usable > 0, depth, 1.0).log()
        # The network says 1 + e^x: this is the sigmoid of x.
        trust = usable * (1 - 1 / plain(said.conf).clamp(min=1))
        size = images[0].shape[:2]
        whole = _resized(usable, size) > 0.999
        return Labels(mono_depth=known_depth(_resized(log_depth, size).exp(), whole * _resized(trust, size)))


def known_depth(depth: Float[Tensor, "N H W"], trust: Float[Tensor, "N H W"]) -> Known:
    """Depth of one clip, finite and clipped, and its weight in [0, 1]: 0 where it is not finite or not positive."""
    usable = depth.isfinite() & (depth > 0) & trust.isfinite()
    weight = torch.where(usable, trust.clamp(0, 1), 0.0)
    return Known(torch.stack([_clipped(*view) for view in zip(depth, weight, strict=True)])[None], weight[None])


def _clipped(depth: Float[Tensor, "H W"], weight: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    known = depth[weight > 0]
    if not len(known):
        return torch.ones_like(depth)
    middle = known.median()
    low, high = known.quantile(torch.tensor([LOWEST, HIGHEST]))
    return torch.where(weight > 0, depth, middle).clamp(low, torch.minimum(high, FARTHEST * middle))


def _resized(maps: Float[Tensor, "N h w"], size: Sequence[int]) -> Float[Tensor, "N H W"]:
    """Bilinear, corner to corner."""
    return interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
