import math
from dataclasses import replace

import pytest
import torch

from unproject.data.raycast import NEAREST
from unproject.data.scene import FIRST_SOLID, SKY
from unproject.data.synthetic import (
    SKY_DEPTH,
    Rendering,
    covisibility,
    follow,
    handheld,
    observations,
    optical_flow,
    orbit,
    photo_orbit,
    planar_clip,
    render,
    sample_planar_world,
    sample_world,
    scene_flow,
    standing_clip,
    target_points,
    turning_clip,
    world_points,
)
from unproject.geometry.camera import intrinsics_from_focal, pixel_grid, project, unproject
from unproject.geometry.flow import induced_flow, sample
from unproject.geometry.rigid import inverse, so3_exp, transform

HEIGHT, WIDTH = 48, 64


def rendering(seed=0, batch=3, views=3, moving=True, dtype=torch.float32, ring=False):
    world = sample_world(seed, batch=batch, moving=moving, dtype=dtype, ring=ring)
    path = (orbit if ring else handheld)(world.stage, seed, duration_s=1.0)
    times = torch.linspace(0.1, 0.9, views, dtype=dtype).repeat(batch, 1)
    focal = torch.linspace(50, 80, batch, dtype=dtype)[:, None].expand(batch, views)
    return render(world, path, times, intrinsics_from_focal(focal, WIDTH, HEIGHT), HEIGHT, WIDTH)


def solve_ray(world, local_from_world, origin, direction):
    """The slow, obvious twin: (depth, surface) of one ray, solid by solid, in plain Python numbers."""
    best, met = math.inf, None
    centre, half, is_open = world.room.centre[0].tolist(), world.room.half[0].tolist(), world.room.open[0].tolist()
    for face in range(6):
        axis, side = face // 2, face % 2 * 2 - 1
        if direction[axis] * side > 0:
            distance = (centre[axis] + side * half[axis] - origin[axis]) / direction[axis]
            if distance < best:
                best, met = distance, SKY if is_open[face] else face
    if met == SKY:
        best = SKY_DEPTH
    for number, kind in enumerate(world.solids.kind):
        rows, size = local_from_world[number], world.solids.half[0, number].tolist()
        start = [(dot(row[:3], origin) + row[3]) / length for row, length in zip(rows, size, strict=False)]
        step = [dot(row[:3], direction) / length for row, length in zip(rows, size, strict=False)]
        distance = enter_box(start, step) if kind == "box" else enter_ball(start, step)
        if distance is not None and NEAREST < distance < best:
            best, met = distance, FIRST_SOLID + number
    return best, met


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def enter_box(start, step):
    """The nearest crossing of one of six planes that lies on the cube."""
    hits = []
    for axis in range(3):
        for side in (-1.0, 1.0):
            if step[axis] != 0:
                distance = (side - start[axis]) / step[axis]
                others = [start[k] + distance * step[k] for k in range(3) if k != axis]
                if all(abs(value) <= 1 for value in others):
                    hits.append(distance)
    return min(hits) if hits else None


def enter_ball(start, step):
    a = sum(s * s for s in step)
    b = sum(s * o for s, o in zip(step, start, strict=True))
    c = sum(o * o for o in start) - 1
    return (-b - math.sqrt(b * b - a * c)) / a if b * b > a * c else None


def test_depth_and_surfaces_equal_the_ray_by_ray_twin():
    for seed in range(4):
        made = rendering(seed, batch=1, views=1, dtype=torch.float64)
        bodies = made.world.bodies.world_from_body(made.times)[0, 0, list(made.world.solids.body)]
        local_from_world = inverse(bodies @ made.world.solids.body_from_solid[0])[:, :3].tolist()
        eye, turn = made.world_from_cam[0, 0, :3, 3], made.world_from_cam[0, 0, :3, :3]
        rays = unproject(torch.ones(HEIGHT, WIDTH, dtype=torch.float64), made.intrinsics[0, 0]) @ turn.mT
        for pixel in torch.randperm(HEIGHT * WIDTH)[:150].tolist():
            row, column = divmod(pixel, WIDTH)
            depth, surface = solve_ray(made.world, local_from_world, eye.tolist(), rays[row, column].tolist())
            assert surface == made.surface[0, 0, row, column].item()
            assert depth == pytest.approx(made.depth[0, 0, row, column].item(), rel=1e-9)


