"""Matches that the network guides: where it sees a point, what is most alike there, and what joins the tracks."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.guided import Flow, GuidedMatches, Landings, agree, alike_near, guided_matches, land
from unproject.data.synthetic import ClipData, handheld_clip
from unproject.geometry.camera import rays
from unproject.geometry.rays import sampson_distance
from unproject.geometry.rigid import inverse, skew
from unproject.inference.evidence import Pictures
from unproject.io.source import open_source
from unproject.models.loading import shipped
from unproject.progress import silent
from unproject.teachers.matches import Features, PairMatches
from unproject.types import Tracks

SEEN = (0, 12, 24)
ONE = np.ones(2, np.float32)


def flow(shift: tuple[float, float], *, confidence: float = 1.0) -> Flow:
    return Flow(np.tile(np.array(shift, np.float32), (30, 40, 1)), np.full((30, 40), confidence, np.float32))


def points(count: int, seed: int = 0) -> Features:
    """Anywhere in 640 x 480, each with a look of its own."""
    rng = np.random.default_rng(seed)
    look = np.abs(rng.normal(size=(count, 128))).astype(np.float32)
    uv = rng.uniform(0, (640, 480), (count, 2)).astype(np.float32)
    return Features(uv, look / np.linalg.norm(look, axis=1, keepdims=True))


class TestLand:
    uv = np.array([[10.5, 10.5], [20.0, 12.0], [37.5, 5.5]], np.float32)

    def test_a_point_lands_where_flow_carries_it_at_any_scale(self) -> None:
        for scale in (1.0, 0.25):
            found = land(flow((3, -2)), flow((-3, 2)), self.uv / scale, scale * ONE)
            np.testing.assert_allclose(found.uv, self.uv + np.array([3, -2]), atol=1e-4)
            assert found.sure.tolist() == [True, True, False]  # the last one leaves the image

    def test_flow_that_does_not_come_back_is_not_believed(self) -> None:
        assert not land(flow((3, -2)), flow((0, 2)), self.uv, ONE).sure.any()
        assert land(flow((3, -2)), flow((-2, 2)), self.uv, ONE).sure.any()

    def test_nor_flow_that_is_not_sure_of_itself(self) -> None:
        assert not land(flow((3, -2), confidence=0.4), flow((-3, 2)), self.uv, ONE).sure.any()


class TestAlikeNear:
    reach_px = (10.0, 10.0)

    def exact(self, a: Features, b: Features) -> dict[str, Landings]:
        sure = np.ones(len(a.uv), bool)
        return {
            "forth": Landings(b.uv[: len(a.uv)], sure),
            "back": Landings(np.r_[a.uv, a.uv][: len(b.uv)], np.ones(len(b.uv), bool)),
        }

    def test_a_pattern_that_repeats_is_told_apart_by_place(self) -> None:
        """Every look twice in b, 300 px apart: the whole image has no clear match, and the place does."""
        a = points(40)
        both = np.concatenate([a.uv + 4, a.uv + np.array([300, 0])]).astype(np.float32)
        twice = Features(both, np.tile(a.descriptor, (2, 1)))
        best = np.sort(a.descriptor @ twice.descriptor.T, axis=1)
        np.testing.assert_allclose(best[:, -1], best[:, -2], atol=1e-6)
        index_a, index_b = alike_near(a, twice, **self.exact(a, twice), reach_px=self.reach_px)
        np.testing.assert_array_equal(index_a, np.arange(40))
        np.testing.assert_array_equal(index_b, np.arange(40))

    def test_nothing_beyond_reach_or_where_the_network_is_not_sure(self) -> None:
        a = points(40)
        b = Features(a.uv + np.float32(1), a.descriptor)
        sure = np.arange(40) % 2 == 0
        there = Landings(b.uv, sure)
        index_a, _ = alike_near(a, b, forth=there, back=Landings(a.uv, sure), reach_px=self.reach_px)
        np.testing.assert_array_equal(index_a, np.flatnonzero(sure))
        far = Landings(b.uv + np.float32(1000), sure)
        assert not len(alike_near(a, b, forth=far, back=Landings(a.uv, sure), reach_px=self.reach_px)[0])

    def test_as_one_would_do_it_by_hand(self) -> None:
        """A slow twin that looks at one point after the other."""
        rng = np.random.default_rng(1)
        a, noise = points(60), rng.normal(size=(60, 128))
        look = np.abs(a.descriptor + 0.05 * noise).astype(np.float32)
        b = Features(
            a.uv + rng.normal(size=(60, 2)).astype(np.float32), look / np.linalg.norm(look, axis=1, keepdims=True)
        )
        reach = 120.0
        given = {"forth": Landings(b.uv, np.ones(60, bool)), "back": Landings(a.uv, np.ones(60, bool))}
        found = alike_near(a, b, **given, reach_px=(reach, reach))
        slow = []
        for row in range(60):
            near = [
                (float(a.descriptor[row] @ b.descriptor[column]), column)
                for column in range(60)
                if np.linalg.norm(b.uv[row] - b.uv[column]) <= reach
                and np.linalg.norm(a.uv[column] - a.uv[row]) <= reach
            ]
            (best, column), *rest = sorted(near, reverse=True)
            second = rest[0][0] if rest else -1.0
            rivals = [
                float(a.descriptor[other] @ b.descriptor[column])
                for other in range(60)
                if np.linalg.norm(a.uv[column] - a.uv[other]) <= reach
                and np.linalg.norm(b.uv[other] - b.uv[column]) <= reach
            ]
            clear = 1 - best < 0.64 * (1 - second) and 2 - 2 * best < 0.64
            if clear and best >= max(rivals) - 1e-7:
                slow.append((row, column))
        assert len(slow) > 20 and list(zip(*(each.tolist() for each in found), strict=True)) == slow


def test_what_stays_put_does_not_speak() -> None:
    """Two thirds of the matches lie on a gripper, which any fundamental matrix explains."""
    rng = np.random.default_rng(0)
    cloud = rng.uniform((-2, -2, 4), (2, 2, 8), (60, 3))
    one, two = (600 * (cloud + step)[:, :2] / (cloud + step)[:, 2:] + 320 for step in (0, [0.5, 0.1, 0.2]))
    still = rng.uniform(0, 640, (120, 2))
    uv_a, uv_b = (np.concatenate([moving, still]).astype(np.float32) for moving in (one, two))
    good = agree(uv_a, uv_b)
    assert good[:60].mean() > 0.95 and not good[60:].any()


@pytest.fixture(scope="module")
def few() -> GuidedMatches:
    """Three views; point k of each is the same."""
    features = [points(20, seed) for seed in range(3)]
    index = np.arange(20)
    return GuidedMatches(features, [PairMatches(a, a + 1, index, index, 1.0) for a in range(2)])


def tracks_of(found: GuidedMatches, names: range, views: tuple[int, ...]) -> Tracks:
    uv = [found.features[view].uv[name] for name in names for view in views]
    return Tracks(
        view=torch.tensor(views * len(names)),
        track=torch.arange(len(names)).repeat_interleave(len(views)),
        uv=torch.as_tensor(np.stack(uv)),
        weight=torch.ones(len(uv)),
    )


def test_matches_join_tracks_that_were_there(few: GuidedMatches) -> None:
    before = tracks_of(few, range(5), (0, 2))
    joined = few.joined(before)
    assert joined.count == 20 and (joined.lengths() == 3).all()
    assert few.joined(before.select(torch.zeros(10, dtype=torch.bool))).count == 20


@pytest.fixture(scope="module")
def clip() -> ClipData:
    return handheld_clip(5, frames=25, moving=False)


@pytest.fixture
def pictures(clip: ClipData, tmp_path) -> Iterator[Pictures]:
    for view in SEEN:
        Image.fromarray(clip.images[view]).save(tmp_path / f"{view:03d}.png", compress_level=1)
    with Pictures(open_source(tmp_path)) as opened:
        for _ in opened.decode(silent):
            pass
        yield opened


def test_the_network_that_ships_guides_to_the_truth(clip: ClipData, pictures: Pictures) -> None:
    found = guided_matches(pictures, shipped("compact"), silent)
    assert len(found.pairs) == 3
    for pair in found.pairs:
        a, b = SEEN[pair.a], SEEN[pair.b]
        uv_a, uv_b = found.features[pair.a].uv[pair.index_a], found.features[pair.b].uv[pair.index_b]
        pose = inverse(clip.world_from_cam[b].double()) @ clip.world_from_cam[a].double()
        xy = [
            rays(torch.from_numpy(uv).double(), clip.intrinsics[view].double())[:, :2]
            for uv, view in ((uv_a, a), (uv_b, b))
        ]
        off_px = sampson_distance(skew(pose[:3, 3]) @ pose[:3, :3], *xy) * clip.intrinsics[a, 0, 0]
        assert len(off_px) > 30 and (off_px < 2).double().mean() > 0.9
