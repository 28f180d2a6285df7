"""What moves: pixels whose flow the camera does not explain, and which the picture at rest does not explain either.

Flow over one frame (what is fast) and over four (what is slow) is sought after the other frame was moved to where a
scene at rest would be seen, so that only motion is left of it. Next to a mover, flow is wrong where the mover hides the
background, but rarely before *and* after: what counts is the smaller of both sides. A pixel that half a second away
looks as it does now, at its place at rest, does not move whatever flow says; nor does a clear sky, where flow guesses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from unproject.inference.view import View, flow_between, inside, landing, length, lookup, relative_depth

FLOW_STEPS = (-4, -1, 1, 4)
LOOK_STEPS = (-12, -6, 6, 12)
MOVING_PX = 0.7
USUAL_PX = 0.2
"""Median of what is left of flow at rest, where the camera is right."""
LEAST_AREA = 40
"""Pixels of a mover that must move twice as far as the threshold."""
GREY_NOISE = 6.0
CHANGED = 0.35
"""Difference in brightness, in units of noise, below which a patch is the same."""
PATCH = 7
TEXTURE, LEAST_TO_FIT = 0.7, 16
"""Slope of grey per pixel in a patch that is not plain sky; so many places of it, 4 pixels apart, fix a homography."""
SHIFT_PX, LEAST_SHIFTED = 8.0, 4
"""How far the scene must go in the image, in how many frames, to tell it from what sticks to the camera."""
SURVIVAL = 0.4
"""Share of texture left in the mean of frames; a ninth is left of what moves."""


@dataclass(frozen=True, kw_only=True)
class Rest:
    """Where a frame's pixels would be seen in a nearby frame if nothing moved."""

    step: int
    """Frames from the frame to the nearby one."""
    grey: UInt8[np.ndarray, "h w"]
    """The nearby frame."""
    uv: Float32[np.ndarray, "H W 2"]
    slack: Float32[np.ndarray, "H W 2"] | None = None
    """Pixels that the match may move for lack of knowledge of depth."""


def motion(grey: UInt8[np.ndarray, "H W"], nearby: Sequence[Rest]) -> Float32[np.ndarray, "H W"]:
    """Probability that a pixel's surface moves, above 0.5 in whole movers; zero without any nearby frame."""
    near = [rest for rest in nearby if rest.step in FLOW_STEPS]
    if not near:
        return np.zeros(grey.shape, np.float32)
    unexplained = _smaller_side(near, [_unexplained_flow(grey, rest) for rest in near])
    changed = np.full(grey.shape, np.inf, np.float32)
    for steps in (LOOK_STEPS, (-4, 4), (-1, 1)):  # the nearer ones at the edge of a fast pan, and in a short clip
        unseen = np.isinf(changed)
        if unseen.any():
            changed[unseen] = _least_change(grey, [rest for rest in nearby if rest.step in steps])[unseen]
    unexplained *= changed > CHANGED
    unexplained[~_textured(grey)] = 0
    return _whole_movers(unexplained)


def _unexplained_flow(grey: np.ndarray, rest: Rest) -> Float32[np.ndarray, "H W"]:
    """Pixels of flow beyond rest; NaN where the other frame does not see the place.

    Scaled down where most of the image disobeys the camera: then the camera is wrong (blur, rolling shutter).
    """
    flow = flow_between(grey, lookup(rest.grey, rest.uv))
    if rest.slack is not None:
        square = np.einsum("hwc,hwc->hw", rest.slack, rest.slack)
        share = np.einsum("hwc,hwc->hw", flow, rest.slack) / np.maximum(square, 1e-12)
        flow -= np.clip(share, -1, 1)[..., None] * rest.slack
    size, seen = length(flow), inside(rest.uv, rest.grey)
    common = np.median(size) / USUAL_PX
    firm = size[seen & _textured(grey)]
    if rest.slack is None and len(firm):  # a turn is the same for all; depth is worst where there is no texture
        common = min(common, np.median(firm) / USUAL_PX)
    size /= max(common, 1)
    size[~seen] = np.nan
    return size


def _smaller_side(rests: Sequence[Rest], sizes: Sequence[np.ndarray]) -> Float32[np.ndarray, "H W"]:
    """The larger of one side in time, the smaller of the two sides; where one side is all there is, its smallest."""
    sides = [[size for rest, size in zip(rests, sizes, strict=True) if rest.step * sign > 0] for sign in (-1, 1)]
    before, after = (np.fmax.reduce(side) if side else np.full_like(sizes[0], np.nan) for side in sides)
    alone = np.fmin.reduce(sizes)
    both = np.minimum(before, after)
    return np.nan_to_num(np.where(np.isnan(both), alone, both))


