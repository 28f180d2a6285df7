"""The solver's derivatives, its Schur complement and its two storage forms, each against a slow obvious twin."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from track_world import HEIGHT, WIDTH, TrackWorld, make_world, similarity_error

from unproject.inference import bundle, reprojection
from unproject.inference.bundle import Free
from unproject.inference.reprojection import Observations, State
from unproject.losses.weak import cauchy, registration_residual_px


def observations(world: TrackWorld) -> Observations:
    rows = world.tracks
    return Observations(
        view=rows.view.numpy(),
        point=rows.track.numpy(),
        xy=rows.uv.numpy().astype(float) - [WIDTH / 2, HEIGHT / 2],
        weight=rows.weight.numpy().astype(float),
    )


def truth(world: TrackWorld, radial: float = 0.0) -> State:
    return State(
        rotation=world.rotation,
        centre=world.centre,
        points=world.points,
        log_focal=np.log([world.focal]),
        radial=np.array([radial]),
        group=np.zeros(len(world.centre), int),
    )


def all_free(views: int, *, lens: bool = True) -> Free:
    loose = np.arange(views) > 0
    return Free(rotation=loose, centre=loose, focal=np.array([lens]), radial=np.array([lens]))


def test_residual_is_the_registration_loss() -> None:
    world = make_world(4, 30)
    seen, state = observations(world), truth(world)
    pose = torch.eye(4, dtype=torch.float64).repeat(len(seen), 1, 1)
    pose[:, :3, :3] = torch.as_tensor(state.rotation[seen.view])
    pose[:, :3, 3] = torch.as_tensor(state.centre[seen.view])
    focal = torch.full((len(seen),), world.focal, dtype=torch.float64)
    rays = torch.as_tensor(reprojection.unit_rays(seen.xy, focal.numpy()))
    expected = registration_residual_px(torch.as_tensor(state.points[seen.point]), pose, rays, focal)
    found = reprojection.residuals("angle", seen, state)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-9)
    cost = cauchy(expected, 2.0).sum().item()
    assert reprojection.robust_cost(found, np.ones(len(seen)), 2.0) == pytest.approx(cost)


@pytest.mark.parametrize("kind", ["angle", "pixel"])
def test_derivatives_are_finite_differences(kind: reprojection.Residual) -> None:
    world = make_world(3, 20, noise_px=5.0, radial=0.05)
    seen, state = observations(world), truth(world, radial=0.07)
    jacobian = reprojection.linearise(kind, seen, state).jacobian
    step = 1e-6

    def difference(view: np.ndarray, group: np.ndarray, point: np.ndarray) -> np.ndarray:
        ends = [
            reprojection.residuals(kind, seen, reprojection.moved(state, s * view, s * group, s * point))
            for s in (step, -step)
        ]
        return (ends[0] - ends[1]).T / (2 * step)

    for column in range(6):
        view = np.eye(6)[None, column].repeat(3, 0)
        expected = jacobian[:, column] if column < 3 else -jacobian[:, column + 2]
        np.testing.assert_allclose(difference(view, np.zeros((1, 2)), np.zeros(3)), expected, atol=1e-4)
    for column in range(3):
        found = difference(np.zeros((3, 6)), np.zeros((1, 2)), np.eye(3)[column])
        np.testing.assert_allclose(found, jacobian[:, 5 + column], atol=1e-4)
    for column in range(1 if kind == "angle" else 2):  # the angle stages keep k1 out
        found = difference(np.zeros((3, 6)), np.eye(2)[None, column], np.zeros(3))
        np.testing.assert_allclose(found, jacobian[:, 3 + column], atol=1e-4)


def test_focal_derivative_needs_the_residual_term() -> None:
    """Planted fault: leaving the residual out of d/dlog f (the focal then sticks) is seen by the test above."""
    world = make_world(3, 20, noise_px=5.0)
    lin = reprojection.linearise("angle", observations(world), truth(world))
    assert np.abs(lin.residual).max() > 1.0  # the term is not small, so the 1e-4 above would fail without it


def dense_step(seen: Observations, state: State, free: Free, scale: float, damping: float) -> np.ndarray:
    """One damped step from the full matrix of normal equations, nothing eliminated."""
    lin = reprojection.linearise("pixel", seen, state)
    views, points = len(state.rotation), len(state.points)
    full = np.zeros((len(seen), 2, 6 * views + 2 + 3 * points))
    for row in range(len(seen)):
        view, point = seen.view[row], seen.point[row]
        block = lin.jacobian[:, :, row]
        full[row, :, 6 * view : 6 * view + 3] = block[:, :3] * free.rotation[view]
        full[row, :, 6 * view + 3 : 6 * view + 6] = -block[:, 5:] * free.centre[view]
        full[row, :, 6 * views : 6 * views + 2] = block[:, 3:5]
        full[row, :, 6 * views + 2 + 3 * point :][:, :3] = block[:, 5:]
    weight = 1 / (1 + (lin.residual**2).sum(0) / scale**2)
    full, residual = full.reshape(2 * len(seen), -1), lin.residual.T.ravel()
    pulled = full * weight.repeat(2)[:, None]
    hessian, gradient = pulled.T @ full, pulled.T @ residual
    diagonal = np.diag(hessian)
    return np.linalg.solve(hessian + np.diag(np.where(diagonal > 0, damping * diagonal + 1e-12, 1.0)), -gradient)


@pytest.mark.parametrize("dense_views", [100, 0])
def test_elimination_equals_the_full_system(dense_views: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "DENSE_VIEWS", dense_views)  # 0: the sparse form
    world = make_world(4, 25, noise_px=2.0)
    seen, state, free = observations(world), truth(world), all_free(4)
    system = bundle._System(seen, state, free)
    lin = reprojection.linearise("pixel", seen, state)
    system.form(lin, 1 / (1 + (lin.residual**2).sum(0) / 4.0))
    found = np.concatenate([part.ravel() for part in system.step(1e-3)])
    np.testing.assert_allclose(found, dense_step(seen, state, free, 2.0, 1e-3), rtol=1e-5, atol=1e-9)


def test_solves_from_coincident_centres() -> None:
    world = make_world(8, 200, noise_px=0.2)
    seen, state = observations(world), truth(world)
    start = replace(state, centre=1e-2 * np.random.default_rng(0).normal(size=(8, 3)))
    rays = np.einsum("oij,oj->oi", state.rotation[seen.view], reprojection.unit_rays(seen.xy, state.focal[seen.view]))
    far = np.zeros((200, 3))
    np.add.at(far, seen.point, rays)
    start = replace(start, points=far / np.linalg.norm(far, axis=1, keepdims=True))
    loose = np.arange(8) > 0
    none = np.array([False])
    free = Free(rotation=loose & False, centre=loose, focal=none, radial=none)
    placed = bundle.solve(seen, start, free, kind="angle", scale_px=100.0, iterations=40)
    assert similarity_error(placed.centre, world.centre) < 0.02


def test_frozen_things_stay() -> None:
    world = make_world(5, 60, noise_px=1.0)
    seen, state = observations(world), truth(world)
    none, one = np.zeros(5, bool), np.array([False])
    moved = bundle.solve(
        seen, state, Free(rotation=none, centre=none, focal=one, radial=one), kind="pixel", scale_px=1.0, iterations=5
    )
    assert (moved.rotation == state.rotation).all() and (moved.centre == state.centre).all()
    assert moved.log_focal == state.log_focal and (moved.points != state.points).any()
    free = Free(rotation=~none, centre=~none, focal=one, radial=one, points=False)
    moved = bundle.solve(seen, state, free, kind="pixel", scale_px=1.0, iterations=5)
    assert (moved.points == state.points).all() and (moved.centre != state.centre).any()
    with pytest.raises(ValueError, match="free points"):
        bundle.solve(seen, state, replace(free, focal=~one), kind="pixel", scale_px=1.0, iterations=1)


def test_points_behind_the_camera_are_outliers_in_pixels_and_turn_back_in_angles() -> None:
    world = make_world(2, 10, noise_px=0.0)
    seen, state = observations(world), truth(world)
    behind = replace(state, points=state.points + 2 * (state.centre[0] - state.points))
    assert (reprojection.residuals("pixel", seen, behind)[seen.view == 0] == 1e4).all()
    chord = np.linalg.norm(reprojection.residuals("angle", seen, behind)[seen.view == 0], axis=1)
    np.testing.assert_allclose(chord, 2 * world.focal, rtol=1e-6)  # the far end of the scale, not beyond it
