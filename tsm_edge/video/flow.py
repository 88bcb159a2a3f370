"""Optical flow between consecutive frames, as the temporal stream of a two-stream network takes it.

The recipe is that of TSN's tools (``dense_flow``): displacements of -20 to 20 pixels become bytes, of x and of y, and
five such fields one after the other are a network's input. TSN's flow is TV-L1, which only OpenCV's contributed modules
have (the package ``opencv-contrib-python-headless``); without it DIS, which OpenCV itself has, stands in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import Image, SourceOptions, load_opencv

# Fields of a network's input, each from one frame to the next.
FIELDS = 5
# Pixels a frame that are the largest byte.
_BOUND_PX = 20.0

Floats = npt.NDArray[np.float32]
FlowName = Literal["auto", "tvl1", "dis", "farneback"]


@dataclass(frozen=True)
class FlowMethod:
    """An algorithm.

    Attributes
    ----------
    name : str
        For people.
    stand_in : bool
        It was taken because TV-L1, which networks are trained with, is not there.
    compute : callable
        Two grey pictures, uint8 ``[H, W]``, to float32 ``[H, W, 2]``: pixels to the right and downwards.
    """

    name: str
    stand_in: bool
    compute: Callable[[Image, Image], Floats]


def flow_method(name: FlowName) -> FlowMethod:
    """Find an algorithm in the OpenCV that is installed; ``auto``: TV-L1 where it is, else DIS.

    Raises
    ------
    VideoError
        This OpenCV has no TV-L1.
    """
    cv2 = load_opencv(SourceOptions())
    if name in ("auto", "tvl1"):
        tvl1 = _tvl1(cv2)
        if tvl1 is not None:
            return FlowMethod("TV-L1", False, lambda before, after: tvl1.calc(before, after, None))
    if name == "tvl1":
        raise VideoError(
            "this OpenCV has no TV-L1, expected one with the contributed modules",
            "pip install opencv-contrib-python-headless, or: --flow dis",
        )
    if name == "farneback":
        return FlowMethod(
            "Farnebäck's",
            False,
            lambda before, after: cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0),
        )
    dis = cv2.DISOpticalFlow_create(cv2.DISOpticalFlow_PRESET_MEDIUM)
    return FlowMethod("DIS", name == "auto", lambda before, after: dis.calc(before, after, None))


def flow_bytes(field: Floats) -> Image:
    """Displacements in pixels as bytes: -20 is 0, 20 is 255."""
    scaled = np.rint((field + _BOUND_PX) * (255 / (2 * _BOUND_PX)))
    levels: Image = np.clip(scaled, 0, 255).astype(np.uint8)
    return levels


def _tvl1(cv2: Any) -> Any:
    module = getattr(cv2, "optflow", None)
    create = getattr(module, "DualTVL1OpticalFlow_create", None) or getattr(module, "createOptFlow_DualTVL1", None)
    return None if create is None else create()
