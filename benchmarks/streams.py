"""Streams of frames, and whether an engine makes of them what ONNX Runtime does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from engines.base import Floats, OnlineModel, Stepper


def video(shape: Sequence[int], count: int, seed: int = 0) -> list[Floats]:
    """Return ``count`` frames of noise, float32 of this shape, always the same for a seed."""
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape, np.float32) for _ in range(count)]


def clips(shape: Sequence[int]) -> list[list[Floats]]:
    """Return the streams of noise that models in integers are calibrated with, other than those they are run with."""
    return [video(shape, 4, seed) for seed in (1, 2)]


def calibration(model: OnlineModel) -> Iterator[dict[str, Floats]]:
    """Yield the inputs of every frame of :func:`clips`; the shift caches are what ONNX Runtime makes of the frames."""
    from engines.ort import open_session

    session = open_session(model.path, threads=1)
    outputs = [cache.output for cache in model.caches]
    for clip in clips(model.frame_shape):
        caches = [cache.zeros for cache in model.caches]
        for frame in clip:
            inputs = {model.frame: frame}
            inputs |= {cache.input: value for cache, value in zip(model.caches, caches, strict=True)}
            yield inputs
            caches = session.run(outputs, inputs)


def run(stepper: Stepper, frames: Sequence[Floats]) -> Floats:
    """Return the logits [frames, classes] of a stream that starts with the first frame."""
    stepper.reset()
    return np.concatenate([np.array(stepper.step(frame), np.float32).reshape(1, -1) for frame in frames])


def relative_error(logits: Floats, reference: Floats) -> float:
    """Return the largest difference as a share of the reference's largest magnitude."""
    if logits.shape != reference.shape or not np.isfinite(logits).all():
        return float("inf")
    return float(np.abs(logits - reference).max() / np.abs(reference).max())


def signal_to_noise_db(logits: Floats, reference: Floats) -> float:
    """Return how much larger the reference is than what the logits differ by, in dB."""
    if logits.shape != reference.shape or not np.isfinite(logits).all():
        return float("-inf")
    noise = np.square(logits - reference, dtype=np.float64).sum()
    return float(10 * np.log10(np.square(reference, dtype=np.float64).sum() / max(noise, 1e-30)))


def reference_logits(model: OnlineModel, frames: Sequence[Floats]) -> Floats:
    """Return what ONNX Runtime computes for a stream of these frames, float32 [frames, classes]."""
    from engines.ort import RunStepper

    return run(RunStepper(model, threads=1), frames)
