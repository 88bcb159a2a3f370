"""From a coded frame to its label: decoding, preprocessing and the step, each timed, as ``tsm-edge run`` does them."""

from __future__ import annotations

import time

import numpy as np

from tsm_edge.bench.plan import Plan
from tsm_edge.bench.result import CameraToLabel
from tsm_edge.bench.statistics import summary
from tsm_edge.bench.subject import Subject
from tsm_edge.errors import BenchError
from tsm_edge.video.base import Frame
from tsm_edge.video.preprocess import Preprocessor
from tsm_edge.video.source import open_source

_LONGEST_S = 20.0
_WARM = 3  # frames that are not counted


def refuse_elsewhere(video: str, machine: str) -> BenchError:
    """Why a video is timed on this machine alone."""
    return BenchError(
        f"--video {video}: {machine} is another machine, and decoding it here would say nothing of that one",
        "run it there: tsm-edge bench DIR --video FILE",
    )


def check_video(subject: Subject, video: str) -> None:
    """Refuse a video before anything is measured.

    Raises
    ------
    BenchError
        The frames are measured on another machine, which has no part in this one's decoding; or the model takes clips.
    VideoError
        It cannot be opened.
    """
    if subject.route != "local":
        raise refuse_elsewhere(video, subject.name)
    if subject.artifact.manifest.clip:
        raise BenchError(
            f"--video {video}: {subject.artifact.manifest.model} takes clips, which have no frame's label to wait for",
            "tsm-edge label tells the times of each video",
        )
    open_source(video).close()


def time_video(subject: Subject, plan: Plan, video: str) -> CameraToLabel:
    """Time frames of a video as far as the plan goes, a file over and over, at most :data:`_LONGEST_S`.

    Raises
    ------
    VideoError
        It cannot be decoded.
    """
    preprocess = Preprocessor(subject.artifact.manifest.preprocess)
    times: list[tuple[float, float, float, float]] = []
    start_s = time.perf_counter()

    def done() -> bool:
        spent_s = time.perf_counter() - start_s
        return spent_s > _LONGEST_S or plan.is_done(len(times) - _WARM, spent_s)

    while not done():
        before = len(times)
        with open_source(video) as source:
            for frame in source:
                times.append(_one(subject, preprocess, frame))
                if done():
                    break
        if len(times) == before:  # nothing in it
            break
    decode, prepare, step, total = np.array(times[_WARM:] or np.empty((0, 4))).T
    return CameraToLabel(summary(decode), summary(prepare), summary(step), summary(total))


def _one(subject: Subject, preprocess: Preprocessor, frame: Frame) -> tuple[float, float, float, float]:
    """Milliseconds of decoding, preprocessing, the step, and from the frame's arrival to its label."""
    if frame.discontinuity:
        subject.session.reset()
    began_s = time.perf_counter()
    network_input = preprocess(frame.image)
    ready_s = time.perf_counter()
    logits = subject.session.step(network_input)
    int(np.argmax(logits))
    done_s = time.perf_counter()
    return frame.decode_ms, 1e3 * (ready_s - began_s), 1e3 * (done_s - ready_s), 1e3 * (done_s - frame.arrived_s)
