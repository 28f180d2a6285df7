"""What others released: which network the names and shapes of a file's weights tell, and under which licence it is.

Nothing here trusts what a file says of itself beside its weights.
"""

import re
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any, Literal

from torch import Tensor

from unproject.errors import InputError
from unproject.models import keys
from unproject.models.dust3r import Dust3rConfig
from unproject.models.flow3r import Flow3rConfig
from unproject.models.flow4r import SIZES, Flow4rConfig
from unproject.models.multiview import MultiViewShape
from unproject.nn.croco import TwoViewShape
from unproject.nn.flow_head import LEVELS
from unproject.nn.vit import VitShape

LayoutName = Literal["flow4r", "croco", "dust3r", "pi3", "flow3r", "vggt"]
HEAD_DIM = 64
"""Width of an attention head in every released network, where shapes of weights do not tell it."""
_CROCO_LICENCE = "not stated in the file; that of the released CroCo, DUSt3R and MonST3R weights is CC BY-NC-SA 4.0"
LICENCES: dict[LayoutName, str] = {
    "flow4r": _CROCO_LICENCE,
    "croco": _CROCO_LICENCE,
    "dust3r": _CROCO_LICENCE,
    "pi3": "not stated in the file; that of the released π³ weights is CC BY-NC 4.0",
    "flow3r": "not stated by Flow3r's authors; its weights are made from π³'s, which are CC BY-NC 4.0",
    "vggt": "not stated in the file; that of the released VGGT-1B weights is CC BY-NC 4.0",
}
"""By layout: files do not tell."""
ONLY_A_START: dict[LayoutName, str] = {"croco": "CroCo", "vggt": "VGGT"}
"""Layouts of networks that are not here: training starts from their weights."""
_CROCO = ("patch_embed.proj.weight", "decoder_embed.weight")
_MULTI_VIEW = ("encoder.patch_embed.proj.weight", "encoder.pos_embed", "register_token")


def layout_of(state: Mapping[str, Tensor]) -> LayoutName:
    """Which released layout these names are of; InputError where none."""
    if any(key.startswith("aggregator.frame_blocks.") for key in state):
        return "vggt"
    if any(key.startswith("point_decoder.") for key in state):
        return "flow3r" if any(key.startswith("flow_head.") for key in state) else "pi3"
    if not any(key.startswith(("patch_embed.", "enc_blocks.", "dec_blocks.")) for key in state):
        some = ", ".join(list(state)[:3]) + (f", and {len(state) - 3} more" if len(state) > 3 else "")
        raise InputError(
            "no known layout of weights: neither ours nor that of CroCo's family (patch_embed.proj), of π³ "
            f"(point_decoder) or of VGGT (aggregator); the file has {some}{_prefix_of(state)}"
        )
    if any(key.startswith("dec_blocks2.") for key in state):
        return "dust3r"
    return "flow4r" if any(key.startswith("downstream_head1.") for key in state) else "croco"


def _prefix_of(state: Mapping[str, Tensor]) -> str:
    """What to do about a prefix that all names share, as `module.` of a network that was trained on several devices."""
    first = next(iter(state), "")
    prefix = first[: first.find(".") + 1]
    shared = bool(prefix) and all(key.startswith(prefix) for key in state)
    return f"; every name begins with {prefix!r}: take that off" if shared else ""


def config_of(layout: LayoutName, state: Mapping[str, Tensor]) -> Flow4rConfig | Dust3rConfig | Flow3rConfig:
    """What makes a network that these weights fit; InputError where the weights that tell its widths are missing."""
    if layout in ("pi3", "flow3r"):
        return Flow3rConfig(shape=multi_view_shape_of(state), flow=layout == "flow3r")
    shape = shape_of(state, layout)
    return Dust3rConfig(shape=shape) if layout == "dust3r" else Flow4rConfig(shape=shape)