def _least_change(grey: np.ndarray, rests: Sequence[Rest]) -> Float32[np.ndarray, "H W"]:
    """Smallest change over some frames; infinite where none of them sees the place."""
    return np.min([np.full(grey.shape, np.inf, np.float32), *(_changed(grey, rest) for rest in rests)], 0)


def _changed(grey: np.ndarray, rest: Rest) -> Float32[np.ndarray, "H W"]:
    """Difference from a frame some way off, of patches, in units of noise and of what half a pixel of shift does."""
    then = cv2.GaussianBlur(lookup(rest.grey, rest.uv), (3, 3), 0).astype(np.float32)
    now = cv2.GaussianBlur(grey, (3, 3), 0).astype(np.float32)
    slope = (np.abs(cv2.Sobel(then, -1, 1, 0)) + np.abs(cv2.Sobel(then, -1, 0, 1))) / 8
    difference = cv2.blur(np.abs(now - then) / (GREY_NOISE + slope), (PATCH, PATCH))
    difference[~inside(rest.uv, rest.grey)] = np.inf
    return difference


def _whole_movers(unexplained: np.ndarray) -> Float32[np.ndarray, "H W"]:
    """Specks removed, gaps closed, components kept that somewhere move beyond doubt."""
    clear = cv2.medianBlur(unexplained, 5)
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    closed = cv2.morphologyEx((clear > MOVING_PX).astype(np.uint8), cv2.MORPH_CLOSE, ellipse)
    count, label = cv2.connectedComponents(closed)
    sure = np.bincount(label[clear > 2 * MOVING_PX], minlength=count) > LEAST_AREA
    sure[0] = False
    odds = (clear / MOVING_PX) ** 2
    soft = odds / (1 + odds)
    return np.where(sure[label], 0.5 + 0.5 * soft, 0.5 * soft).astype(np.float32)


def rest_by_depth(
    view: View, other: View, step: int, inverse_depth: Float32[np.ndarray, "H W"], error: Float32[np.ndarray, "H W"]
) -> Rest:
    """Rest by known cameras and depth; ``error`` is the relative error of inverse depth."""
    uv = landing(view, other, inverse_depth)
    slack = landing(view, other, inverse_depth * (1 + error)) - uv if step in FLOW_STEPS else None
    return Rest(step=step, grey=other.grey, uv=uv, slack=slack)


def rest_by_homography(
    target_from_source: Float[np.ndarray, "3 3"], shape: tuple[int, int], target: UInt8[np.ndarray, "h w"], step: int
) -> Rest:
    """Rest for a camera that only turns or zooms; ``shape`` is that of the frame itself."""
    height, width = shape
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y, z = np.einsum("rc,chw->rhw", target_from_source, np.stack([u, v, np.ones_like(u)]))
    return Rest(step=step, grey=target, uv=np.stack([x / z, y / z], -1).astype(np.float32))


def turn(
    source: UInt8[np.ndarray, "H W"], target: UInt8[np.ndarray, "h w"], start: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "3 3"]:
    """Homography target_from_source of most of the texture, by flow from ``start``, or ``start`` where flow does worse.

    A fundamental matrix would take a mover for parallax. A sky can be most of an image: only texture is asked, and
    only what the target sees.
    """
    rows, columns = np.nonzero(_textured(source)[2::4, 2::4])
    rows, columns = rows * 4 + 2, columns * 4 + 2
    found, best, least = start, start, np.inf
    for threshold_px in (1.0, 0.5, None):
        rest = rest_by_homography(found, source.shape, target, 1)
        seen = inside(rest.uv, target)[rows, columns]
        if seen.sum() < LEAST_TO_FIT:
            break
        flow = flow_between(source, lookup(target, rest.uv))[rows, columns][seen]
        left_px = float(np.median(length(flow)))
        if left_px < least:
            best, least = found, left_px
        if threshold_px is None:
            break
        places = np.stack([columns, rows], -1)[seen] + 0.5
        change, _ = cv2.findHomography(
            places, places + flow, cv2.USAC_MAGSAC, threshold_px, maxIters=2000, confidence=0.999
        )
        found = found if change is None else found @ change
    return best