def test_a_pixel_moved_by_scene_flow_projects_where_optical_flow_says():
    made = rendering()
    now = transform(made.world_from_cam[:, 0], made.points[:, 0].flatten(1, 2))
    moved = now + scene_flow(made, 0, 2).flatten(1, 2)
    seen = transform(inverse(made.world_from_cam[:, 2]), moved)
    landed = project(seen, made.intrinsics[:, 2]).unflatten(1, (HEIGHT, WIDTH))
    known = made.valid[:, 0] & (seen[..., 2].unflatten(1, (HEIGHT, WIDTH)) > 0.1)
    error = (landed - pixel_grid(HEIGHT, WIDTH) - optical_flow(made, 0, 2)).norm(dim=-1)
    assert known.float().mean() > 0.5
    assert error[known].max() < 2e-3


def test_what_stands_still_has_no_scene_flow_and_what_moves_has():
    made = rendering(seed=1, batch=6)
    speed = scene_flow(made, 0, 2).norm(dim=-1)
    assert speed[~made.motion[:, 0]].max() < 1e-4
    assert speed[made.motion[:, 0]].median() > 0.01


def test_static_flow_is_the_flow_that_the_camera_induces():
    made = rendering(moving=False)
    target_from_source = inverse(made.world_from_cam[:, 1]) @ made.world_from_cam[:, 0]
    induced, known = induced_flow(made.depth[:, 0], made.intrinsics[:, 0], made.intrinsics[:, 1], target_from_source)
    known = known & made.valid[:, 0]
    assert (induced - optical_flow(made, 0, 1))[known].abs().max() < 5e-3


def test_sky_flows_as_a_point_at_infinity():
    made = rendering(seed=3, batch=12)
    sky = ~made.valid[:, 0]
    assert sky.any()
    turn = made.world_from_cam[:, 1, :3, :3].mT @ made.world_from_cam[:, 0, :3, :3]
    points = made.points[:, 0].flatten(1, 2) @ turn.mT
    landed = project(points, made.intrinsics[:, 1]).unflatten(1, (HEIGHT, WIDTH))
    flow = landed - pixel_grid(HEIGHT, WIDTH)
    assert (flow - optical_flow(made, 0, 1))[sky].abs().max() < 2e-3
    assert made.depth[:, 0][sky].unique().tolist() == [SKY_DEPTH]


def test_covisible_pixels_keep_their_colour():
    made = rendering(moving=False, batch=4)
    seen = covisibility(made, 0, 1)
    landed = pixel_grid(HEIGHT, WIDTH) + optical_flow(made, 0, 1)
    there, _ = sample(made.images[:, 1].movedim(1, -1), landed)
    error = (there - made.images[:, 0].movedim(1, -1)).abs().mean(-1)
    assert seen.float().mean() > 0.4
    assert error[seen].median() < 0.02
    hidden = ~seen & made.valid[:, 0] & (landed > 0).all(-1) & (landed < landed.new_tensor([WIDTH, HEIGHT])).all(-1)
    assert error[hidden].median() > 3 * error[seen].median()


def test_covisibility_agrees_with_the_depth_buffer():
    """Twin: look the target's depth map up; the two may differ only beside depth edges."""
    made = rendering(seed=5, batch=4)
    seen = covisibility(made, 0, 2)
    points = target_points(made, 0, 2)
    landed = pixel_grid(HEIGHT, WIDTH) + optical_flow(made, 0, 2)
    nearest = landed.floor().long()
    inside = (nearest >= 0).all(-1) & (nearest[..., 0] < WIDTH) & (nearest[..., 1] < HEIGHT)
    column, row = nearest[..., 0].clamp(0, WIDTH - 1), nearest[..., 1].clamp(0, HEIGHT - 1)
    world = torch.arange(4)[:, None, None]
    surface, depth = made.surface[world, 2, row, column], made.depth[world, 2, row, column]
    same = (surface == made.surface[:, 0]) & ((depth - points[..., 2]).abs() < 0.15 * points[..., 2])
    twin = inside & (points[..., 2] > 0) & (same | ((surface == SKY) & (made.surface[:, 0] == SKY)))
    assert 0.3 < seen.float().mean() < 0.99
    assert (seen != twin).float().mean() < 0.03


