"""What ``run`` and ``label`` have in common for networks of clips: how videos are shown to them, and to which."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tsm_edge.artifact.manifest import RANDOM_WEIGHTS
from tsm_edge.cli.numbers import RealRange
from tsm_edge.cli.output import note, warn
from tsm_edge.errors import RpcError

if TYPE_CHECKING:
    from tsm_edge.label.decoding import VideoEnded
    from tsm_edge.label.labelling import Guess, Spent, VideoLabel
    from tsm_edge.label.members import Ensemble, ScoreKind
    from tsm_edge.rpc.place import Place
    from tsm_edge.session.base import Session
    from tsm_edge.video.flow import FlowName
    from tsm_edge.video.sampling import Kind, Sampling

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class ClipOptions:
    """What was asked for; None and empty: nothing.

    Attributes
    ----------
    sampling : {"uniform", "dense"} or None
    clips, crops, frames : int or None
    others : tuple of Path
        Artifacts that label together with the first.
    weights : tuple of float
        Of their scores; the first's is 1.
    scores : {"logits", "softmax"} or None
    flow : str or None
    """

    sampling: Kind | None
    clips: int | None
    crops: int | None
    frames: int | None
    others: tuple[Path, ...]
    weights: tuple[float, ...]
    scores: ScoreKind | None
    flow: FlowName | None

    def given(self) -> list[str]:
        """The options that were given."""
        return [option for name, option in _NAMES.items() if getattr(self, name) not in (None, ())]

    def how(self) -> Sampling:
        """How clips are chosen: one uniform clip, or upstream's ten dense ones, where nothing else is asked for."""
        from tsm_edge.video.sampling import DENSE_CLIPS, Sampling

        kind = self.sampling or "uniform"
        usual = DENSE_CLIPS if kind == "dense" else 1
        return Sampling(kind, usual if self.clips is None else self.clips)

    @contextmanager
    def together(self, first: Session, device: Place | None, threads: int) -> Iterator[Ensemble]:
        """Open the other networks; yields all of them as one, and says what the user should know of it."""
        from tsm_edge.label.members import Seeing, ensemble
        from tsm_edge.session.open import open_session

        if self.others and device is not None and not device.by_tracker:
            raise RpcError(
                f"{device}: has room for one network at a time, expected no --with",
                "leave out --rpc, or take a device for each from a tracker: --tracker HOST:PORT --key K",
            )
        weights = self.weights or (1.0,) * len(self.others)
        with ExitStack() as stack:
            sessions = [first]
            for path in self.others:
                sessions.append(stack.enter_context(open_session(path, device, threads, notify=warn)))
            seeing = Seeing(1 if self.crops is None else self.crops, self.flow or "auto", self.frames)
            members = ensemble(sessions, (1.0, *weights), self.scores or "logits", seeing)
            for member in members.members:
                self.how().check_frames(member.frames)
            if members.random_weights:
                warn(RANDOM_WEIGHTS)
            if members.stand_in:
                warn(
                    f"optical flow is {members.flow}, networks are trained with TV-L1: for that "
                    "pip install opencv-contrib-python-headless"
                )
            elif members.flow:
                note(f"optical flow: {members.flow}")
            yield members


_NAMES = {
    "sampling": "--sampling",
    "clips": "--clips",
    "crops": "--crops",
    "frames": "--frames",
    "others": "--with",
    "weights": "--weight",
    "scores": "--scores",
    "flow": "--flow",
}
_OPTIONS = (
    click.option("--sampling", type=click.Choice(["uniform", "dense"]), help="Of a clip's frames.  [default: uniform]"),
    click.option(
        "--clips", metavar="N", type=int, help="Of a video: 1 or 2; dense: 1, 2 or 10.  [default: 1; dense: 10]"
    ),
    click.option("--crops", metavar="N", type=int, help="Of a frame: 1, or 3 side by side.  [default: 1]"),
    click.option(
        "--frames",
        metavar="N",
        type=click.IntRange(1, 128),
        help="Of a clip, for a network of single frames.  [default: 8]",
    ),
    click.option(
        "--with",
        "others",
        metavar="DIR",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Another network that labels together with the first; again for more.",
    ),
    click.option(
        "--weight",
        "weights",
        metavar="W",
        multiple=True,
        type=RealRange(min=0, min_open=True),
        help="Of its scores, where the first's is 1; one for each --with.  [default: 1]",
    ),
    click.option(
        "--scores", type=click.Choice(["logits", "softmax"]), help="What of networks is averaged.  [default: logits]"
    ),
    click.option(
        "--flow",
        type=click.Choice(["auto", "tvl1", "dis", "farneback"]),
        help="Optical flow.  [default: TV-L1 if it is there, else DIS]",
    ),
)


def chosen_showing(options: Mapping[str, Any]) -> ClipOptions:
    """What a command's parameters ask for."""
    return ClipOptions(**{item.name: options[item.name] for item in dataclasses.fields(ClipOptions)})


def clip_options(command: _Command) -> _Command:
    """Add the options; the command gets them as ``showing``."""

    @functools.wraps(command)
    def with_clips(*args: Any, **options: Any) -> Any:
        showing = chosen_showing(options)
        others = {name: value for name, value in options.items() if name not in vars(showing)}
        return command(*args, showing=showing, **others)

    decorated: Any = with_clips
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def video_line(found: VideoLabel) -> dict[str, object]:
    """What a video shows and what is known of it, as JSON has it."""
    return {
        "type": "video",
        "video": found.video.video,
        **guesses(found.top),
        **figures(found.video, found.spent),
    }


def guesses(top: tuple[Guess, ...]) -> dict[str, object]:
    """The best class and all that are told, as JSON has them."""
    best = top[0]
    return {
        "label": best.label,
        "class_index": best.class_index,
        "probability": best.probability,
        "top": top,
    }


def figures(video: VideoEnded, spent: Spent) -> dict[str, object]:
    """What is known of a video, as JSON has it."""
    return {
        "frames": video.frames,
        "duration_s": round(video.duration_s, 3),
        "bytes": video.bytes,
        "clips": spent.clips,
        "decode_s": round(video.decode_s, 3),
        "network_s": round(spent.network_s, 3),
        "trouble": video.trouble,
    }
