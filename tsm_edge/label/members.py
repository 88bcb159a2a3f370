"""The networks that label together: what each is shown, and its share of the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tsm_edge.artifact.manifest import Manifest
from tsm_edge.cards import FLOW_CHANNELS, RGB_CHANNELS, Preprocess
from tsm_edge.errors import ArtifactError, TsmEdgeError
from tsm_edge.live.smoothing import Scores, logits_of, probabilities
from tsm_edge.session.base import Session
from tsm_edge.video.crops import check_crops
from tsm_edge.video.flow import FlowMethod, FlowName, flow_method
from tsm_edge.video.views import FlowView, RgbView, View

ScoreKind = Literal["logits", "softmax"]


@dataclass(frozen=True)
class Member:
    """A network among those that label together.

    Attributes
    ----------
    session : Session
        Of a network of clips, or of one without shift (TSN), which is shown a clip's frames one by one.
    view : View
        What it is shown of a video.
    frames : int
        Of a clip.
    weight : float
        Of its scores.
    """

    session: Session
    view: View
    frames: int
    weight: float

    @property
    def batch(self) -> int:
        """Clips that it takes at once."""
        return self.session.manifest.clips

    def logits(self, clips: Sequence[npt.NDArray[np.float32]]) -> list[Scores]:
        """The scores of clips, at most :attr:`batch` of them.

        Parameters
        ----------
        clips : sequence of numpy.ndarray
            float32 ``[frames, channels, height, width]``.

        Returns
        -------
        list of numpy.ndarray
            float64 ``[classes]``, as logits.
        """
        if not self.session.manifest.clip:
            return [np.mean([self._step(frame[np.newaxis])[0] for frame in clip], axis=0) for clip in clips]
        if self.batch == 1:
            return [self._step(clip)[0] for clip in clips]
        missing = [np.zeros_like(clips[0])] * (self.batch - len(clips))
        return self._step(np.concatenate([*clips, *missing]))[: len(clips)]

    def _step(self, frames: npt.NDArray[np.float32]) -> list[Scores]:
        """The scores of each clip, or frame, of a step."""
        manifest = self.session.manifest
        found = self.session.step(frames).reshape(manifest.clips, -1).astype(np.float64)
        return [logits_of(each, manifest.activation) for each in found]


@dataclass(frozen=True)
class Seeing:
    """How networks are shown a video, all of them alike.

    Attributes
    ----------
    crops : int
        Of a frame: 1 or 3.
    flow : {"auto", "tvl1", "dis", "farneback"}
        For networks of optical flow.
    frames : int or None
        Of a clip for a network that says nothing of it (TSN); None: 8.
    """

    crops: int = 1
    flow: FlowName = "auto"
    frames: int | None = None

    def __post_init__(self) -> None:
        check_crops(self.crops)


# Of a clip, for a network without shift: as the paper's tables.
_TSN_FRAMES = 8


@dataclass(frozen=True)
class Ensemble:
    """Networks that label together; made by :func:`ensemble`.

    Attributes
    ----------
    members : tuple of Member
        At least one.
    scores : {"logits", "softmax"}
        What is averaged: upstream's code averages logits, and probabilities with ``--softmax``.
    flow : str
        The algorithm of optical flow; empty where nobody is shown it.
    stand_in : bool
        It stands in for TV-L1, which is not installed.
    """

    members: tuple[Member, ...]
    scores: ScoreKind
    flow: str = ""
    stand_in: bool = False

    @property
    def manifest(self) -> Manifest:
        """Of the first member."""
        return self.members[0].session.manifest

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, of the first member that knows them."""
        named = (member.session.manifest.labels for member in self.members)
        return next((labels for labels in named if labels), ())

    @property
    def random_weights(self) -> bool:
        """Whether a member's weights are random, so that labels mean nothing."""
        return any(member.session.manifest.random_weights for member in self.members)

    def probabilities(self, logits: Sequence[Scores]) -> Scores:
        """The probability of each class, of each member's mean logits ``[classes]``."""
        weights = np.array([member.weight for member in self.members])
        weights = weights / weights.max()  # their sum may be more than a float holds
        sigmoid = self.manifest.activation == "sigmoid"
        scores = [_probabilities(each, sigmoid) for each in logits] if self.scores == "softmax" else logits
        mean: Scores = np.tensordot(weights / weights.sum(), np.stack(scores), 1)
        return mean if self.scores == "softmax" else _probabilities(mean, sigmoid)


