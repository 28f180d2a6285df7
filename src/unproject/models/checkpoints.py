"""Weights on disk: files as others released them, and our own safetensors that rebuild their network.

Pickles are read without running code from them. Which network a released file holds is read off the names and shapes
of its weights (`models.released`), never from code that it names.
"""

import argparse
import json
import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unproject.errors import InputError, UsageError, WeightsError
from unproject.io.disk import written_whole
from unproject.models import flow_check, keys
from unproject.models.base import Reconstructor
from unproject.models.build import from_config
from unproject.models.compact import Compact
from unproject.models.dust3r import Dust3r
from unproject.models.flow3r import Flow3r, Flow3rConfig
from unproject.models.flow4r import Flow4r, Flow4rConfig
from unproject.models.header import METADATA, Header, header_of, said_of, without_weights
from unproject.models.released import LICENCES, ONLY_A_START, LayoutName, config_of, layout_of
from unproject.models.reliev3r import Reliev3r

NAME_OF: dict[type[Reconstructor], str] = {
    Flow4r: "flow4r",
    Flow3r: "flow3r",
    Reliev3r: "reliev3r",
    Dust3r: "dust3r",
    Compact: "compact",
}
SAME_NAMES = keys.Layout(keys.SAME_NAMES)
PART_OF = keys.Layout(keys.SAME_NAMES, [keys.Drop("{rest}", "this network has no such part")], fresh="")

TENSORS_AT_ONCE = 32

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

    WeightsError where there is no file; InputError where it is damaged, is a pickle that wants to run code, or holds
    tensors without plain numbers.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; download them there or name another file")
    if path.suffix == ".safetensors":
        try:
            return _safetensors(path)
        except (SafetensorError, *_DAMAGED) as error:
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


def _safetensors(path: Path) -> dict[str, Tensor]:
    """Few at a time, and the file closed between them: what is mapped of it counts as memory until then."""
    with safe_open(path, "pt") as file:
        names = list(file.keys())
    found: dict[str, Tensor] = {}
    for start in range(0, len(names), TENSORS_AT_ONCE):
        with safe_open(path, "pt") as file:
            for name in names[start : start + TENSORS_AT_ONCE]:
                # Clones: in the mapped file tensors lie at odd addresses, and arithmetic there rounds otherwise.
                found[name] = file.get_tensor(name).clone()
    return found


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError(
            f"{path} holds no weights: expected tensors by name, or these under 'model'; give another file"
        )
    odd = next((key for key, tensor in state.items() if not _plain(tensor)), None)
    if odd is not None:
        raise InputError(
            f"{path}: {odd} is a sparse, nested, quantised or meta tensor; save it dense, or give another file"
        )
    return dict(state)


def _plain(tensor: Tensor) -> bool:
    """Whether it has a number at every place."""
    return tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized or tensor.is_nested)


def layout_in(path: Path, state: Mapping[str, Tensor]) -> LayoutName:
    """Which released layout a file's names are of; InputError where none."""
    with said_of(path):
        return layout_of(state)


def name_of(model: Reconstructor) -> str:
    """What its authors call the network: π³ is Flow3r without its flow head."""
    return "pi3" if isinstance(model, Flow3r) and not model.config.flow else NAME_OF[type(model)]


def from_official(name: str, state: Mapping[str, Tensor]) -> Reconstructor:
    """The network that a released state dict holds, in the layout of that name, by `explain`'s account.

    ``flow4r`` (one decoder, one head of 8 channels), ``dust3r`` (also MonST3R and St4RTrack), ``pi3``, ``flow3r``, or
    ``croco``: a Flow4R network with a linear head that starts fresh. InputError lists all keys that do not fit.
    """
    if name not in keys.LAYOUTS:
        raise UsageError(f"no layout of weights is called {name!r}; choose one of {', '.join(keys.LAYOUTS)}")
    config = config_of(name, state)
    if name == "croco":
        model = from_config(config)
        _fill(model, keys.LAYOUTS[name], state, f"{name} weights")
        return model
    # Copies: training must not change the caller's tensors.
    return _made_of(config, keys.LAYOUTS[name], {k: t.clone() for k, t in state.items()}, f"{name} weights")


def to_official(model: Reconstructor) -> dict[str, Tensor]:
    """The same tensors under the released names; `from_official` reads them back unchanged.

    UsageError for networks of which nobody released weights, and for those that `from_official` would take for another:
    names do not tell scene flow, nor what the flow of a Flow3r means, and know neither its tracking head nor a camera
    token.
    """
    name = name_of(model)
    if name not in keys.LAYOUTS:
        raise UsageError(f"nobody else released weights of the {name} network; save them with checkpoints.save")
    meant = _meant_by_names(model)
    if meant is not None:
        raise UsageError(f"released names mean a network {meant}; save this one with checkpoints.save")
    layout = keys.LAYOUTS[name]
    names = {key: keys.to_official_name(layout, key) for key in model.state_dict()}
    return {names[key] or key: tensor for key, tensor in model.state_dict().items()}


def _meant_by_names(model: Reconstructor) -> str | None:
    """What released names say of the network that is not so; None where all is."""
    config = model.config
    if isinstance(model, Flow4r) and config.motion != "target_points":
        return "that says P_vt"
    if not isinstance(model, Flow3r):
        return None
    released = Flow3rConfig()
    if config.backbone != released.backbone:
        return "without camera tokens"
    if config.flow and config.flow_head != released.flow_head:
        return f"with {released.flow_head} flow"
    if config.flow and config.flow_convention != released.flow_convention:
        return f"whose flow head speaks {released.flow_convention!r}"
    return None


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
    """A network all of whose weights come from a file: random numbers for 0.4 billion of them would take long.

    Tensors that are float32 already become the network's own, so that they are in memory once.
    """
    model = without_weights(config, what)
    found, report = keys.translate(layout, state, {key: tensor.shape for key, tensor in model.state_dict().items()})
    report.require_right(what)
    model.load_state_dict({key: tensor.to(torch.float32) for key, tensor in found.items()}, assign=True)
    return model


