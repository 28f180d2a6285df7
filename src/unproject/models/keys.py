"""Names of weights: explicit tables between a released layout and ours, and a report of what became of every key."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unproject.errors import InputError

State = Literal[
    "loaded", "renamed", "dropped", "fresh", "missing", "wrong shape", "wrong type", "contradicts", "unknown"
]
WRONG = ("missing", "wrong shape", "wrong type", "contradicts", "unknown")
_PLACEHOLDERS = {"n": r"\d+", "leaf": r"weight|bias", "rest": r".+"}


@dataclass(frozen=True)
class Rename:
    """One row of a table. ``{n}``, ``{leaf}`` (weight or bias) and ``{rest}`` stand for the same text on both sides."""

    official: str
    ours: str
    alias: bool = False
    """A second official name of a tensor: read, never written."""


@dataclass(frozen=True)
class Drop:
    """An official key that has no place in our network."""

    official: str
    why: str


@dataclass(frozen=True)
class Layout:
    """How a family of released files names its weights."""

    renames: Sequence[Rename]
    drops: Sequence[Drop] = ()
    fresh: str | tuple[str, ...] | None = None
    """Our keys that begin so may be absent from a file: the network keeps what it started with."""


@dataclass(frozen=True)
class Line:
    """What became of one key."""

    official: str | None
    ours: str | None
    state: State
    why: str = ""

    def __str__(self) -> str:
        names = dict.fromkeys(name for name in (self.official, self.ours) if name)
        return f"{' -> '.join(names)} ({self.state}{': ' if self.why else ''}{self.why})"


@dataclass(frozen=True)
class Report:
    """Every key of a file and of a network, once."""

    lines: tuple[Line, ...]

    def having(self, *states: State) -> list[Line]:
        """The lines in any of these states."""
        return [line for line in self.lines if line.state in states]

    def require_right(self, what: str) -> None:
        """InputError that lists all wrong keys, if there are any."""
        wrong = self.having(*WRONG)
        if wrong:
            keys = "; ".join(map(str, wrong))
            raise InputError(f"{what}: {len(wrong)} of {len(self.lines)} keys do not fit the network: {keys}")

    def __str__(self) -> str:
        return "\n".join(map(str, self.lines))


def translate(
    layout: Layout, state: Mapping[str, Tensor], ours: Mapping[str, torch.Size]
) -> tuple[dict[str, Tensor], Report]:
    """Tensors of a released file under our names, for a network with the given shapes, and the report."""
    found: dict[str, Tensor] = {}
    lines = [_place(layout, key, tensor, ours, found) for key, tensor in state.items()]
    for key in ours:
        if key not in found and not any(line.ours == key for line in lines):
            fresh = layout.fresh is not None and key.startswith(layout.fresh)
            lines.append(Line(to_official_name(layout, key), key, "fresh" if fresh else "missing"))
    return found, Report(tuple(lines))


def _place(layout: Layout, key: str, tensor: Tensor, ours: Mapping[str, torch.Size], found: dict[str, Tensor]) -> Line:
    name = to_our_name(layout, key)
    if name is None or name not in ours:
        why = next((drop.why for drop in layout.drops if _match(drop.official, key)), None)
        return Line(key, None, "unknown" if why is None else "dropped", why or "")
    if tensor.shape != ours[name]:
        return Line(key, name, "wrong shape", f"{list(tensor.shape)} where {list(ours[name])} is needed")
    if not tensor.is_floating_point():
        return Line(key, name, "wrong type", f"{tensor.dtype} where floating-point numbers are needed")
    if name in found:
        same = torch.equal(found[name], tensor)
        return Line(key, None if same else name, "dropped" if same else "contradicts", f"second name of {name}")
    found[name] = tensor
    return Line(key, name, "loaded" if key == name else "renamed")


def has_place(layout: Layout, key: str) -> bool:
    """Whether the table has a row for an official key."""
    return to_our_name(layout, key) is not None or any(_match(drop.official, key) for drop in layout.drops)


def to_our_name(layout: Layout, key: str) -> str | None:
    """Our name of an official key, None if the table has no row for it."""
    return next((name for row in layout.renames if (name := _rewrite(row.official, row.ours, key))), None)


def to_official_name(layout: Layout, key: str) -> str | None:
    """The name under which a tensor of ours is written."""
    rows = (row for row in layout.renames if not row.alias)
    return next((name for row in rows if (name := _rewrite(row.ours, row.official, key))), None)


def _match(pattern: str, key: str) -> re.Match[str] | None:
    parts = re.split(r"\{(\w+)\}", pattern)
    named = (f"(?P<{p}>{_PLACEHOLDERS[p]})" if i % 2 else re.escape(p) for i, p in enumerate(parts))
    return re.fullmatch("".join(named), key)


def _rewrite(pattern: str, target: str, key: str) -> str | None:
    match = _match(pattern, key)
    return target.format(**match.groupdict()) if match else None


def trunk() -> list[Rename]:
    """Encoder and decoder of CroCo and all that came from it. Inside a block the names are the same."""
    return [
        Rename("patch_embed.proj.{leaf}", "encoder.patches.proj.{leaf}"),
        Rename("enc_blocks.{n}.{rest}", "encoder.blocks.{n}.{rest}"),
        Rename("enc_norm.{leaf}", "encoder.norm.{leaf}"),
        Rename("decoder_embed.{leaf}", "decoder.embed.{leaf}"),
        Rename("dec_blocks.{n}.{rest}", "decoder.blocks.{n}.{rest}"),
        Rename("dec_norm.{leaf}", "decoder.norm.{leaf}"),
    ]


def head(official: str, ours: str) -> list[Rename]:
    """One linear or DPT head."""
    dpt, ours = f"{official}.dpt", f"{ours}.map"
    rows = [
        Rename(f"{official}.proj.{{leaf}}", f"{ours}.proj.{{leaf}}"),
        Rename(f"{dpt}.act_postprocess.{{n}}.{{rest}}", f"{ours}.reassemble.{{n}}.{{rest}}"),
        Rename(f"{dpt}.head.0.{{leaf}}", f"{ours}.narrow.{{leaf}}"),
        Rename(f"{dpt}.head.2.{{leaf}}", f"{ours}.readout.0.{{leaf}}"),
        Rename(f"{dpt}.head.4.{{leaf}}", f"{ours}.readout.2.{{leaf}}"),
    ]
    for level in range(4):
        refine, fuse = f"{dpt}.scratch.refinenet{level + 1}", f"{ours}.fuse.{level}"
        rows += [
            Rename(f"{dpt}.scratch.layer{level + 1}_rn.weight", f"{ours}.to_features.{level}.weight"),
            Rename(f"{dpt}.scratch.layer_rn.{level}.weight", f"{ours}.to_features.{level}.weight", alias=True),
            Rename(f"{refine}.resConfUnit1.{{rest}}", f"{fuse}.skip.{{rest}}"),
            Rename(f"{refine}.resConfUnit2.{{rest}}", f"{fuse}.refine.{{rest}}"),
            Rename(f"{refine}.out_conv.{{leaf}}", f"{fuse}.out.{{leaf}}"),
        ]
    return rows


MASKED = Drop("mask_token", "stands for hidden patches in CroCo's pre-training only")
UNREACHED = [
    Drop(f"downstream_head{side}.dpt.scratch.refinenet4.resConfUnit1.{{rest}}", "no data reaches it") for side in (1, 2)
]
PAINTER = Drop("prediction_head.{leaf}", "paints hidden patches in CroCo's pre-training")
SAME_NAMES = [Rename("{rest}", "{rest}")]
"""Of our own files, and of networks whose weights we call as their authors do."""

LAYOUTS = {
    "flow4r": Layout([*trunk(), *head("downstream_head1", "head")], [MASKED, *UNREACHED]),
    "croco": Layout(trunk(), [MASKED, PAINTER], "head."),
    "dust3r": Layout(
        [
            *trunk(),
            Rename("dec_blocks2.{n}.{rest}", "other_blocks.{n}.{rest}"),
            *head("downstream_head1", "head"),
            *head("downstream_head2", "other_head"),
        ],
        [MASKED, *UNREACHED],
    ),
    "pi3": Layout(SAME_NAMES),
    "flow3r": Layout(SAME_NAMES),
}
"""Layouts of whole networks: what `from_official` reads and `to_official` writes."""

TRUNK_AS_START = Layout(
    trunk(),
    [
        MASKED,
        PAINTER,
        Drop("dec_blocks2.{rest}", "Flow4R has one decoder; side 1 speaks of its own camera, as P does"),
        Drop("downstream_head1.{rest}", "the head is not part of the start"),
        Drop("downstream_head2.{rest}", "the head is not part of the start"),
    ],
    "head.",
)
"""CroCo, DUSt3R, MonST3R, or Flow4R with another head, as the start of a Flow4R network."""

MULTI_VIEW_AS_START = Layout(SAME_NAMES, [Drop("flow_head.{rest}", "this network has no flow head")], "flow_head.")
"""π³ as the start of Flow3r, or the other way round: only the flow head is on one side alone."""

VGGT_BLOCKS = 24
"""Of each kind: within a frame, and over all frames."""
_VGGT_ALONE = [
    Drop("aggregator.patch_embed.mask_token", "stands for hidden patches in DINOv2's pre-training only"),
    Drop("aggregator.camera_token", "VGGT tells its first frame from the others, a set has no first"),
    Drop("aggregator.register_token", "VGGT tells its first frame from the others, a set has no first"),
    *(Drop(f"{part}_head.{{rest}}", "the heads are not part of the start") for part in ("camera", "point", "depth")),
    Drop("track_head.{rest}", "the heads are not part of the start"),
]


def vggt_as_start(depth: int) -> Layout:
    """VGGT (arXiv 2503.11651) as the start of encoder and trunk of a π³ or Flow3r whose trunk has so many blocks.

    A network with camera tokens takes those too; in another, views are a set.

    VGGT counts blocks within a frame and over all frames apart, we count them in the order in which they run. So every
    block has a row of its own.
    """
    rows = [
        Rename("aggregator.patch_embed.{rest}", "encoder.{rest}"),
        Rename("aggregator.camera_token", "camera_token"),  # of the backbone that has one; of the first view, of others
    ]
    deeper = []
    for k in range(VGGT_BLOCKS):
        for kind, number in (("frame_blocks", 2 * k), ("global_blocks", 2 * k + 1)):
            block = f"aggregator.{kind}.{k}.{{rest}}"
            if number < depth:
                rows.append(Rename(block, f"decoder.{number}.{{rest}}"))
            else:
                deeper.append(Drop(block, f"this trunk ends after {depth} blocks, VGGT's after {2 * VGGT_BLOCKS}"))
    ours_alone = ("image_", "register_token", "point_", "conf_", "camera_decoder.", "camera_head.", "flow_head.")
    return Layout(rows, [*_VGGT_ALONE, *deeper], ours_alone)
