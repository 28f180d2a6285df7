"""Weights on disk: files as others released them, and our own safetensors that rebuild their network.

Pickles are read without running code from them. Which network a released file holds is read off the shapes of its
weights, never from code that it names.
"""

import argparse
import json
import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path, PosixPath
from typing import Any, Literal, get_type_hints

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unproject.errors import InputError, UsageError, WeightsError
from unproject.io.disk import written_whole
from unproject.models import keys
from unproject.models.base import Reconstructor
from unproject.models.build import from_config
from unproject.models.compact import Compact, CompactConfig
from unproject.models.dust3r import Dust3r, Dust3rConfig
from unproject.models.flow4r import SIZES, Flow4r, Flow4rConfig
from unproject.nn.croco import TwoViewShape

METADATA = "unproject"
CONFIGS = {"flow4r": Flow4rConfig, "dust3r": Dust3rConfig, "compact": CompactConfig}
NAME_OF: dict[type[Reconstructor], str] = {Flow4r: "flow4r", Dust3r: "dust3r", Compact: "compact"}
SAME_NAMES = keys.Layout([keys.Rename("{rest}", "{rest}")])
PART_OF = keys.Layout(SAME_NAMES.renames, [keys.Drop("{rest}", "this network has no such part")], fresh="")
RELEASED_LICENCE = "not stated in the file; that of the released CroCo, DUSt3R and MonST3R weights is CC BY-NC-SA 4.0"
HEAD_DIM = 64
"""Width of an attention head in every released network; shapes of weights do not tell it."""

# What the released pickles hold beside tensors: the training script's arguments and NumPy's numbers, under the names of
# both of its major versions. All of these only carry data.
_SCALAR = np.float64(0).__reduce__()[0]
ALLOWED: list[Any] = [
    argparse.Namespace,
    (PosixPath, "pathlib.PosixPath"),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)),
]

# What torch's reader raises, beside its own error, when bytes are missing or mean nothing.
_DAMAGED = (
    RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AssertionError, AttributeError, struct.error,
)  # fmt: skip


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a released file (.safetensors, or any of torch's pickles), under the names it has.

    WeightsError where there is no file; InputError where it is damaged, or is a pickle that wants to run code.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; download them there or name another file")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise InputError(f"{path} is damaged: {error}; fetch it again") from error
    try:
        with torch.serialization.safe_globals(ALLOWED):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds {named.group(1)}, which could run code" if named else "it is no plain pickle of tensors"
        raise InputError(f"{path} is refused: {reason}; ask for a safetensors file") from error
    except _DAMAGED as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}); fetch it again") from error
    return _tensors(path, content)


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds no weights: expected tensors by name, or these under 'model'")
    return dict(state)


def layout_of(state: Mapping[str, Tensor]) -> Literal["flow4r", "croco", "dust3r"]:
    """Which released layout these names are of; InputError where none."""
    if "patch_embed.proj.weight" not in state or "decoder_embed.weight" not in state:
        raise InputError("no known layout of weights: neither ours nor that of CroCo's family (patch_embed.proj)")
    if any(key.startswith("dec_blocks2.") for key in state):
        return "dust3r"
    return "flow4r" if any(key.startswith("downstream_head1.") for key in state) else "croco"


def shape_of(state: Mapping[str, Tensor]) -> TwoViewShape:
    """The network that weights of CroCo's family belong to, from their shapes.

    The number of attention heads leaves no trace there: it is that of the size we know with these widths, else heads
    of 64. InputError where the weights that tell the widths are missing.
    """
    needed = ("patch_embed.proj.weight", "decoder_embed.weight")
    absent = [key for key in needed if key not in state]
    if absent:
        raise InputError(f"weights without {' and '.join(absent)}: not of CroCo's family, or a part is missing")
    enc_dim, dec_dim = (len(state[key]) for key in needed)
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


def _depth(state: Mapping[str, Tensor], stack: str) -> int:
    numbers = [int(match.group(1)) for key in state if (match := re.match(rf"{stack}\.(\d+)\.", key))]
    return max(numbers, default=-1) + 1


def _head_shape(state: Mapping[str, Tensor]) -> dict[str, Any]:
    dpt = "downstream_head1.dpt"
    levels = [state.get(f"{dpt}.act_postprocess.{level}.0.weight") for level in range(4)]
    narrow = state.get(f"{dpt}.head.0.weight")
    if narrow is None or any(level is None for level in levels):
        return {"head": "dpt" if any(key.startswith(dpt) for key in state) else "linear"}
    widths = tuple(len(level) for level in levels if level is not None)
    return {"head": "dpt", "dpt_features": narrow.shape[1], "dpt_widths": widths}


def from_official(name: str, state: Mapping[str, Tensor]) -> Reconstructor:
    """The network that a released state dict holds, in the layout of that name, by `explain`'s account.

    ``flow4r`` (one decoder, one head of 8 channels), ``dust3r`` (also MonST3R and St4RTrack), or ``croco``: a Flow4R
    network with a linear head that starts fresh. InputError lists all keys that do not fit.
    """
    if name not in keys.LAYOUTS:
        raise UsageError(f"no layout of weights is called {name!r}; choose one of {', '.join(keys.LAYOUTS)}")
    shape = shape_of(state)
    config = Dust3rConfig(shape=shape) if name == "dust3r" else Flow4rConfig(shape=shape)
    if name == "croco":
        model = from_config(config)
        _fill(model, keys.LAYOUTS[name], state, f"{name} weights")
        return model
    return _made_of(config, keys.LAYOUTS[name], state, f"{name} weights")


