"""CoTracker on a stand-in: where points begin, in which pixels, and which rows remain."""

import numpy as np
import pytest
import torch
from stand_ins import HEIGHT, WIDTH, Network, inside, known_world

from unproject.teachers.base import Shot
from unproject.teachers.learned import _loaded
from unproject.teachers.learned_tracks import CoTrackerTeacher, tracks_of

WORLD = known_world(7)
SHOT = Shot(images=WORLD.images, views=(0, 2, 3, 6), pairs=())


@pytest.fixture(autouse=True)
def nothing_loaded():
    _loaded.cache_clear()


class CoTracker(Network):
    """Follows a plane exactly; pixel centres are at integers."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Linear(1, 1, bias=False)

    def forward(self, video, queries=None, segm_mask=None, grid_size=0, grid_query_frame=0, backward_tracking=False):
        self.admit()
        assert video.dtype == torch.float32 and video.shape == (1, 7, 3, HEIGHT, WIDTH) and video.max() > 200
        assert [WORLD.which(frame.permute(1, 2, 0)) for frame in video[0]] == list(range(7))
        assert queries.dtype == torch.float32 and queries.shape[0] == 1 and queries.shape[2] == 3
        assert backward_tracking
        self.queries = queries[0]
        uv = np.zeros((7, queries.shape[1], 2))
        for frame in range(7):
            for number, (begin, *place) in enumerate(queries[0].tolist()):
                uv[frame, number] = WORLD.carried(int(begin), frame, np.array(place) + 0.5)
        seen = torch.from_numpy(inside(uv))
        seen[3, ::2] = False  # hidden in one frame
        return torch.from_numpy(uv - 0.5).float()[None], seen[None]


@pytest.fixture
def network(monkeypatch):
    network = CoTracker()

    def load(repository, entry, *, pretrained, trust_repo, verbose):
        assert (repository, entry) == ("facebookresearch/co-tracker", "cotracker3_offline") and trust_repo
        network.pretrained = pretrained
        return network

    monkeypatch.setattr(torch.hub, "load", load)
    return network


def test_cotracker_sees_all_frames_and_points_begin_in_the_first_the_middle_and_the_last_view(network):
    tracks = CoTrackerTeacher(device="cpu", grid=6).label(SHOT).tracks
    assert network.asked == 1 and network.pretrained
    begin, x, y = network.queries.T
    assert sorted(set(begin.tolist())) == [0, 3, 6] and len(begin) == 3 * 36
    # Cells span the image: with centres at +0.5 their middles lie as far from one border as from the other.
    assert x.min() + 0.5 == pytest.approx(WIDTH - (x.max() + 0.5)) and x.unique().diff()[0] == pytest.approx(WIDTH / 6)
    assert y.min() + 0.5 == pytest.approx(HEIGHT - (y.max() + 0.5))
    assert set(tracks.view.tolist()) == {0, 1, 2, 3} and tracks.lengths().min() >= 2
    assert (tracks.weight == 1).all() and tracks.count > 60


def test_its_rows_lie_where_the_plane_moves_to_and_are_sorted(network):
    tracks = CoTrackerTeacher(device="cpu", grid=6).label(SHOT).tracks
    view, track, uv = tracks.view.numpy(), tracks.track.numpy(), tracks.uv.numpy()
    assert (np.lexsort((view, track)) == np.arange(len(view))).all()
    assert inside(uv).all()
    for number in range(tracks.count):
        first, *others = np.flatnonzero(track == number)
        for row in others:
            there = WORLD.carried(SHOT.views[view[first]], SHOT.views[view[row]], uv[first].astype(float))
            np.testing.assert_allclose(uv[row], there, atol=1e-3)
    hidden = np.bincount(view, minlength=4)
    assert hidden[2] < 0.7 * hidden[1]


def test_weights_come_from_a_file_and_are_not_fetched_then(network, tmp_path):
    state = torch.nn.Linear(1, 1, bias=False).state_dict()
    torch.save(state, tmp_path / "scaled_offline.pth")
    loaded = CoTrackerTeacher(device="cpu", weights=tmp_path / "scaled_offline.pth").network()
    assert not network.pretrained and torch.equal(loaded.model.weight, state["weight"])


def test_a_table_becomes_the_rows_that_weigh_something_and_lie_in_their_image():
    images = [np.zeros((10, 20, 3), np.uint8), np.zeros((30, 5, 3), np.uint8)]
    uv = torch.tensor([[[19.0, 9.0], [1.0, 1.0], [2.0, 2.0]], [[4.0, 29.0], [6.0, 1.0], [3.0, 3.0]]])
    weight = torch.tensor([[1.0, 0.5, 0.0], [0.25, 1.0, 1.0]])
    tracks = tracks_of(uv, weight, images)
    assert tracks.view.tolist() == [0, 1, 0, 1] and tracks.track.tolist() == [0, 0, 1, 2]
    assert tracks.weight.tolist() == [1.0, 0.25, 0.5, 1.0]
    assert tracks.uv[3].tolist() == [3.0, 3.0]
