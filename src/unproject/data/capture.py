"""What a real camera adds to a rendering: exposure time, sensor noise and JPEG, in torch on any device."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from unproject.data.paths import CameraPath
from unproject.data.render import trace
from unproject.data.scene import World

LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation of ITU-T T.81, annex K, tables K.1 and (below) K.2."""
CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """A camera's flaws. The defaults are those of a phone indoors."""

    exposure_s: float = 0.012
    samples: int = 6
    """Instants averaged over the exposure, each at its own offset within the pixel, which also smooths edges."""
    shot_noise: float = 0.012
    """Standard deviation at white, of linear light; falls with the root of brightness."""
    read_noise: float = 0.003
    jpeg_quality: int | None = 90


def display(radiance: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Linear light to image values in [0, 1]: clipped, gamma 2."""
    return radiance.clamp(0, 1).sqrt()


def expose(
    world: World,
    path: CameraPath,
    times: Float[Tensor, "B N"],
    intrinsics: Float[Tensor, "B N 3 3"],
    height: int,
    width: int,
    sensor: Sensor,
    seed: int,
) -> Float[Tensor, "B N 3 {height} {width}"]:
    """Photographs with the exposure centred at the given times."""
    light = torch.zeros(*times.shape, 3, height, width, dtype=times.dtype, device=times.device)
    for sample in range(sensor.samples):
        instant = times + sensor.exposure_s * ((sample + 0.5) / sensor.samples - 0.5)
        moved = intrinsics.clone()
        moved[..., :2, 2] += moved.new_tensor(_offset(sample)) * (sensor.samples > 1)
        light += trace(world, instant, path.world_from_cam(instant), moved, height, width)[0].clamp_(max=1.2)
    images = display(_noisy(light / sensor.samples, sensor, seed))
    return images if sensor.jpeg_quality is None else jpeg(images, sensor.jpeg_quality)


def _offset(sample: int) -> tuple[float, float]:
    """Place within the pixel, about its centre: the R2 sequence (Roberts 2018) covers it evenly for any count."""
    return (0.7548776662 * (sample + 1)) % 1 - 0.5, (0.5698402910 * (sample + 1)) % 1 - 0.5


def _noisy(light: Tensor, sensor: Sensor, seed: int) -> Tensor:
    generator = torch.Generator(light.device).manual_seed(seed)
    deviation = (sensor.shot_noise**2 * light + sensor.read_noise**2).sqrt()
    return light + deviation * torch.randn(light.shape, generator=generator, dtype=light.dtype, device=light.device)


def jpeg(images: Float[Tensor, "*batch 3 H W"], quality: int) -> Float[Tensor, "*batch 3 H W"]:
    """What JPEG compression (baseline, 4:2:0) leaves of images in [0, 1]. Quality 1..100 as in libjpeg."""
    height, width = images.shape[-2:]
    flat = images.reshape(-1, 3, height, width) * 255
    padded = torch.nn.functional.pad(flat, (0, -width % 16, 0, -height % 16), mode="replicate")
    ycc = torch.einsum("ij,vjhw->vihw", _ycc_from_rgb(flat), padded)
    luma = _quantise(ycc[:, :1] - 128, LUMA_TABLE, quality) + 128
    chroma = _quantise(torch.nn.functional.avg_pool2d(ycc[:, 1:], 2), CHROMA_TABLE, quality)
    chroma = torch.nn.functional.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = torch.einsum("ij,vjhw->vihw", torch.linalg.inv(_ycc_from_rgb(flat)), torch.cat([luma, chroma], dim=1))
    return (rgb[..., :height, :width].round() / 255).clamp(0, 1).view_as(images)


def _ycc_from_rgb(like: Tensor) -> Tensor:
    """JFIF colours, without the offset of chroma."""
    rows = [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]]
    return like.new_tensor(rows)


def _quantise(plane: Tensor, table: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """Round the 8x8 cosine transform to the table's steps."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    step = ((plane.new_tensor(table) * scale + 50) / 100).floor().clamp(1, 255)
    basis = _cosines(plane)
    blocks = rearrange(plane, "v c (y a) (x b) -> v c y x a b", a=8, b=8)
    kept = (basis @ blocks @ basis.mT / step).round() * step
    return rearrange(basis.mT @ kept @ basis, "v c y x a b -> v c (y a) (x b)")


def _cosines(like: Tensor) -> Tensor:
    """Orthonormal DCT-II of length 8."""
    number = torch.arange(8, dtype=like.dtype, device=like.device)
    basis = ((2 * number + 1) * number[:, None] * (torch.pi / 16)).cos() / 2
    basis[0] = 8**-0.5
    return basis