def _textured(grey: UInt8[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels in whose patch grey changes by `TEXTURE` per pixel: in a clear sky flow is a guess."""
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 0.7)
    square = cv2.Scharr(smooth, -1, 1, 0) ** 2 + cv2.Scharr(smooth, -1, 0, 1) ** 2
    return cv2.blur(square, (PATCH, PATCH)) > (32 * TEXTURE) ** 2


def stuck_to_image(
    view: View, others: Sequence[View], inverse_depth: Float32[np.ndarray, "H W"]
) -> Bool[np.ndarray, "H W"]:
    """Pixels that stay put in the image while the camera moves: a watermark, a bonnet, a robot's gripper.

    Only texture that stays put survives the mean of several images; it must survive better there than in the mean of
    images moved to where the scene at rest would be seen. All False unless enough of the others see the scene
    elsewhere, at its depth and at infinity alike.
    """
    put, gone = [view.grey], [view.grey]
    for other in others:
        if other.grey.shape == view.grey.shape:
            places = [landing(view, other, w) for w in (inverse_depth, np.zeros_like(inverse_depth))]
            if all(np.median(length(uv - view.pixels)) > SHIFT_PX for uv in places):
                put.append(other.grey)
                gone.append(lookup(other.grey, places[0]))
    if len(put) <= LEAST_SHIFTED:
        return np.zeros(view.grey.shape, bool)
    survived = _surviving_texture(put)
    stuck = ((survived > SURVIVAL) & (survived > _surviving_texture(gone) + SURVIVAL / 2)).astype(np.uint8)
    closed = cv2.morphologyEx(stuck, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    _, label, stats, _ = cv2.connectedComponentsWithStats(opened)
    large = stats[:, cv2.CC_STAT_AREA] > 4 * LEAST_AREA
    large[0] = False
    return large[label]


def _surviving_texture(greys: Sequence[np.ndarray]) -> Float32[np.ndarray, "H W"]:
    """Share of the variance of patches that their mean over the images still has."""
    texture = [grey - cv2.blur(grey, (PATCH, PATCH)) for grey in (one.astype(np.float32) for one in greys)]
    single = np.mean([cv2.blur(one**2, (PATCH, PATCH)) for one in texture], 0)
    return cv2.blur(np.mean(texture, 0) ** 2, (PATCH, PATCH)) / (single + GREY_NOISE)


def standing_depth(
    moving: Bool[np.ndarray, "H W"], depth_at_rest: Float32[np.ndarray, "H W"]
) -> Float32[np.ndarray, "H W"]:
    """Depth of movers under an assumption: each stands upright where its lowest pixels touch what is at rest.

    ``depth_at_rest`` is the scene without movers. A mover is never behind it.
    """
    depth = depth_at_rest.copy()
    count, label, stats, _ = cv2.connectedComponentsWithStats(moving.astype(np.uint8))
    height = len(moving)
    for number in range(1, count):
        left, top, wide, tall = stats[number, :4]
        foot = min(top + tall, height - 1)  # the first row below it
        columns = np.flatnonzero(label[top + tall - 1, left : left + wide] == number) + left
        contact = np.median(depth_at_rest[foot, columns])
        mine = label == number
        depth[mine] = np.minimum(depth[mine], contact)
    return depth


def displacement(
    view: View,
    following: View,
    depth: Float32[np.ndarray, "H W"],
    moving: Bool[np.ndarray, "H W"],
) -> Float32[np.ndarray, "H W 3"]:
    """World-frame way of each pixel's surface until the next frame; zero at rest.

    Assumes that movers keep their depth in the next camera: one flow cannot tell motion along the ray.
    """
    out = np.zeros((*depth.shape, 3), np.float32)
    if not moving.any():
        return out
    uv = landing(view, following, 1 / depth)
    flow = flow_between(view.grey, lookup(following.grey, uv))
    seen = lookup(uv, view.pixels + flow)
    later_depth = depth * relative_depth(view, following, 1 / depth)
    now = _to_world(view, view.rays * depth[..., None])
    then = _to_world(following, lookup(following.rays, seen) * later_depth[..., None])
    out[moving] = (then - now)[moving]
    return out


def _to_world(view: View, points: Float32[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "H W 3"]:
    pose = view.world_from_cam.astype(np.float32)
    return np.einsum("rc,hwc->hwr", pose[:3, :3], points) + pose[:3, 3]
