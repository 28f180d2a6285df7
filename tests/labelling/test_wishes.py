import json
from dataclasses import asdict

import pytest

from unproject.errors import UsageError
from unproject.labelling.wishes import Wishes


def test_wishes_come_back_from_json():
    wishes = Wishes(long_side=384, most_overlap=0.5, seed=3)
    assert Wishes(**json.loads(json.dumps(asdict(wishes)))) == wishes


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        ({"views": 1}, "views must be at least 2, not 1"),
        ({"views": 64}, "views must be at most 32, not 64"),
        ({"long_side": 32}, "long_side must be at least 64"),
        ({"long_side": 1024}, "long_side must be at most 1022, not 1024"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"fps": 0.0}, "fps must be positive"),
        ({"step": -1.0}, "step must be positive"),
        ({"least_overlap": 0.7}, "the least below the most, not 0.7 and 0.6"),
        ({"most_overlap": 1.0}, "between 0 and 1"),
        ({"least_inliers": 0.0}, "a share above 0"),
        ({"least_covisible": 1.5}, "least_covisible must be a share"),
        ({"most_round_trip_px": 0.0}, "most_round_trip_px must be positive"),
        ({"least_matches": 0}, "least_matches must be at least 8"),
        ({"longest_s": float("nan")}, "longest_s must be positive"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(wish, text):
    with pytest.raises(UsageError, match=text):
        Wishes(**wish)
