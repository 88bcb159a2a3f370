"""What OpenCV gives is looked at, not what it says of it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from tsm_edge.errors import VideoError
from tsm_edge.video.camera import OpenCvCapture
from tsm_edge.video.capture import SourceOptions
from tsm_edge.video.grabber import LiveSource


class Native:
    """Stands for ``cv2.VideoCapture``: says that it read every frame, and writes those that are not None."""

    def __init__(self, images: list[Any]) -> None:
        self.images = list(images)

    def grab(self) -> bool:
        return bool(self.images)

    def retrieve(self, image: Any = None) -> tuple[bool, Any]:
        scripted = self.images.pop(0)
        if scripted is None:
            return True, image
        if image is not None and image.shape == scripted.shape:
            np.copyto(image, scripted)
            return True, image
        return True, scripted.copy()

    def get(self, prop: int) -> float:
        return 30.0 if prop == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        pass


def level(picture: Any) -> int | None:
    return None if picture is None else int(picture.to_rgb().mean())


def test_a_buffer_that_comes_back_unwritten_is_no_frame() -> None:
    images = [np.full((48, 64, 3), level, np.uint8) for level in (10, 20, 30)]
    capture = OpenCvCapture(Native([images[0], None, images[1], None, None, images[2]]))
    assert [level(capture.retrieve()) for _ in range(6)] == [10, None, 20, None, None, 30]


def test_frames_that_were_handed_out_are_not_written_again() -> None:
    capture = OpenCvCapture(Native([np.full((48, 64, 3), level, np.uint8) for level in range(4)]))
    pictures = [capture.retrieve() for _ in range(4)]
    assert [level(picture) for picture in pictures] == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 1), (48, 64, 4), (1, 1, 3), (2, 3, 3)])
def test_any_size_and_number_of_channels(shape: tuple[int, ...]) -> None:
    capture = OpenCvCapture(Native([np.full(shape, 7, np.uint8)] * 3))
    assert [level(capture.retrieve()) for _ in range(3)] == [7, 7, 7]


def test_a_change_of_size_in_the_middle() -> None:
    capture = OpenCvCapture(Native([np.full((48, 64, 3), 5, np.uint8), np.full((24, 32, 3), 6, np.uint8), None]))
    assert [level(capture.retrieve()) for _ in range(3)] == [5, 6, None]


def test_a_lost_frame_of_a_camera_is_passed_over_and_a_dead_decoder_is_an_error() -> None:
    good = np.full((48, 64, 3), 9, np.uint8)
    with LiveSource(
        lambda: OpenCvCapture(Native([good, None, good])), "camera 0", SourceOptions(), may_end=True
    ) as live:
        frames = list(live)
    assert len(frames) + live.dropped == 2

    class Endless(Native):
        def grab(self) -> bool:
            self.images.append(None)
            return True

    options = SourceOptions(read_timeout_s=0.05)
    with (
        pytest.raises(VideoError, match=r"camera 0: frames arrive, but for \d\.\d s none of them could be decoded"),
        LiveSource(lambda: OpenCvCapture(Endless([good])), "camera 0", options, may_end=False) as live,
    ):
        list(live)
