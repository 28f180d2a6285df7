"""Confidence that is learned beside what it speaks of."""

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.losses.base import mean_per_image

SUREST = 1 - 1e-6
"""Confidence above which a pixel is not trusted more, so that C stays finite."""


def confident_mean(
    distance: Float[Tensor, "B P H W"],
    confidence: Float[Tensor, "B P H W"],
    weight: Float[Tensor, "B P H W"],
    sureness: float,
    attention: Float[Tensor, "B P H W"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of C distance - sureness log C (DUSt3R eq. 5), where C = 1 / (1 - confidence) is 1 or more.

    A network with C = 1 + exp(c) has confidence sigmoid(c). Attention multiplies the distance alone. The value is
    negative where the network is rightly sure.
    """
    doubt = 1 - confidence.clamp(max=SUREST)
    blamed = distance if attention is None else attention * distance
    return mean_per_image(blamed / doubt + sureness * torch.log(doubt), weight)