def shape_of(state: Mapping[str, Tensor], layout: LayoutName = "flow4r") -> TwoViewShape:
    """The network that weights of CroCo's family belong to, from their shapes.

    The number of attention heads leaves no trace there: it is that of the size we know with these widths, else heads
    of 64. InputError where the weights that tell the widths are missing, with all names that have no place.
    """
    _require(state, dict(zip(_CROCO, (4, 2), strict=True)), "CroCo's", layout)
    enc_dim, dec_dim = (len(state[key]) for key in _CROCO)
    known = next((s for s in SIZES.values() if (s.enc_dim, s.dec_dim) == (enc_dim, dec_dim)), None)
    return TwoViewShape(
        enc_dim=enc_dim,
        enc_depth=_depth(state, "enc_blocks"),
        enc_heads=known.enc_heads if known else max(1, enc_dim // HEAD_DIM),
        dec_dim=dec_dim,
        dec_depth=_depth(state, "dec_blocks"),
        dec_heads=known.dec_heads if known else max(1, dec_dim // HEAD_DIM),
        **_head_shape(state),
    )


def multi_view_shape_of(state: Mapping[str, Tensor]) -> MultiViewShape:
    """The π³ or Flow3r that these weights belong to, from their shapes.

    The trunk normalises each attention head, so the width of a head is told; without that it is 64. InputError where
    the weights that tell the widths are missing.
    """
    _require(state, dict(zip(_MULTI_VIEW, (4, 3, 4), strict=True)), "π³'s", "flow3r")
    patches, positions, registers = (state[key] for key in _MULTI_VIEW)
    dim = len(patches)
    norm = state.get("decoder.0.attn.q_norm.weight")
    head = HEAD_DIM if norm is None or not norm.numel() or dim % norm.numel() else norm.numel()
    depth = _depth(state, "decoder")
    return MultiViewShape(
        encoder=VitShape(
            dim=dim,
            depth=_depth(state, "encoder.blocks"),
            heads=max(1, dim // head),
            patch=patches.shape[-1],
            grid=isqrt(max(0, positions.shape[1] - 1)),
        ),
        depth=depth + depth % 2,  # an odd number is a block that was lost, and is to be named
        registers=registers.shape[2],
        task_depth=_depth(state, "point_decoder.blocks"),
        **_flow_shape(state),
    )


def _require(state: Mapping[str, Tensor], ranks: Mapping[str, int], whose: str, layout: LayoutName) -> None:
    """The weights that tell the widths; without them shapes cannot be judged, names can."""
    absent = [key for key in ranks if key not in state]
    flat = [key for key, rank in ranks.items() if key in state and (state[key].ndim != rank or not state[key].numel())]
    if not absent and not flat:
        return
    known = keys.LAYOUTS[layout]
    strange = [key for key in state if not keys.has_place(known, key)]
    wrong = [f"{key} (missing)" for key in absent] + [f"{key} (wrong shape: {list(state[key].shape)})" for key in flat]
    raise InputError(
        f"not weights of {whose} family, or damaged: {'; '.join(wrong + [f'{key} (unknown)' for key in strange])}"
    )


def _depth(state: Mapping[str, Tensor], stack: str) -> int:
    """Blocks of a stack; InputError where most of them are missing, as a file's word for their number may be any."""
    block = re.compile(rf"{re.escape(stack)}\.(\d{{1,9}})\.")
    numbers = {int(match.group(1)) for key in state if (match := block.match(key))}
    depth = max(numbers, default=-1) + 1
    if depth > 2 * len(numbers):
        raise InputError(f"damaged weights: {len(numbers)} of {depth} blocks of {stack} are there")
    return depth


def _head_shape(state: Mapping[str, Tensor]) -> dict[str, Any]:
    dpt = "downstream_head1.dpt"
    levels = [state.get(f"{dpt}.act_postprocess.{level}.0.weight") for level in range(4)]
    narrow = state.get(f"{dpt}.head.0.weight")
    if narrow is None or narrow.ndim < 2 or not _have_width(levels):
        return {"head": "dpt" if any(key.startswith(dpt) for key in state) else "linear"}
    widths = tuple(len(level) for level in levels if level is not None)
    return {"head": "dpt", "dpt_features": narrow.shape[1], "dpt_widths": widths}


def _flow_shape(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Nothing where there is no flow head, or where a part of it is missing: that is named when weights are placed."""
    levels = [state.get(f"flow_head.projects.{level}.weight") for level in range(LEVELS)]
    first = state.get("flow_head.scratch.layer1_rn.weight")
    if not _have_width([first, *levels]) or first is None:
        return {}
    return {"flow_widths": tuple(len(level) for level in levels if level is not None), "flow_features": len(first)}


def _have_width(weights: Sequence[Tensor | None]) -> bool:
    """Whether all are there, and no single numbers: those have no width to be told."""
    return all(weight is not None and weight.ndim for weight in weights)
