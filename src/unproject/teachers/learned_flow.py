"""Dense flow by networks of others: for pairs too far apart for `flow.DisTeacher`."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, final

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from unproject.teachers.base import Shot
from unproject.teachers.flow import covisibility
from unproject.teachers.learned import AT_ONCE, LearnedTeacher, Package, plain
from unproject.types import Known, Labels


@final
@dataclass(frozen=True, kw_only=True)
class UfmTeacher(LearnedTeacher):
    """UFM (Zhang et al. 2025), the flow teacher of Flow3r's paper: flow and covisibility of any two views."""

    licence: ClassVar[str] = "code BSD-3-Clause, weights CC BY-NC-SA 4.0: not for commercial use"
    package: ClassVar[Package] = Package(
        name="uniflowmatch",
        install="git clone --recursive https://github.com/UniFlowMatch/UFM && pip install ./UFM/UniCeption ./UFM",
        weights_from="a folder as that of https://huggingface.co/infinity1096/UFM-Base",
    )

    def load(self) -> nn.Module:
        """Without a path the package fetches the weights from the hub."""
        model = import_module("uniflowmatch.models.ufm").UniFlowMatchConfidence
        return model.from_pretrained(str(self.weights or "infinity1096/UFM-Base"))

    def label(self, shot: Shot) -> Labels:
        """`Labels.flow`; what is not finite weighs nothing."""
        network, images = self.network(), _views(shot, self.place)
        size = images.shape[1:3]
        flows, seen = [torch.zeros(0, *size, 2)], [torch.zeros(0, *size)]
        for pairs in _some(shot.pairs):
            source, target = (images[pairs[:, side]] for side in (0, 1))
            with torch.no_grad():
                said = network.predict_correspondences_batched(source_image=source, target_image=target)
            flows.append(rearrange(plain(said.flow.flow_output), "p c h w -> p h w c"))
            seen.append(plain(said.covisibility.mask))
        return Labels(flow=_known_flow(torch.cat(flows), torch.cat(seen)))


@final
@dataclass(frozen=True, kw_only=True)
class RaftTeacher(LearnedTeacher):
    """RAFT (Teed and Deng 2020) as torchvision has it, both ways: trusted where it comes back to where it started.

    torchvision is no dependency of this package, since it fits one build of torch only.
    """

    licence: ClassVar[str] = "BSD-3-Clause, of code and weights"
    package: ClassVar[Package] = Package(
        name="torchvision",
        install="pip install torchvision",
        weights_from="Raft_Large_Weights.C_T_SKHT_V2 of torchvision, from https://download.pytorch.org/models",
    )

    def load(self) -> nn.Module:
        """Without a path torchvision fetches the weights."""
        raft_large = import_module("torchvision.models.optical_flow").raft_large
        if self.weights is None:
            return raft_large(weights="C_T_SKHT_V2", progress=False)
        network = raft_large(weights=None)
        network.load_state_dict(torch.load(self.weights, map_location="cpu", weights_only=True))
        return network

    def label(self, shot: Shot) -> Labels:
        """`Labels.flow`, weighed as `flow.DisTeacher` weighs its own."""
        network = self.network()
        images = rearrange(_views(shot, self.place), "n h w c -> n c h w").float() / 127.5 - 1
        wanted = list(dict.fromkeys([*shot.pairs, *(pair[::-1] for pair in shot.pairs)]))
        flows = dict(zip(wanted, _flows(network, images, wanted), strict=True))
        forward = np.zeros((len(shot.pairs), *shot.images[0].shape[:2], 2), np.float32)
        seen = np.zeros(forward.shape[:-1], np.float32)
        for number, pair in enumerate(shot.pairs):
            forward[number], seen[number] = flows[pair], covisibility(flows[pair], flows[pair[::-1]])
        return Labels(flow=_known_flow(torch.from_numpy(forward), torch.from_numpy(seen)))


def _some(pairs: Sequence[tuple[int, int]]) -> tuple[Int[Tensor, "P 2"], ...]:
    """`AT_ONCE` pairs at a time; nothing where there are none."""
    return torch.tensor(pairs).split(AT_ONCE) if pairs else ()


def _flows(network: Any, images: Float[Tensor, "N 3 H W"], pairs: list[tuple[int, int]]) -> list[np.ndarray]:
    """Float32 [H, W, 2] of each pair; images are padded at right and bottom, so that no pixel moves."""
    height, width = images.shape[-2:]
    # Sides in eighths, and not so short that its pyramid ends.
    more = [max(128, -(-side // 8) * 8) - side for side in (width, height)]
    images = pad(images, (0, more[0], 0, more[1]), mode="replicate")
    found: list[np.ndarray] = []
    for some in _some(pairs):
        with torch.no_grad():
            last = plain(network(images[some[:, 0]], images[some[:, 1]])[-1])
        found += list(rearrange(last[..., :height, :width], "p c h w -> p h w c").numpy())
    return found


def _views(shot: Shot, place: torch.device) -> Tensor:
    """Uint8 [N, H, W, 3]."""
    return torch.from_numpy(np.stack([shot.images[view] for view in shot.views])).to(place)


def _known_flow(flow: Float[Tensor, "P H W 2"], seen: Float[Tensor, "P H W"]) -> Known:
    usable = flow.isfinite().all(-1) & seen.isfinite()
    value = torch.where(usable[..., None], flow, 0.0)
    return Known(value[None], torch.where(usable, seen.clamp(0, 1), 0.0)[None])