def ensemble(
    sessions: Sequence[Session], weights: Sequence[float], scores: ScoreKind = "logits", seeing: Seeing | None = None
) -> Ensemble:
    """Let networks label together.

    Parameters
    ----------
    sessions : sequence of Session
        They stay open.
    weights : sequence of float
        Of the scores of each; positive.

    Raises
    ------
    TsmEdgeError
        A network works on one frame after another, they know different classes, a weight is not positive, or flow is
        chosen for none of them.
    VideoError
        The algorithm of optical flow is not there.
    """
    seeing = seeing or Seeing()
    for session in sessions:
        _check(session.manifest, sessions[0].manifest, seeing)
    if len(weights) != len(sessions) or not all(0 < weight < float("inf") for weight in weights):
        raise TsmEdgeError(
            f"{len(weights)} weights {', '.join(f'{weight:g}' for weight in weights)} for {len(sessions)} networks, "
            "expected a positive one for each",
            "give --weight as often as --with",
        )
    sees_flow = any(_is_flow(session.manifest) for session in sessions)
    if not sees_flow and seeing.flow != "auto":
        raise TsmEdgeError(f"flow is {seeing.flow}, and no network here takes optical flow", "leave out --flow")
    method = flow_method(seeing.flow) if sees_flow else None
    views: dict[tuple[Preprocess, FlowMethod | None], View] = {}
    members = []
    for session, weight in zip(sessions, weights, strict=True):
        manifest = session.manifest
        sees = manifest.preprocess, method if _is_flow(manifest) else None
        # Networks that see alike share what is kept of frames.
        if sees not in views:
            views[sees] = _view(*sees, seeing.crops)
        frames = manifest.frames if manifest.clip else seeing.frames or _TSN_FRAMES
        members.append(Member(session, views[sees], frames, weight))
    return Ensemble(tuple(members), scores, method.name if method else "", method is not None and method.stand_in)


def _check(manifest: Manifest, first: Manifest, seeing: Seeing) -> None:
    if not manifest.clip and manifest.caches:
        raise ArtifactError(
            f"{manifest.model} is an online model, which takes one frame after another: expected one of clips",
            "predict on every frame with: tsm-edge run DIR --video FILE",
        )
    if manifest.frame.shape[1] not in (RGB_CHANNELS, FLOW_CHANNELS):
        raise ArtifactError(
            f"{manifest.model} takes {manifest.frame.shape[1]} channels, expected {RGB_CHANNELS} (RGB) or "
            f"{FLOW_CHANNELS} (optical flow)",
            "show it what it takes from Python: OnlineSession(DIR).step",
        )
    if manifest.clip and seeing.frames not in (None, manifest.frames):
        raise ArtifactError(
            f"{manifest.model} was compiled for {manifest.frames} frames, not {seeing.frames}", "leave out --frames"
        )
    if manifest.classes != first.classes or (manifest.labels and first.labels and manifest.labels != first.labels):
        raise ArtifactError(
            f"{manifest.model} knows other classes ({manifest.classes}) than {first.model} ({first.classes}): their "
            "scores cannot be averaged",
            "give networks of the same labels",
        )
    if (manifest.activation == "sigmoid") != (first.activation == "sigmoid"):
        raise ArtifactError(
            f"of {manifest.model} and {first.model} one ends in a sigmoid and one does not: their scores cannot be "
            "averaged",
            "give networks that were trained alike",
        )


def _view(card: Preprocess, flow: FlowMethod | None, crops: int) -> View:
    return RgbView(card, crops) if flow is None else FlowView(card, crops, flow)


def _is_flow(manifest: Manifest) -> bool:
    return manifest.frame.shape[1] == FLOW_CHANNELS


def _probabilities(logits: Scores, sigmoid: bool) -> Scores:
    if sigmoid:
        each: Scores = 1 / (1 + np.exp(-logits))
        return each
    return probabilities(logits, "")
