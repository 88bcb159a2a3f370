"""From the bytes of a picture to the network's input: one multiply-add a byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsm_edge.cards.model import Preprocess


def scale_and_offset(card: Preprocess) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """``/255``, mean and standard deviation in two factors: input = ``byte * scale + offset``.

    Parameters
    ----------
    card : Preprocess
        Mean and standard deviation of RGB scaled to 0..1.

    Returns
    -------
    scale, offset : numpy.ndarray
        float32 [3] each: of R, G, B.
    """
    mean, std = np.array(card.mean, np.float64), np.array(card.std, np.float64)
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
