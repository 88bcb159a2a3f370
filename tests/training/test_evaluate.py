"""The shipped model: how often it is right, and that what is compiled says what PyTorch says, frame by frame."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from other_style import film, pictures

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cards import Preprocess, load_model
from tsm_edge.cards.normalisation import scale_and_offset
from tsm_edge.cli.main import entry_point
from tsm_edge.demo import DemoRequest, run_demo, write_clip
from tsm_edge.errors import ArtifactError, VideoError
from tsm_edge.networks import build_network
from tsm_edge.networks.checkpoints import read_checkpoint
from tsm_edge.networks.loading import load_into
from tsm_edge.session.open import open_session
from tsm_edge.training.data import Frames
from tsm_edge.training.evaluate import EvaluateRequest, evaluate, run_clips
from tsm_edge.training.generated import held_out
from tsm_edge.training.measures import accuracy, label_after, measure
from tsm_edge.training.motions import LABELS
from tsm_edge.training.stream import draw_stream
from tsm_edge.training.train import clip_shift
from tsm_edge.video.preprocess import Preprocessor

CARD = load_model("motion")


def logits_of_pytorch(frames: Frames) -> np.ndarray:
    """Of whole clips, through the shift that training uses: ``[clips, T, classes]``."""
    network = build_network(CARD.network)
    load_into(network, CARD.network, read_checkpoint(Path(CARD.weights_file)))
    scale, offset = (torch.tensor(np.array(values, np.float32)) for values in scale_and_offset(CARD.preprocess))
    pixels = torch.from_numpy(frames).flatten(0, 1).float() * scale + offset
    with torch.no_grad():
        logits = network.backbone(pixels.permute(0, 3, 1, 2), clip_shift(CARD.network))
    return logits.unflatten(0, frames.shape[:2]).numpy()


def test_a_network_of_clips_is_not_measured_frame_by_frame(clip_artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="takes clips of 2 frames, and is measured on one after another"):
        evaluate(EvaluateRequest(clip_artifact.path))


@pytest.mark.parametrize("count", [60, pytest.param(1200, marks=pytest.mark.slow)])
def test_the_compiled_model_says_what_pytorch_says_of_every_frame(motion_artifact: Artifact, count: int) -> None:
    clips = held_out(CARD.network.frames, 48, count)
    with open_session(motion_artifact) as session:
        compiled, truth = run_clips(session, clips)
    for start in range(0, count, 60):
        frames, _ = clips.batch(range(start, start + 60))
        expected = logits_of_pytorch(frames)
        found = compiled[start : start + 60]
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
        # A tie may go either way: one of 14 400 frames has its two largest logits 4e-6 apart.
        best = np.sort(expected, -1)[..., -2:]
        tied = best[..., 1] - best[..., 0] < 1e-5 * np.abs(expected).max()
        assert ((found.argmax(-1) == expected.argmax(-1)) | tied).all()
        assert (label_after(found, 12, True) == label_after(expected, 12, True)).all()
    if count >= 1200:
        assert measure(compiled, truth, LABELS).overall.share == pytest.approx(0.966, abs=0.003)


def test_accuracy_on_clips_of_another_style(motion_artifact: Artifact) -> None:
    """Crops of photographs over film frames, drawn by a program that shares nothing with ours."""
    random = np.random.default_rng(5)
    backgrounds, things = pictures("bikes.mp4"), pictures("carphone_pristine.mp4") + pictures("bigbuckbunny.mp4")
    right = []
    with open_session(motion_artifact) as session:
        preprocess = Preprocessor(session.manifest.preprocess)
        for index in range(120):
            label = LABELS[index % len(LABELS)]
            session.reset()
            frames = film(label, things, backgrounds, random)
            logits = np.stack([session.step(preprocess(frame)).reshape(-1) for frame in frames])
            right.append(LABELS[logits[6:].mean(0).argmax()] == label)
    assert np.mean(right) >= 0.9


def test_the_demo_is_right_of_most_motions(
    motion_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsm_edge.demo.compile_model", lambda *_arguments, **_options: motion_artifact)
    result = run_demo(DemoRequest(model="motion", output=tmp_path))
    assert len(result.segments) == 24
    assert result.right >= 0.9 * 24
    assert {path.name for path in tmp_path.iterdir()} == {"demo-clip.mp4", "demo-annotated.mp4"}


def test_the_command_prints_accuracy_and_how_early(
    motion_artifact: Artifact, run_program: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_program("evaluate", str(motion_artifact.path), "--clips", "24", "--json")
    assert done.returncode == 0, done.stderr
    measures = json.loads(done.stdout)["measures"]
    assert sum(map(sum, measures["confusion"])) == 24
    assert [share for share, _ in measures["early"]] == [0.1, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_a_model_of_other_classes_is_refused(small_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ArtifactError, match="motion has others"):
        evaluate(EvaluateRequest(small_artifact.path))
    assert entry_point(["evaluate", str(small_artifact.path), "--data", "nowhere"]) == 2
    assert "nowhere: no such folder or CSV file" in capsys.readouterr().err


def test_broken_videos_are_found_before_anything_is_measured(
    motion_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsm_edge.training.evaluate.run_clips", lambda *_arguments: pytest.fail("measured"))
    (tmp_path / "left").mkdir()
    write_clip(tmp_path / "left" / "one.mp4", draw_stream(1))
    for name in ("three.mp4", "two.mp4"):
        (tmp_path / "left" / name).write_bytes(b"")
    with pytest.raises(VideoError, match=r"three\.mp4: is empty \(0 bytes\) \(nor can be used: .*two\.mp4\)"):
        evaluate(EvaluateRequest(motion_artifact.path, str(tmp_path)))


def test_a_single_clip_of_one_class_can_be_measured(motion_artifact: Artifact, tmp_path: Path) -> None:
    """To measure, nothing is held out: no class needs three clips. Of the others nothing is said."""
    (tmp_path / "left").mkdir()
    write_clip(tmp_path / "left" / "one.mp4", draw_stream(1))
    measures = evaluate(EvaluateRequest(motion_artifact.path, str(tmp_path))).measures
    assert measures.overall.clips == 1
    assert [str(each) for each in measures.per_class].count("no clips") == len(LABELS) - 1


def test_pixels_of_held_out_clips_are_those_that_training_sees() -> None:
    """They are cropped already: a card that cuts a crop from a larger picture does not cut it again."""

    class Session:
        manifest = SimpleNamespace(preprocess=Preprocess(short_side=16, crop=12))
        seen: ClassVar[list[np.ndarray]] = []

        def reset(self) -> None:
            """Nothing is kept."""

        def step(self, pixels: np.ndarray) -> np.ndarray:
            self.seen.append(pixels.copy())
            return np.zeros((1, len(LABELS)), np.float32)

    frames, _ = held_out(5, 12, 1).batch([0])
    run_clips(Session(), held_out(5, 12, 1))  # type: ignore[arg-type]
    scale, offset = scale_and_offset(Session.manifest.preprocess)
    expected = frames[0].astype(np.float32) * np.array(scale) + np.array(offset)
    assert np.abs(np.concatenate(Session.seen).transpose(0, 2, 3, 1) - expected).max() < 1e-5


def test_intervals_are_wilsons() -> None:
    """Against values of SciPy (binomtest, method="wilson")."""
    assert (accuracy(96, 100).low, accuracy(96, 100).high) == pytest.approx((0.90163, 0.98434), abs=1e-5)
    assert (accuracy(0, 10).low, accuracy(0, 10).high) == pytest.approx((0.0, 0.27753), abs=1e-5)


def test_a_single_clip_is_one() -> None:
    assert (str(accuracy(1, 1)), str(accuracy(0, 2))) == (
        "100.0 % (20.7 to 100.0, 1 clip)",
        "0.0 % (0.0 to 65.8, 2 clips)",
    )


def test_measures_of_logits_made_by_hand() -> None:
    """Two classes, four frames: the first clip is right from its third frame on, the second never."""
    logits = np.zeros((2, 4, 2), np.float32)
    logits[0, :2, 1], logits[0, 2:, 0], logits[1, :, 0] = 1, 5, 1
    found = measure(logits, np.array([0, 1]), ("a", "b"))
    assert found.confusion == ((1, 0), (1, 0))
    assert (found.overall.right, found.per_class[1].right) == (1, 0)
    assert dict(found.early)[0.4] == 0.0
    assert dict(found.early)[1.0] == 0.5
