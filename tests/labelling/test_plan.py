"""Forecasts against their slow twin: units that are handed out one by one to workers that die."""

import heapq
import json
from dataclasses import replace

import numpy as np
import pytest

from unproject.errors import InputError, UsageError
from unproject.labelling.plan import Rates, forecast, rates_of, table
from unproject.labelling.videos import videos_per_unit

RATES = Rates(
    videos_measured=5,
    video_s=(8.0, 10.0, 11.0, 15.0, 30.0),
    unit_s=1.0,
    start_s=5.0,
    deaths_per_s=0.0,
    clips_per_video=4.0,
    bytes_per_video=2e6,
)


def simulated(rates: Rates, videos: int, workers: int, lost: float, seed: int) -> float:
    """Seconds until the last unit is done."""
    rng = np.random.default_rng(seed)
    each = videos_per_unit(videos)
    lengths = rng.choice(rates.video_s, (-(-videos // each), each)).sum(1) + rates.unit_s
    free = [rates.start_s] * workers
    end = 0.0
    for length in lengths:
        now = heapq.heappop(free)
        while rng.random() < lost:
            now += rng.random() * length + rates.start_s
        end = max(end, now + length)
        heapq.heappush(free, now + length)
    return end


@pytest.mark.parametrize("lost", [0.0, 0.05, 0.4])
@pytest.mark.parametrize(("videos", "workers"), [(50, 64), (300, 64), (2000, 2), (100_000, 64), (100_000, 700)])
def test_a_forecast_is_what_a_simulation_takes(videos, workers, lost):
    said = forecast(RATES, videos, nodes=workers, cores=1, lost_share=lost)
    took = [simulated(RATES, videos, workers, lost, seed) for seed in range(1 + 20_000 // videos)]
    few = said.units < 5 * workers  # workers that began together still end together
    assert said.days * 86400 == pytest.approx(np.mean(took), rel=0.1 if few else 0.05)


def test_with_one_core_a_forecast_is_the_sum():
    said = forecast(RATES, 100, nodes=1, cores=1, price=0.5)
    seconds = 100 * (np.mean(RATES.video_s) + RATES.unit_s) + RATES.start_s
    assert said.core_hours * 3600 == pytest.approx(seconds, rel=0.01)
    assert said.days * 24 == pytest.approx(said.core_hours)
    assert (said.units, said.tries, said.clips, said.bytes) == (100, 1.0, 400, 2e8)
    assert said.cost == pytest.approx(0.5 * said.core_hours) and said.idle_share == pytest.approx(0, abs=0.01)


def test_what_is_lost_is_done_again():
    plain, lossy = (forecast(RATES, 1000, nodes=1, cores=1, lost_share=share) for share in (0.0, 0.2))
    unit_s = np.mean(RATES.video_s) + RATES.unit_s
    assert lossy.tries == pytest.approx(1.25)
    assert lossy.core_hours / plain.core_hours == pytest.approx(1 + 0.25 * (0.5 + RATES.start_s / unit_s), rel=0.02)
    assert lossy.clips == plain.clips


def test_long_units_are_lost_more_often():
    dying = replace(RATES, deaths_per_s=1e-4)
    short, long = (forecast(dying, count, nodes=1, cores=1).lost_share for count in (1000, 100_000))
    assert short == pytest.approx(1e-4 * 15.8, rel=0.05) and long == pytest.approx(1 - np.exp(-1e-4 * 741), rel=0.05)


def test_more_cores_take_less_time_and_never_less_work():
    hours = [forecast(RATES, 20_000, nodes=nodes, cores=8) for nodes in (1, 2, 16, 256)]
    days, core_hours = [said.days for said in hours], [said.core_hours for said in hours]
    assert days == sorted(days, reverse=True) and core_hours == sorted(core_hours)
    assert 0 <= hours[0].idle_share < hours[-1].idle_share < 1


@pytest.mark.parametrize(
    "wrong", [{"nodes": 0}, {"cores": 0}, {"lost_share": 1.0}, {"lost_share": -0.1}, {"price": -1}]
)
def test_numbers_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError, match="give"):
        forecast(RATES, 10, **{"nodes": 1, "cores": 1, **wrong})


def log_of(path, lines):
    (path / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"cut sho')


def done(process, *video_s, clips=3):
    size = len(video_s)
    facts = {"videos": size, "clips": clips * size, "bytes": 500 * size, "seconds": sum(video_s) + 1.0}
    facts |= {"video_s": video_s, "video_clips": [clips] * size}
    return {"done": {"unit": 0, "host": "here", "process": process, **facts}}


def test_rates_are_those_of_the_log_and_warming_up_is_a_part_of_the_start(tmp_path):
    units = [done(7, 4.0, 1.0), done(8, 6.0, 3.0), {"died": {"unit": 1}}, done(7, 1.0, 3.0)]
    log_of(tmp_path, [{"session": {}}, {"ready": {"seconds": 2.0}}, *units, {"session": {}}, done(7, 5.0)])
    assert rates_of(tmp_path) == Rates(
        videos_measured=7,
        video_s=(1.0, 3.0, 1.0, 3.0),
        unit_s=1.0,
        start_s=2.0 + 5.0 - 2.0,
        deaths_per_s=1 / 27.0,
        clips_per_video=3.0,
        bytes_per_video=500.0,
    )
    with pytest.raises(InputError, match="no log of finished units"):
        rates_of(tmp_path / "none")


def test_where_all_videos_were_the_first_of_their_workers_nothing_is_known_of_warming_up(tmp_path):
    log_of(tmp_path, [{"session": {}}, done(7, 4.0), done(8, 6.0)])
    assert rates_of(tmp_path).video_s == (4.0, 6.0) and rates_of(tmp_path).start_s == 0


def test_networks_are_loaded_for_the_first_clip_not_for_the_first_video(tmp_path):
    log_of(tmp_path, [{"session": {}}, done(7, 1.0, clips=0), done(7, 9.0), done(7, 2.0, 2.0)])
    assert rates_of(tmp_path).video_s == (2.0, 2.0) and rates_of(tmp_path).start_s == 5.0 - 2.0


def test_a_worker_s_first_video_that_was_a_short_one_does_not_shorten_the_start(tmp_path):
    log_of(tmp_path, [{"session": {}}, {"ready": {"seconds": 2.0}}, done(7, 1.0, 9.0)])
    assert rates_of(tmp_path).start_s == 2.0


def test_the_table_has_a_line_for_each():
    made = [forecast(RATES, videos, nodes=2, cores=3, price=price) for videos, price in ((5000, None), (10**6, 0.03))]
    lines = table(made).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "| 5,000 | 1,000 | 1.000 |" in lines[2] and lines[2].endswith("| - |")
