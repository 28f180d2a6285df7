"""What moves before a clear sky, seen by a camera that turns: most of the image gives flow nothing to hold on to."""

import cv2
import numpy as np
import pytest

from unproject.inference import motion

HEIGHT, WIDTH, PAN_PX, STEP_PX = 200, 320, 6, 3
STEPS = (*motion.FLOW_STEPS, *motion.LOOK_STEPS)


def speckle(height: int, width: int, seed: int) -> np.ndarray:
    rough = np.random.default_rng(seed).normal(0, 60, (height, width)).astype(np.float32)
    return 120 + cv2.GaussianBlur(rough, (0, 0), 1.2) * 3


def frame(number: int) -> np.ndarray:
    """A lattice under three quarters of sky that is brighter towards the sun; a car goes along it."""
    left = 150 + number * PAN_PX
    world = np.tile(np.linspace(150, 230, 800, dtype=np.float32), (HEIGHT, 1))
    world[150:] = speckle(50, 800, 0)
    car = 320 + number * STEP_PX
    world[120:150, car : car + 45] = speckle(30, 45, 1)
    noise = np.random.default_rng(10 + number).normal(0, 1, (HEIGHT, WIDTH))
    return (world[:, left : left + WIDTH] + noise).clip(0, 255).astype(np.uint8)


def pan(steps: int) -> np.ndarray:
    return np.array([[1.0, 0, -PAN_PX * steps], [0, 1, 0], [0, 0, 1]])


def landing(homography: np.ndarray) -> np.ndarray:
    corners = np.array([[20.0, 155], [300, 155], [20, 195], [300, 195]])
    return cv2.perspectiveTransform(corners[None], homography)[0]


@pytest.mark.parametrize("off_px", [0.0, 2.0])
def test_the_turn_is_that_of_the_texture_and_not_of_the_sky(off_px: float) -> None:
    start = pan(1) + np.array([[0, 0, off_px], [0, 0, 0], [0, 0, 0]])
    found = motion.turn(frame(0), frame(1), start)
    np.testing.assert_allclose(landing(found), landing(pan(1)), atol=0.6)


def test_without_texture_the_cameras_turn_stays() -> None:
    blank = np.full((HEIGHT, WIDTH), 200, np.uint8)
    np.testing.assert_array_equal(motion.turn(blank, blank, pan(1)), pan(1))


def test_the_car_moves_and_the_sky_does_not() -> None:
    middle = 12
    nearby = [
        motion.rest_by_homography(pan(step), (HEIGHT, WIDTH), frame(middle + step), step)
        for step in STEPS
        if middle + step >= 0
    ]
    moves = motion.motion(frame(middle), nearby) > 0.5
    car = np.zeros_like(moves)
    left = 170 + middle * (STEP_PX - PAN_PX)
    car[120:150, left : left + 45] = True
    assert moves[car].mean() > 0.8
    around = cv2.dilate(car.astype(np.uint8), np.ones((25, 25))) > 0
    assert not moves[~around].any()


def test_at_the_edge_of_a_fast_pan_nearer_frames_say_what_is_at_rest() -> None:
    """Half a second away the strip behind the car is out of the image; flow alone drags it along with the car."""
    world = speckle(HEIGHT, 800, 0) * 0.1 + 110
    frames = []
    for number in range(13):
        shown, car = world.copy(), 35 + number * 4 * STEP_PX
        shown[60:140, car : car + 60] = speckle(80, 60, 1)
        frames.append(shown[:, number * PAN_PX :][:, :WIDTH].clip(0, 255).astype(np.uint8))
    steps = [step for step in STEPS if step > 0]
    nearby = [motion.rest_by_homography(pan(step), (HEIGHT, WIDTH), frames[step], step) for step in steps]
    moves = motion.motion(frames[0], nearby) > 0.5
    assert moves[60:140, 35:95].mean() > 0.8
    assert moves[:, PAN_PX:25].mean() < 0.02