def test_a_wrong_pose_is_caught():
    made = rendering(moving=False)
    turn = torch.eye(4)
    turn[:3, :3] = so3_exp(torch.tensor([0.0, math.radians(1.0), 0.0]))
    wrong = made.world_from_cam.clone()
    wrong[:, 1] = wrong[:, 1] @ turn
    faulty = replace(made, world_from_cam=wrong)
    right = covisibility(made, 0, 1)
    landed = pixel_grid(HEIGHT, WIDTH) + optical_flow(faulty, 0, 1)
    there, _ = sample(made.images[:, 1].movedim(1, -1), landed)
    error = (there - made.images[:, 0].movedim(1, -1)).abs().mean(-1)[right]
    truth, _ = sample(made.images[:, 1].movedim(1, -1), pixel_grid(HEIGHT, WIDTH) + optical_flow(made, 0, 1))
    assert error.mean() > 1.3 * (truth - made.images[:, 0].movedim(1, -1)).abs().mean(-1)[right].mean()


def test_no_time_and_no_step_change_nothing():
    made = rendering(seed=7)
    assert scene_flow(made, 0, 0).abs().max() < 1e-4
    assert torch.allclose(target_points(made, 1, 1), made.points[:, 1], rtol=1e-4, atol=1e-3)
    assert optical_flow(made, 2, 2).abs().max() < 1e-2
    assert covisibility(made, 1, 1).float().mean() > 0.999


def test_points_stay_where_they_are_on_their_body_seen_or_hidden():
    made = rendering(seed=7, dtype=torch.float64)
    now, then = world_points(made, 0, made.times[:, 0]), world_points(made, 0, made.times[:, 2])
    poses = made.world.bodies.world_from_body(made.times)
    body = made.world.surface_body()[made.surface[:, 0].long()]
    hidden = ~covisibility(made, 0, 2) & made.motion[:, 0]
    assert hidden.sum() > 50
    for number in range(1, poses.shape[2]):
        here = transform(inverse(poses[:, 0, number]), now.flatten(1, 2))
        there = transform(inverse(poses[:, 2, number]), then.flatten(1, 2))
        assert (here - there).abs().amax(-1)[(body == number).flatten(1)].max() < 1e-6
    assert (now - then).norm(dim=-1)[hidden].median() > 0.01


def test_the_same_seed_gives_the_same_views_and_another_gives_others():
    first, second, other = rendering(11, batch=1), rendering(11, batch=1), rendering(12, batch=1)
    assert torch.equal(first.images, second.images) and torch.equal(first.depth, second.depth)
    assert not torch.equal(first.images, other.images)


def test_batched_equals_one_by_one():
    made = rendering(13, batch=3)
    pairs = torch.tensor([[0, 1], [2, 0]])
    labels = made.labels(pairs)
    for number in range(3):
        one = made.select(number)
        path = handheld(made.world.stage, 13, duration_s=1.0)
        alone_path = type(path)(**{name: getattr(path, name)[[number]] for name in vars(path)})
        alone = render(one.world, alone_path, one.times, one.intrinsics, HEIGHT, WIDTH)
        assert torch.allclose(alone.images[0], made.images[number], atol=1e-4)
        assert (alone.surface[0] == made.surface[number]).all()
        flow = alone.labels(pairs).flow
        assert torch.allclose(flow.value[0], labels.flow.value[number], atol=1e-2, rtol=1e-3)
        assert (flow.weight[0] == labels.flow.weight[number]).float().mean() > 0.999


def test_float32_equals_float64():
    single, double = rendering(17), rendering(17, dtype=torch.float64)
    same = single.surface == double.surface
    assert same.float().mean() > 0.999
    error = ((single.depth - double.depth) / double.depth).abs()[same]
    assert error.quantile(0.999) < 1e-4
    assert ((single.images - double.images).abs().amax(2)[same] < 0.02).float().mean() > 0.995


@pytest.mark.parametrize(("ring", "seeds"), [(False, 10), (True, 4)])
def test_everything_is_finite_and_no_camera_is_inside_anything(ring, seeds):
    for seed in range(seeds):
        made = rendering(seed, batch=20, views=2, ring=ring)
        labels = made.labels(torch.tensor([[0, 1]]))
        known = [labels.points, labels.flow, labels.target_points, labels.world_from_cam, labels.intrinsics]
        for tensor in [made.images, *(part.value for part in known), *(part.weight for part in known)]:
            assert torch.isfinite(tensor).all()
        assert made.depth.min() > 0.1 and made.depth.max() <= SKY_DEPTH
        assert made.images.min() >= 0 and made.images.max() <= 1
        assert clearance(made).min() > 0.1


