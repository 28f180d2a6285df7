"""A network's answer as a result: from pairs of frames or from windows of many, written as it comes."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from unproject.errors import UsageError
from unproject.inference.anchored import Sequencing
from unproject.inference.multiview import seen_in_windows
from unproject.inference.network_input import BATCH, NetworkInput, check_flow, check_memory
from unproject.inference.network_result import MapsSink, digests, memory_explained, weights_of
from unproject.inference.pair_frames import seen_in_pairs
from unproject.inference.run import Clock, Folder, record
from unproject.io.result import Reconstruction
from unproject.io.source import Source
from unproject.models.base import MultiViewNetwork, Reconstructor
from unproject.progress import Progress

NO_DEPTH = "no depth is given: what the network says is no surface anywhere, as of weights that are not trained"


def feed_forward(
    network: Reconstructor,
    opened: Source,
    *,
    folder: Folder,
    settings: dict[str, Any],
    long_side: int | None,
    flow: bool,
    masks: Path | None,
    reference: Path | None,
    device: torch.device | None,
    precision: torch.dtype | None,
    progress: Progress,
) -> Reconstruction:
    """The result of a network; errors as `reconstruct` names them.

    The network stays where it is, in its own precision, unless a device or a precision is named.
    """
    clock = Clock()
    network = network if device is None else network.to(device)
    place = next(network.parameters()).device
    side = network.long_side if long_side is None else long_side
    if isinstance(network, MultiViewNetwork) and reference is not None:
        raise UsageError("--reference-mask needs a two-view network: this one says where cameras are by itself")
    if network.needs_intrinsics:
        raise UsageError('--model: this network must be told intrinsics, which is not possible yet; train rays="found"')
    if flow:
        check_flow(network)
    check_memory(network, opened, side, flow)
    given = NetworkInput(opened, side, network.patch, place)
    at_rest = given.reference(reference)
    weights = weights_of(network)
    settings = {
        **settings,
        "model": network.origin,
        "long_side": side,
        "flow": flow,
        "precision": str(precision or network.precision),
        "reference_mask": reference and str(reference),
    }
    with ExitStack() as stack:
        writer = folder.writer(opened, {**settings, "sha256": digests(opened, masks, reference), "weights": weights})
        if writer is not None:
            stack.enter_context(writer)
        sink = MapsSink(opened.infos, masks, writer)
        with clock("network"), memory_explained(network, opened, side, flow):
            if isinstance(network, MultiViewNetwork):
                answer = seen_in_windows(network, given, given.usable(masks), side, flow, precision, sink, progress)
            else:
                sequencing = Sequencing(
                    batch=BATCH[place.type],
                    precision=precision,
                    reference=at_rest,
                    usable=given.usable(masks),
                )
                answer = seen_in_pairs(network, given, sequencing, sink, progress)
        complete = sink.has_depth and bool((answer.cameras.component == 0).all())
        result = Reconstruction(
            frames=opened.infos,
            cameras=answer.cameras,
            maps=answer.maps,
            flows=sink.flows,
            sparse=answer.sparse,
            tracks=answer.tracks,
            provenance={
                **record(opened, settings, clock, writer is not None and writer.resumed),
                "state": "full" if complete else "partial",
                "used_priors": [],
                **answer.record,
                "weights": weights,
                "device": str(place),
                "notes": [*opened.notes, *network.notes, *answer.notes, *([] if sink.has_depth else [NO_DEPTH])],
            },
        )
        return result if writer is None else writer.finish(result)