def to_official(model: Reconstructor) -> dict[str, Tensor]:
    """The same tensors under the released names; `from_official` reads them back unchanged."""
    name = NAME_OF[type(model)]
    if name not in keys.LAYOUTS:
        raise UsageError(f"nobody else released weights of the {name} network; save them with checkpoints.save")
    layout = keys.LAYOUTS[name]
    names = {key: keys.to_official_name(layout, key) for key in model.state_dict()}
    return {names[key] or key: tensor for key, tensor in model.state_dict().items()}


def initialise(model: Flow4r, state: Mapping[str, Tensor]) -> keys.Report:
    """Start encoder and decoder of a Flow4R network from released names; its head stays as it is.

    From CroCo v2 (the paper's stage 1), from another Flow4R by `to_official` (its stage 2), or from a trained DUSt3R.
    InputError lists all keys that do not fit.
    """
    return _fill(model, keys.TRUNK_AS_START, state, "weights as a start")


def explain(model: Reconstructor, layout: keys.Layout, state: Mapping[str, Tensor]) -> keys.Report:
    """What would become of every key of a file in this network, and of every weight of the network."""
    return keys.translate(layout, state, {key: tensor.shape for key, tensor in model.state_dict().items()})[1]


def _fill(model: Reconstructor, layout: keys.Layout, state: Mapping[str, Tensor], what: str) -> keys.Report:
    own = model.state_dict()
    found, report = keys.translate(layout, state, {key: tensor.shape for key, tensor in own.items()})
    report.require_right(what)
    model.load_state_dict(own | found)
    return report


def _made_of(config: Any, layout: keys.Layout, state: Mapping[str, Tensor], what: str) -> Reconstructor:
    """A network all of whose weights come from a file: random numbers for 0.4 billion of them would take long."""
    with torch.device("meta"):
        model = from_config(config)
    found, report = keys.translate(layout, state, {key: tensor.shape for key, tensor in model.state_dict().items()})
    report.require_right(what)
    # Copies: training must not change the caller's tensors.
    model.load_state_dict({key: tensor.to(torch.float32, copy=True) for key, tensor in found.items()}, assign=True)
    return model


def start_from(model: Reconstructor, path: Path) -> keys.Report:
    """Fill of a network what a file has for it; what only one side has is left, and is in the report.

    A file that `save` wrote may be of a network with other parts. Of a released file of another layout encoder and
    decoder are taken. InputError where shapes differ, or nothing fits.
    """
    state, own = read_weights(path), NAME_OF[type(model)]
    layout = PART_OF
    if _header(path) is None:
        layout = keys.LAYOUTS[own] if layout_of(state) == own else keys.TRUNK_AS_START
    report = _fill(model, layout, state, str(path))
    if not report.having("loaded", "renamed"):
        raise InputError(f"{path} has no weight that this network ({own}) has; start from another file")
    return report


def save(model: Reconstructor, path: Path, dtype: torch.dtype | None = None) -> None:
    """Weights and, in the file's header, what rebuilds their network. The file appears whole or not at all.

    In ``dtype`` where one is given: float16 halves a file that is passed on, and `load` gives float32 again.
    """
    name = NAME_OF[type(model)]
    header = {"model": name, "config": asdict(model.config), "licence": model.licence}
    tensors = {key: tensor.detach().to(dtype).contiguous() for key, tensor in model.state_dict().items()}
    with written_whole(path) as beside:
        save_file(tensors, beside, {METADATA: json.dumps(header)})


def load(path: Path) -> Reconstructor:
    """The network of a file that `save` wrote, or of a released one whose layout its names tell.

    UsageError for CroCo's weights, which are only where training starts.
    """
    header = _header(path)
    if header is None:
        state = read_weights(path)
        layout = layout_of(state)
        if layout == "croco":
            raise UsageError(f"{path} holds weights of CroCo, which have no head: start a training from them")
        model = from_official(layout, state)
        model.licence = RELEASED_LICENCE
        return model
    if header.get("model") not in CONFIGS:
        raise InputError(
            f"{path} holds a model called {header.get('model')!r}; this version knows {', '.join(CONFIGS)}"
        )
    config = _config(path, CONFIGS[header["model"]], header["config"])
    model = _made_of(config, SAME_NAMES, read_weights(path), str(path))
    model.licence = header.get("licence")
    return model


def licence_of(path: Path) -> str | None:
    """Of the weights in a file that `save` wrote, or of a released one; None where it does not say."""
    header = _header(path)
    return RELEASED_LICENCE if header is None else header.get("licence")


def _header(path: Path) -> dict[str, Any] | None:
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get(METADATA, "null"))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is damaged: {error}; fetch it again") from error


def _config(path: Path, kind: type, values: Any) -> Any:
    """The frozen dataclass again, from what JSON made of it."""
    try:
        return _of_values(kind, values)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} describes its network in a way this version does not know: {error}") from error


def _of_values(kind: type, values: dict[str, Any]) -> Any:
    """JSON has no dataclasses and no tuples."""
    kinds = get_type_hints(kind)
    absent = [name for name in kinds if is_dataclass(kinds[name]) and name not in values]
    if absent:
        raise KeyError(f"{', '.join(absent)} is missing")
    made = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return kind(**{key: _of_values(kinds[key], v) if isinstance(v, dict) else v for key, v in made.items()})