def clearance(made: Rendering):
    """Distance of the cameras from every solid's bounding box and from the room's faces, at many times."""
    world = made.world
    times = torch.linspace(-0.2, 1.2, 40).repeat(world.batch, 1)
    path = handheld(world.stage, 0, duration_s=1.0) if bool((world.stage.inner == 0).all()) else None
    path = path or orbit(world.stage, 0, duration_s=1.0)
    eye = path.world_from_cam(times)[..., :3, 3]
    poses = world.bodies.world_from_body(times)[:, :, list(world.solids.body)] @ world.solids.body_from_solid[:, None]
    local = transform(inverse(poses), eye[:, :, None, None])[..., 0, :]
    outside = (local.abs() - world.solids.half[:, None]).clamp(min=0).norm(dim=-1)
    walls = world.room.half[:, None] - (eye - world.room.centre[:, None]).abs()
    return torch.cat([outside.flatten(), walls.flatten()])


def test_worlds_are_worth_looking_at():
    """Over many worlds: several objects in view, movers often, focal and brightness of a photograph, contrast."""
    made = rendering(100, batch=60, views=1)
    objects = torch.tensor([len(image.unique()) for image in made.instance])
    assert objects.float().mean() > 6 and objects.min() >= 2
    assert 0.02 < made.motion.float().mean() < 0.3
    assert 0.25 < made.images.mean() < 0.6
    assert made.images.std(dim=(1, 2, 3, 4)).min() > 0.04
    overexposed = (made.images > 0.999).all(2).float().mean()
    assert overexposed < 0.05


def test_tracks_follow_surfaces_and_their_visibility():
    made = rendering(seed=4, batch=2, views=4)
    generator = torch.Generator().manual_seed(0)
    row, column = made.valid[1, 1].nonzero(as_tuple=True)
    chosen = torch.randperm(len(row), generator=generator)[:200]
    row, column = row[chosen], column[chosen]
    tracks = follow(made, torch.stack([column, row], dim=-1), source=1, world=1)
    assert torch.allclose(tracks.uv[1], torch.stack([column, row], dim=-1) + 0.5, atol=2e-3)
    assert tracks.visible[1].all()
    flow, seen = optical_flow(made, 1, 3)[1, row, column], covisibility(made, 1, 3)[1, row, column]
    assert torch.allclose(tracks.uv[3] - tracks.uv[1], flow, atol=5e-3)
    assert (tracks.visible[3] == seen).float().mean() > 0.99
    travelled = (tracks.xyz[3] - tracks.xyz[0]).norm(dim=-1)
    assert travelled[~tracks.moving].max() < 1e-4
    rows = observations(tracks)
    assert len(rows.view) == int(tracks.visible.sum()) and rows.count == 200
    assert torch.equal(rows.uv[rows.track == 7], tracks.uv[tracks.visible[:, 7], 7])


def test_sky_cannot_be_tracked():
    made = rendering(seed=3, batch=12)
    world, view, row, column = (~made.valid).nonzero()[0].tolist()
    with pytest.raises(ValueError, match="sky cannot be tracked"):
        follow(made, torch.tensor([[column, row]]), source=view, world=world)


def test_degenerate_clips_are_what_they_say():
    turning = turning_clip(0, frames=4, height=24, width=32)
    assert torch.equal(turning.world_from_cam[:, :3, 3].unique(dim=0), turning.world_from_cam[:1, :3, 3])
    assert not torch.allclose(turning.world_from_cam[0], turning.world_from_cam[3])
    standing = standing_clip(0, frames=4, height=24, width=32)
    assert torch.equal(standing.world_from_cam.unique(dim=0), standing.world_from_cam[:1])
    assert standing.motion.any()
    for seed in range(12):
        planar = planar_clip(seed, frames=6, height=24, width=32)
        assert planar.rendering.surface.unique().tolist() == [FIRST_SOLID]
        assert (planar.world_from_cam[0, :3, 3] - planar.world_from_cam[-1, :3, 3]).norm() > 0.1
        assert not planar.motion.any()
    assert sample_planar_world(0, batch=2).batch == 2


def test_photos_of_an_orbit_see_one_object_from_all_along_an_arc():
    photos = photo_orbit(1, photos=6, sweep=2.0, height=48, width=64)
    direction = photos.world_from_cam[:, :2, 3]
    bearing = torch.atan2(direction[:, 1], direction[:, 0])
    swept = (bearing[-1] - bearing[0]).remainder(math.tau)
    assert swept.item() == pytest.approx(2.0, abs=0.3)
    table = (photos.rendering.instance[0] == 4).flatten(1).float().mean(-1)
    assert (table > 0.02).all()
