"""The shipped model on a live stream of a moving hand: ``run --camera URL``, from the network to labels.

No camera is at hand, and no real hand: the stream is motion JPEG over HTTP, as IP cameras send it, of a hand that is
drawn (``moving_hand.py``) over a film's frame.
"""

from __future__ import annotations

import json
import threading
from collections import Counter

import pytest
from mjpeg_server import MjpegServer, Send, serving
from moving_hand import Shown, hand

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cli.main import entry_point
from tsm_edge.video.grabber import Grabbed, Grabber

# The motions, and for how many twelfths of a second: a wave, there and back, and towards the camera and away.
MOTIONS = (
    ("still", 24), ("shake", 24), ("still", 12), ("right", 8), ("left", 17), ("right", 17), ("left", 8), ("up", 8),
    ("down", 17), ("up", 17), ("down", 8), ("still", 12), ("towards", 14), ("away", 14), ("still", 18),
)  # fmt: skip
# So many twelfths into a motion its label counts, as in the demo.
SEEN_AFTER = 8


def test_a_hand_over_a_live_stream_gets_the_right_labels(
    motion_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Frames are sent when the one before was taken: no speed of this machine decides what the model sees."""
    shown = list(hand(MOTIONS, fps=24))
    taken = threading.Semaphore(0)
    take = Grabber.take

    def take_and_tell(self: Grabber, *arguments: object) -> Grabbed | None:
        grabbed = take(self, *arguments)  # type: ignore[arg-type]
        taken.release()
        return grabbed

    def script(server: MjpegServer, send: Send) -> None:
        for number, frame in enumerate(shown):
            send(frame.image)
            # The first ones are there to see what stream it is.
            taken.acquire(timeout=0.02 if number < 12 else 60)

    monkeypatch.setattr(Grabber, "take", take_and_tell)
    with serving(script) as server:
        words = ["--camera", server.url, "--every", "2", "--smooth", "--gap", "3600", "--json"]
        assert entry_point(["run", str(motion_artifact.path), *words]) == 0
    *frames, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert summary["frames"] + summary["dropped"] == len(shown)
    found = {frame["index"]: frame["label"] for frame in frames}
    told = list(judged(shown, found))
    assert [motion for motion, _ in told] == [motion for motion, twelfths in MOTIONS if twelfths > SEEN_AFTER]
    assert [label for _, label in told] == [motion for motion, _ in told]


def judged(shown: list[Shown], found: dict[int, str]) -> list[tuple[str, str]]:
    """Each motion that lasts long enough, and the label of most of its frames that count."""
    first, made = 0, []
    for motion, twelfths in MOTIONS:
        count = Counter(found[index] for index in range(first + 2 * SEEN_AFTER, first + 2 * twelfths) if index in found)
        made += [(motion, label) for label, _ in count.most_common(1)]
        assert all(frame.motion == motion for frame in shown[first : first + 2 * twelfths])
        first += 2 * twelfths
    return made
