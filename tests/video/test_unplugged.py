"""A USB camera that is unplugged and comes back, from its device file to the run; OpenCV is a stand-in.

What a real kernel does when the cable is pulled was not tried: there is no camera here, and no module for a false one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fake_session import FakeSession

from tsm_edge.errors import VideoError
from tsm_edge.live.observer import Snapshot
from tsm_edge.live.run import run
from tsm_edge.video import camera as camera_module
from tsm_edge.video.capture import SourceOptions
from tsm_edge.video.source import open_source


class Bus:
    """A USB port with a camera: ``/dev/video0`` is there as long as that is plugged in.

    Attributes
    ----------
    opened, released : int
        Handles of the device.
    unready : int
        So many times it cannot be opened yet, as right after it was plugged in.
    silent : bool
        It can be opened, and gives no frame.
    """

    def __init__(self, devices: Path) -> None:
        self._file = devices / "video0"
        self.session = 0
        self.opened = self.released = self.unready = 0
        self.silent = False
        self.plug(48, 64)

    def plug(self, height: int, width: int) -> None:
        self.size = height, width
        self._file.touch()

    def unplug(self) -> None:
        self.session += 1
        self._file.unlink()


class Native:
    """Does as ``cv2.VideoCapture`` of a V4L2 device: once that is gone, each read fails, also when it is back."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._session: int | None = None

    def open(self, place: object, backend: int) -> bool:
        assert (place, backend) == (0, cv2.CAP_V4L2)
        if self._bus.unready:
            self._bus.unready -= 1
            return False
        self._session = self._bus.session
        self._bus.opened += 1
        return True

    def grab(self) -> bool:
        time.sleep(0.003)
        return self._session == self._bus.session and not self._bus.silent

    def retrieve(self, image: Any = None) -> tuple[bool, Any]:
        return True, np.full((*self._bus.size, 3), 100, np.uint8)

    def get(self, prop: int) -> float:
        return 30.0 if prop == cv2.CAP_PROP_FPS else 0.0

    def set(self, *_: object) -> bool:
        return True

    def release(self) -> None:
        self._bus.released += self._session is not None
        self._session = None


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bus:
    port = Bus(tmp_path)
    monkeypatch.setattr(camera_module, "_DEVICES", tmp_path)
    monkeypatch.setattr(cv2, "VideoCapture", lambda: Native(port))
    return port


class Ear:
    """Hears what observers of a run are told, and lets no wait for a frame be endless."""

    def __init__(self) -> None:
        self.idled = 0
        self._until_s = time.monotonic() + 30

    def see(self, snapshot: Snapshot) -> None: ...

    def idle(self) -> None:
        self.idled += 1
        assert time.monotonic() < self._until_s, "still waiting"


@pytest.mark.parametrize("size", [(48, 64), (60, 80)])
def test_a_camera_that_is_unplugged_and_comes_back(bus: Bus, size: tuple[int, int]) -> None:
    ear = Ear()
    resets: list[tuple[int, str]] = []
    again = threading.Timer(0.4, lambda: bus.plug(*size))
    options = SourceOptions(reconnect_s=60)
    with open_source(0, options) as source, run(FakeSession(), source, observers=[ear]) as results:
        for count, result in enumerate(results):
            if count == 5:
                bus.unplug()
                bus.unready = 2
                again.start()
            if result.reset:
                resets.append((count, result.reset))
            if resets and resets[-1][1] == "new stream" and count > resets[-1][0] + 3:
                break
    assert [reason for _, reason in resets] == ["start", "new stream"]
    assert results.summary().resets == 1
    assert ear.idled >= 2  # the watchdog and events knew of the silence
    assert (bus.opened, bus.released) == (2, 2)
    assert bus.unready == 0


def never_back(bus: Bus) -> None:
    bus.unplug()


def opens_but_gives_nothing(bus: Bus) -> None:
    bus.silent = True


@pytest.mark.real_time
@pytest.mark.parametrize("lose", [never_back, opens_but_gives_nothing])
def test_a_camera_that_does_not_come_back_is_given_up_in_time(bus: Bus, lose: Callable[[Bus], None]) -> None:
    with open_source(0, SourceOptions(reconnect_s=0.6)) as source:
        source.on_wait = Ear().idle
        assert source.read() is not None
        began_s = time.monotonic()
        lose(bus)
        with pytest.raises(VideoError, match=r"camera 0: lost after \d+ frames, and not back within 0.6 s"):
            list(source)
        assert time.monotonic() - began_s < 10
    assert bus.opened == bus.released
    assert bus.opened <= 5  # not again and again without a pause
