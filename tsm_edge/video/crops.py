"""Where pictures are cut from a resized frame: one from the centre, or three side by side, as upstream tests.

With a crop as high as the resized frame this is upstream's full resolution (``--full_res``): nothing is lost at the top
and the bottom, and three crops see all of a frame's width.
"""

from __future__ import annotations

from tsm_edge.errors import VideoError

# Rows and columns before the crop, pixels.
Offset = tuple[int, int]
CROPS = (1, 3)


def check_crops(crops: int) -> None:
    """Refuse a number of crops that there is no rule for.

    Raises
    ------
    VideoError
        It is none of :data:`CROPS`.
    """
    if crops not in CROPS:
        raise VideoError(f"{crops} crops, expected {' or '.join(map(str, CROPS))}", "1 is the centre: --crops 1")


def offsets(resized: tuple[int, int], crop: tuple[int, int], crops: int) -> tuple[Offset, ...]:
    """Where crops begin; each place once.

    Parameters
    ----------
    resized, crop : (int, int)
        Height and width, pixels.
    crops : int
        1: torchvision's ``CenterCrop``. 3: left, right and centre (upstream's ``GroupFullResSample``).

    Raises
    ------
    VideoError
        Another number of crops.
    """
    check_crops(crops)
    down, across = resized[0] - crop[0], resized[1] - crop[1]
    if crops == 1:
        return ((round(down / 2), round(across / 2)),)
    row, column = 2 * (down // 4), across // 4
    # A frame as wide as the crop has one place only: its mean is the same.
    return tuple(dict.fromkeys((row, step * column) for step in (0, 4, 2)))