def start_from(model: Reconstructor, path: Path) -> keys.Report:
    """Fill of a network what a file has for it; what only one side has is left, and is in the report.

    A file that `save` wrote may be of a network with other parts. Of a released file of another layout what both have
    is taken: encoder and decoder in CroCo's family, all but flow between π³ and Flow3r, encoder and trunk from VGGT.
    The network goes by the file's licence from then on. InputError where shapes differ, where nothing fits, or where a
    head means something else than the network's.
    """
    state, header = read_weights(path), header_of(path)
    if header is None:
        released = layout_in(path, state)
        layout, licence = _as_start(model, released, path), LICENCES[released]
    else:
        layout, licence = PART_OF, header.licence
    with said_of(path):
        report = _fill(model, layout, state, "weights as a start")
    taken = report.having("loaded", "renamed")
    if not taken:
        raise InputError(f"{path} has no weight that this network ({name_of(model)}) has; start from another file")
    if any(str(line.ours).startswith("head.") for line in taken):
        _require_same_motion(model, header, path)
    model.licence = licence
    if isinstance(model, Flow3r) and any(str(line.ours).startswith("flow_head.") for line in report.having("loaded")):
        _check_flow(model, path, header)
    return report


def _require_same_motion(model: Reconstructor, header: Header | None, path: Path) -> None:
    """A head that was trained to say scene flow does not say points, and its shapes do not tell."""
    theirs = header.config.motion if header is not None and isinstance(header.config, Flow4rConfig) else "target_points"
    if isinstance(model, Flow4r) and model.config.motion != theirs:
        raise InputError(
            f"{path}: its head says {theirs}, this network's {model.config.motion}; start from another file"
        )


def _check_flow(model: Flow3r, path: Path, header: Header | None) -> None:
    """A run rebuilds its network from its recipe, so what the head speaks must be said there."""
    own = theirs = model.config.flow_convention
    if header is None:
        flow_check.settle(model)
        theirs = model.config.flow_convention
    elif isinstance(header.config, Flow3rConfig):
        theirs = header.config.flow_convention
    if theirs != own:
        remedy = f"make it with Flow3rConfig(flow_convention={theirs!r})"
        raise InputError(f"the flow head of {path} speaks {theirs!r}, this network {own!r}; {remedy}")


def _as_start(model: Reconstructor, found: str, path: Path) -> keys.Layout:
    """How a released file of that layout is read for this network."""
    own = name_of(model)
    if found == own:
        return keys.LAYOUTS[own]
    if isinstance(model, Flow3r) and found == "vggt":
        return keys.vggt_as_start(model.config.shape.depth)
    if isinstance(model, Flow3r) and found in ("pi3", "flow3r"):
        return keys.MULTI_VIEW_AS_START
    if isinstance(model, Flow4r | Dust3r) and found in ("flow4r", "croco", "dust3r"):
        return keys.TRUNK_AS_START
    raise InputError(
        f"{path} holds weights of {found}, from which a {own} network cannot start; start from another file"
    )


def save(model: Reconstructor, path: Path, dtype: torch.dtype | None = None) -> None:
    """Weights and, in the file's header, what rebuilds their network. The file appears whole or not at all.

    In ``dtype`` where one is given: float16 halves a file that is passed on, and `load` gives float32 again.
    """
    said = {"licence": model.licence, "made_from": model.made_from, "notes": model.notes}
    header = {"model": NAME_OF[type(model)], "config": asdict(model.config), **said}
    tensors = {key: tensor.detach().to(dtype).contiguous() for key, tensor in model.state_dict().items()}
    with written_whole(path) as beside:
        save_file(tensors, beside, {METADATA: json.dumps(header)})


def load(path: Path) -> Reconstructor:
    """The network of a file that `save` wrote, or of a released one whose layout its names tell.

    A released flow head is asked which convention it speaks. UsageError for weights that are only where training
    starts, as CroCo's.
    """
    return network_of(path, read_weights(path))


def network_of(path: Path, state: Mapping[str, Tensor]) -> Reconstructor:
    """The same of a file whose tensors were read; they become the network's."""
    header = header_of(path)
    if header is None:
        return _released(path, state)
    with said_of(path):
        model = _made_of(header.config, SAME_NAMES, state, "weights")
    model.licence, model.made_from, model.notes = header.licence, header.made_from, header.notes
    return model


def _released(path: Path, state: Mapping[str, Tensor]) -> Reconstructor:
    layout = layout_in(path, state)
    if layout in ONLY_A_START:
        whose = ONLY_A_START[layout]
        raise UsageError(f"{path} holds weights of {whose}, which are only a start: train from them (--start)")
    with said_of(path):
        model = _made_of(config_of(layout, state), keys.LAYOUTS[layout], state, f"{layout} weights")
    model.licence = LICENCES[layout]
    if isinstance(model, Flow3r):
        flow_check.settle(model)
    return model


def licence_of(path: Path) -> str | None:
    """Of the weights in a file that `save` wrote, or of a released one; None where it does not say."""
    header = header_of(path)
    return LICENCES[layout_in(path, read_weights(path))] if header is None else header.licence
