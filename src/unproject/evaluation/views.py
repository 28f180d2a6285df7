"""How far a multi-view network's answers are from the truth."""

import torch

from unproject.data.base import Sample
from unproject.evaluation.metrics import PairErrors, pair_errors
from unproject.geometry.align import weighted_median
from unproject.types import Known, Prediction, require


def view_metrics(prediction: Prediction, sample: Sample) -> dict[str, float]:
    """Means over the batch; poses of all pairs of views of a clip count, whichever pairs flow is asked for.

    - ``rra30``, ``rta30``, ``auc30``: shares of pairs whose rotation, direction of translation, and both are below 30
      degrees (the last averaged over thresholds), as π³ and VGGT count them; with the medians ``rotation_deg`` and
      ``translation_deg``.
    - ``depth_relative``: median relative error of depth with one scale for all views of a clip.
    - ``flow_px``: median distance of the flow where the target sees the surface, if the network says any.
    """
    points, poses = require(sample.labels, "points"), require(sample.labels, "world_from_cam")
    unknown = torch.where((poses.weight > 0)[..., None, None], poses.value, torch.nan)
    each = [pair_errors(*both) for both in zip(require(prediction, "world_from_cam"), unknown, strict=True)]
    errors = PairErrors(*(torch.cat([getattr(e, n) for e in each]) for n in ("rotation_deg", "translation_deg")))
    return {
        "rra30": errors.rotation_accuracy(30),
        "rta30": errors.translation_accuracy(30),
        "auc30": errors.auc(30),
        "rotation_deg": errors.rotation_deg.median().item(),
        "translation_deg": errors.translation_deg.median().item(),
        "depth_relative": _depth_relative(prediction, points),
        **_flow_px(prediction, sample),
    }


def _depth_relative(prediction: Prediction, points: Known) -> float:
    depth, true_depth = prediction.points[..., 2], points.value[..., 2]
    known = (points.weight > 0) & (true_depth > 0)
    ratio = torch.where(known, true_depth / depth.clamp(min=1e-9), 1)
    scale = weighted_median(ratio.flatten(1), known.flatten(1).to(ratio))[:, None, None, None]
    return (scale * depth / true_depth - 1).abs()[known].median().item()


def _flow_px(prediction: Prediction, sample: Sample) -> dict[str, float]:
    truth = sample.labels.flow
    if prediction.flow is None or truth is None:
        return {}
    return {"flow_px": (prediction.flow - truth.value).norm(dim=-1)[truth.weight > 0.5].median().item()}
