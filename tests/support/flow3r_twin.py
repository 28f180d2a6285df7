"""π³ and Flow3r read off their description, one formula after the other: the slow twin of `models.flow3r`.

Weights come as the state dict of the released layout. Everything is written out: no fused attention, no chunks.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from unproject.models.flow3r import Flow3rConfig

REGISTERS = 5


class Twin:
    def __init__(self, state: dict[str, Tensor], config: Flow3rConfig) -> None:
        self.state, self.shape = state, config.shape
        self.patch, self.heads = config.shape.encoder.patch, config.shape.encoder.heads

    def __call__(self, images: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Points, logits of confidence, poses and raw flow."""
        batch, views, _, height, width = images.shape
        rows, columns = height // self.patch, width // self.patch
        tokens = torch.cat([self.state["register_token"][0].expand(batch * views, -1, -1), self.encoded(images)], 1)
        y, x = torch.meshgrid(torch.arange(rows) + 1, torch.arange(columns) + 1, indexing="ij")
        place = torch.cat([torch.zeros(REGISTERS, 2), torch.stack([y, x], -1).reshape(-1, 2)])
        length, dim = tokens.shape[1:]
        within = tokens
        for number in range(self.shape.depth):
            name = f"decoder.{number}"
            if number % 2 == 0:
                tokens = within = self.block(tokens, name, place, scaled=True, normed=True)
            else:
                joined = tokens.reshape(batch, views * length, dim)
                joined = self.block(joined, name, place.repeat(views, 1), scaled=True, normed=True)
                tokens = joined.reshape(batch * views, length, dim)
        trunk = torch.cat([within, tokens], -1)
        point, geometry = self.task(trunk, "point_decoder", place)
        trust, _ = self.task(trunk, "conf_decoder", place)
        camera, pose = self.task(trunk, "camera_decoder", place)
        slope_x, slope_y, log_z = self.unfolded(self.linear(point, "point_head.proj"), rows, 3).unbind(1)
        points = torch.stack([slope_x * log_z.exp(), slope_y * log_z.exp(), log_z.exp()], -1)
        logit = self.unfolded(self.linear(trust, "conf_head.proj"), rows, 1)[:, 0]
        flows = [
            self.flow([g[b * views + i] for g in geometry], *([p[b * views + v] for p in pose] for v in (i, j)), images)
            for b in range(batch)
            for i, j in pairs[b].tolist()
        ]
        shape = (batch, views, height, width)
        return (
            points.reshape(*shape, 3),
            logit.reshape(shape),
            self.poses(camera).reshape(batch, views, 4, 4),
            torch.stack(flows).reshape(batch, -1, height, width, 2),
        )

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)

    def conv(self, x: Tensor, name: str, **how: int) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **how)

    def encoded(self, images: Tensor) -> Tensor:
        """DINOv2's tokens of the patches."""
        shape, flat = self.shape.encoder, (images - self.state["image_mean"]) / self.state["image_std"]
        patches = self.conv(flat.flatten(0, 1), "encoder.patch_embed.proj", stride=self.patch)
        rows, columns = patches.shape[-2:]
        learned = self.state["encoder.pos_embed"]
        grid = learned[:, 1:].reshape(1, shape.grid, shape.grid, shape.dim).permute(0, 3, 1, 2)
        if (rows, columns) != (shape.grid, shape.grid):
            grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=True, align_corners=False)
        patches = (patches + grid).flatten(2).mT
        first = self.state["encoder.cls_token"] + learned[:, :1]
        extra = torch.cat([first, self.state["encoder.register_tokens"]], 1).expand(len(patches), -1, -1)
        tokens = torch.cat([extra, patches], 1)
        for number in range(shape.depth):
            tokens = self.block(tokens, f"encoder.blocks.{number}", None, scaled=True, normed=False)
        return self.norm(tokens, "encoder.norm", 1e-6)[:, extra.shape[1] :]

    def block(self, x: Tensor, name: str, place: Tensor | None, *, scaled: bool, normed: bool) -> Tensor:
        items, length, dim = x.shape
        wide = self.linear(self.norm(x, f"{name}.norm1", 1e-6), f"{name}.attn.qkv")
        q, k, v = wide.reshape(items, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        if normed:
            q, k = self.norm(q, f"{name}.attn.q_norm", 1e-5), self.norm(k, f"{name}.attn.k_norm", 1e-5)
        if place is not None:
            q, k = turned(q, place), turned(k, place)
        seen = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
        added = self.linear(seen.transpose(1, 2).reshape(items, length, dim), f"{name}.attn.proj")
        x = x + (added * self.state[f"{name}.ls1.gamma"] if scaled else added)
        hidden = F.gelu(self.linear(self.norm(x, f"{name}.norm2", 1e-6), f"{name}.mlp.fc1"))
        added = self.linear(hidden, f"{name}.mlp.fc2")
        return x + (added * self.state[f"{name}.ls2.gamma"] if scaled else added)

    def task(self, trunk: Tensor, name: str, place: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What a head reads, and the last four blocks, without registers."""
        x, kept = self.linear(trunk, f"{name}.projects"), []
        for number in range(self.shape.task_depth):
            x = self.block(x, f"{name}.blocks.{number}", place, scaled=False, normed=False)
            kept.append(x[:, REGISTERS:])
        return self.linear(x, f"{name}.linear_out")[:, REGISTERS:], kept[-4:]

    def unfolded(self, x: Tensor, rows: int, channels: int) -> Tensor:
        side = self.patch
        x = x.reshape(len(x), rows, -1, channels, side, side).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(len(x), channels, rows * side, -1)

    def poses(self, x: Tensor) -> Tensor:
        for unit in range(2):
            added = x
            for number in (1, 2, 3):
                added = self.linear(added, f"camera_head.res_conv.{unit}.res_conv{number}").relu()
            x = x + added
        x = self.linear(x.mean(1), "camera_head.more_mlps.0").relu()
        x = self.linear(x, "camera_head.more_mlps.2").relu()
        u, _, vt = torch.linalg.svd(F.normalize(self.linear(x, "camera_head.fc_rot").reshape(-1, 3, 3), dim=-1))
        sign = torch.ones(len(x), 3)
        sign[:, 2] = torch.linalg.det(u @ vt)
        pose = torch.eye(4).repeat(len(x), 1, 1)
        pose[:, :3, :3], pose[:, :3, 3] = u @ torch.diag_embed(sign) @ vt, self.linear(x, "camera_head.fc_t")
        return pose

    def flow(self, geometry: list[Tensor], source: list[Tensor], target: list[Tensor], images: Tensor) -> Tensor:
        """Of one pair, from each level's patches of the source and the mean of those of the target."""
        height, width = images.shape[-2:]
        rows, columns = height // self.patch, width // self.patch
        levels = []
        for number, (g, s, t) in enumerate(zip(geometry, source, target, strict=True)):
            x = torch.cat([s, t.mean(0, keepdim=True).expand_as(s), g], -1)
            for layer in ("0", "2"):
                x = self.linear(x, f"flow_head.mlp.{layer}").relu()
            x = self.norm(self.linear(x, "flow_head.mlp.4"), "flow_head.norm", 1e-5).T.reshape(1, -1, rows, columns)
            x = self.conv(x, f"flow_head.projects.{number}")
            x = x + 0.1 * places(columns, rows, x.shape[1], width / height)
            name = f"flow_head.resize_layers.{number}"
            if number < 2:
                weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
                x = F.conv_transpose2d(x, weight, bias, stride=(4, 2)[number])
            elif number == 3:
                x = self.conv(x, name, stride=2, padding=1)
            levels.append(self.conv(x, f"flow_head.scratch.layer{number + 1}_rn", padding=1))
        x = levels[3]
        for number in (4, 3, 2, 1):
            name = f"flow_head.scratch.refinenet{number}"
            if number < 4:
                x = x + self.residual(levels[number - 1], f"{name}.resConfUnit1")
            x = self.residual(x, f"{name}.resConfUnit2")
            size = levels[number - 2].shape[-2:] if number > 1 else (2 * x.shape[-2], 2 * x.shape[-1])
            x = self.conv(F.interpolate(x, size=size, mode="bilinear", align_corners=True), f"{name}.out_conv")
        x = self.conv(x, "flow_head.scratch.output_conv1", padding=1)
        x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=True)
        x = x + 0.1 * places(width, height, x.shape[1], width / height)
        x = self.conv(x, "flow_head.scratch.output_conv2.0", padding=1).relu()
        return self.conv(x, "flow_head.scratch.output_conv2.2")[0].permute(1, 2, 0)

    def residual(self, x: Tensor, name: str) -> Tensor:
        x = x.relu()
        return x + self.conv(self.conv(x, f"{name}.conv1", padding=1).relu(), f"{name}.conv2", padding=1)


def turned(u: Tensor, place: Tensor) -> Tensor:
    """RoPE: the first half of a head's channels by rows, the second by columns."""
    half = u.shape[-1] // 2
    parts = []
    for axis, part in enumerate(u.split(half, dim=-1)):
        rate = 100.0 ** (-2 * torch.arange(half // 2, dtype=torch.float64) / half)
        angle = (place[:, axis, None].double() * rate).repeat(1, 2)
        swapped = torch.cat([-part[..., half // 2 :], part[..., : half // 2]], -1)
        parts.append(part * angle.cos().to(u) + swapped * angle.sin().to(u))
    return torch.cat(parts, -1)


def places(columns: int, rows: int, channels: int, aspect: float) -> Tensor:
    """The fixed embedding of where a pixel lies: sines and cosines of u, then of v."""
    diagonal = math.sqrt(aspect**2 + 1)
    rate = 100.0 ** (-torch.arange(channels // 4, dtype=torch.float64) / (channels // 4))
    parts = []
    for count, side in ((columns, aspect), (rows, 1.0)):
        end = side / diagonal * (count - 1) / count
        wave = torch.linspace(-end, end, count, dtype=torch.float64)[:, None] * rate
        parts.append(torch.cat([wave.sin(), wave.cos()], -1))
    u, v = parts[0][None].expand(rows, -1, -1), parts[1][:, None].expand(-1, columns, -1)
    return torch.cat([u, v], -1).permute(2, 0, 1).float()
