"""The training loop: batches split over threads, one set of weights, and a state that survives being killed.

Each worker has BatchNorm statistics of its own, as each GPU has in upstream's code, and computes gradients on its part
of a batch with a single thread: on a machine with other work this is twice as quick as threads that wait for each other
at every layer. The order of every sum is fixed, so that the same recipe gives the same weights.

On a GPU the workers' launches follow each other, and processes of their own make the clips meanwhile.
"""

from __future__ import annotations

import copy
import io
import pickle
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tsm_edge.cards import Preprocess
from tsm_edge.cards.normalisation import scale_and_offset
from tsm_edge.errors import CheckpointError, TsmEdgeError
from tsm_edge.files.atomic import write_atomic
from tsm_edge.networks.backbone import Backbone
from tsm_edge.networks.temporal_shift import Shift
from tsm_edge.progress import Progress
from tsm_edge.training.ahead import Batch, made_ahead
from tsm_edge.training.data import UNSEEN, Frames, HeldOutClips, Labels, TrainingClips
from tsm_edge.training.measures import label_after
from tsm_edge.training.place import HERE, TrainingPlace
from tsm_edge.training.recipe import Recipe

_SAVE_EVERY_S = 60.0
_CHUNK = 24  # clips that are measured at once
_CALIBRATED = 6  # chunks whose statistics are those of parts that are not trained yet


class Diverged(TsmEdgeError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class Point:
    """How far a training was at a moment.

    Attributes
    ----------
    step, clips : int
        Behind it.
    loss : float
        Mean since the point before.
    accuracy : float
        On the validation clips, 0..1.
    seconds : float
        Of training until here, of all runs together.
    """

    step: int
    clips: int
    loss: float
    accuracy: float
    seconds: float


@dataclass
class Progressing:
    """What has to be kept to go on after a kill, beside the tensors."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)


class Loop:
    """Trains a backbone in place.

    Parameters
    ----------
    backbone : Backbone
        Its parameters that require gradients are trained.
    shift : Shift
        The temporal shift over whole clips.
    preprocess : Preprocess
        Mean and standard deviation of the frames.
    recipe : Recipe
    online : bool
        Every frame is to be told by itself, from what came before; else the mean of a clip's logits is.
    fixed : sequence of nn.Module
        Parts that stay as they are, with their BatchNorm statistics.
    late : sequence of nn.Module
        Parts that stay as they are until the recipe's ``thaw``.
    place : TrainingPlace
        What computes. The backbone is moved there.
    """

    def __init__(
        self,
        backbone: Backbone,
        shift: Shift,
        preprocess: Preprocess,
        recipe: Recipe,
        online: bool,
        fixed: Sequence[nn.Module] = (),
        late: Sequence[nn.Module] = (),
        place: TrainingPlace = HERE,
    ) -> None:
        self._place = place
        self._recipe = recipe
        self._online = online
        self._shift = shift
        scale, offset = scale_and_offset(preprocess)
        self._scale, self._offset = (
            torch.from_numpy(np.array(values, np.float32)).to(place.device) for values in (scale, offset)
        )
        # Channels last is the quicker order of a CPU's convolutions, not of cuDNN's in float32.
        if place.device == "cpu":
            backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        backbone.to(place.device)
        for module in backbone.modules():
            if isinstance(module, nn.ReLU6):
                module.inplace = True
        self._replicas = [backbone, *(_with_shared_parameters(backbone) for _ in range(recipe.workers - 1))]
        fixed_names = [name for name, module in backbone.named_modules() if any(module is part for part in fixed)]
        late_names = [name for name, module in backbone.named_modules() if any(module is part for part in late)]
        self._late = [[dict(replica.named_modules())[name] for name in late_names] for replica in self._replicas]
        self._set_modes = [_modes(replica, fixed_names, recipe.partial_bn) for replica in self._replicas]
        self._parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
        self._optimizer = _optimizer(self._parameters, recipe)
        self._held = False
        self.progress = Progressing()

    def train(
        self,
        clips: TrainingClips,
        validation: HeldOutClips,
        state: Path | None,
        tell: Progress,
        measure: int = 8,
        training: str = "",
    ) -> tuple[Point, ...]:
        """Train to the end of the recipe, from where ``state`` left off.

        Parameters
        ----------
        clips, validation : TrainingClips, HeldOutClips
        state : Path or None
            File in which the state is kept while training, about once a minute.
        tell : callable
            Told of the loss, the accuracy and the time left.
        measure : int
            How often accuracy is measured on the way.
        training : str
            What beside the recipe tells this training from others: ``state`` must be of the same.

        Returns
        -------
        tuple of Point

        Raises
        ------
        CheckpointError
            ``state`` is of another training, or damaged.
        Diverged
            The loss is no number any more.
        TsmEdgeError
            There is not one batch of clips.
        """
        recipe, now = self._recipe, self.progress
        if state is not None and state.exists():
            self._restore(state, training)
            tell(f"going on after step {now.step}", 0.0)
        per_epoch = clips.per_epoch // recipe.batch
        if not per_epoch:
            raise TsmEdgeError(
                f"{clips.per_epoch} clips to train on, expected at least a batch of {recipe.batch}",
                f"try: --batch {max(clips.per_epoch // recipe.workers, 1) * recipe.workers}, or give more clips",
            )
        steps = per_epoch * recipe.epochs
        measured_at = {round(steps * (index + 1) / measure) for index in range(measure)}
        began_s, before_s, saved_s = time.monotonic(), now.seconds, time.monotonic()
        first = now.step
        asked = (part for step in range(first, steps) for part in self._parts(step, per_epoch))
        with _Workers(recipe.workers) as pool, made_ahead(clips.training_batch, asked, self._place.loaders) as made:
            if not now.step:
                self._calibrate(clips)
            while now.step < steps:
                self._hold(now.step < recipe.thaw * steps)
                self._step(pool, made, now.step / steps)
                now.step += 1
                spent_s = time.monotonic() - began_s
                now.seconds = before_s + spent_s
                left_s = spent_s / (now.step - first) * (steps - now.step)
                if now.step in measured_at:
                    self._measure(pool, validation)
                tell(self._text(left_s), now.step / steps)
                if state is not None and (time.monotonic() - saved_s > _SAVE_EVERY_S):
                    self._save(state, training)
                    saved_s = time.monotonic()
        self._average_statistics()
        for replica in self._replicas:
            replica.eval()
        return tuple(now.points)

    def logits(self, clips: HeldOutClips, indices: Sequence[int]) -> tuple[Tensor, Labels]:
        """Logits of each frame, float ``[clips, T, classes]``, and the labels, in eval mode."""
        self._average_statistics()
        with _Workers(self._recipe.workers) as pool:
            return self._logits(pool, clips, indices)

    def _text(self, left_s: float) -> str:
        points, losses = self.progress.points, self.progress.losses[-50:]
        accuracy = f", validation {100 * points[-1].accuracy:.1f} %" if points else ""
        loss = sum(losses) / len(losses) if losses else points[-1].loss
        return f"step {self.progress.step}: loss {loss:.3f}{accuracy}, {_duration(left_s)} left"

    def _hold(self, held: bool) -> None:
        """Keep the late parts as they are, or train them."""
        self._held = held
        for module in self._late[0]:  # the replicas share their parameters
            module.requires_grad_(not held)

    @torch.no_grad()
    def _calibrate(self, clips: TrainingClips) -> None:
        """Give the late parts the statistics of some clips: they hold them fixed until they are trained."""
        norms = [module for part in self._late[0] for module in part.modules() if isinstance(module, nn.BatchNorm2d)]
        if not (norms and self._recipe.thaw):
            return
        self._replicas[0].train()
        momentum = norms[0].momentum
        for norm in norms:
            norm.momentum = None  # the mean of all batches
        for batch in range(_CALIBRATED):
            places = [place % clips.per_epoch for place in range(batch * _CHUNK, (batch + 1) * _CHUNK)]
            self._replicas[0].extract(self.tensor(clips.training_batch(0, places)[0]), self._shift)
        for norm in norms:
            norm.momentum = momentum
        for late in self._late[1:]:
            for ours, first in zip(late, self._late[0], strict=True):
                ours.load_state_dict(first.state_dict())

    def _parts(self, step: int, per_epoch: int) -> Iterator[tuple[int, Sequence[int]]]:
        """Epoch and places of each worker's clips."""
        epoch, batch = divmod(step, per_epoch)
        places = range(batch * self._recipe.batch, (batch + 1) * self._recipe.batch)
        return ((epoch, places[worker :: self._recipe.workers]) for worker in range(self._recipe.workers))

    def _step(self, pool: ThreadPoolExecutor, made: Iterator[Callable[[], Batch]], done: float) -> None:
        workers = self._recipe.workers
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.rate_at(done)
        parts = list(pool.map(self._gradients, range(workers), [next(made) for _ in range(workers)]))
        loss = sum(part[0] for part in parts) / workers
        if not np.isfinite(loss):
            raise Diverged("training diverged: the loss is no number any more", "try a smaller rate: --rate R")
        self._optimizer.zero_grad()
        for index, parameter in enumerate(self._trained()):
            parameter.grad = sum(part[1][index] for part in parts) / workers  # type: ignore[assignment]
        nn.utils.clip_grad_norm_(self._trained(), self._recipe.clip_norm)
        self._optimizer.step()
        self.progress.losses.append(loss)

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._parameters if parameter.requires_grad]

    def _gradients(self, worker: int, made: Callable[[], Batch]) -> tuple[float, Sequence[Tensor]]:
        frames, labels = made()
        replica = self._replicas[worker]
        self._set_modes[worker]()
        if self._held:
            for module in self._late[worker]:
                module.eval()
        features = replica.extract(self.tensor(frames), self._shift).mean((2, 3))
        if self._recipe.dropout:
            generator = torch.Generator().manual_seed(
                (self._recipe.seed * 1_000_003 + self.progress.step) * 64 + worker
            )
            kept = torch.rand(features.shape, generator=generator) >= self._recipe.dropout
            features = features * kept.to(features.device) / (1 - self._recipe.dropout)
        logits, truth = replica.head(features), torch.from_numpy(labels).to(features.device)
        if not self._online:
            logits, truth = logits.unflatten(0, truth.shape).mean(1), truth[:, -1]
        loss = nn.functional.cross_entropy(
            logits, truth.flatten(), ignore_index=UNSEEN, label_smoothing=self._recipe.smoothing, reduction="sum"
        )
        # Of short pieces there may be none whose motion is seen yet.
        loss = loss / (truth != UNSEEN).sum().clamp(min=1)
        return loss.item(), torch.autograd.grad(loss, self._trained())

    def tensor(self, frames: Frames) -> Tensor:
        """Normalised float ``[n * T, 3, H, W]`` of uint8 ``[n, T, H, W, 3]``."""
        pixels = torch.from_numpy(frames).flatten(0, 1).to(self._place.device).float()
        return pixels.mul_(self._scale).add_(self._offset).permute(0, 3, 1, 2)

    def _measure(self, pool: ThreadPoolExecutor, validation: HeldOutClips) -> None:
        now = self.progress
        self._average_statistics()
        logits, labels = self._logits(pool, validation, range(len(validation)))
        found = label_after(logits.numpy(), labels.shape[1], self._online)
        accuracy = float((found == labels[:, -1]).mean())
        now.points.append(
            Point(now.step, now.step * self._recipe.batch, float(np.mean(now.losses)), accuracy, now.seconds)
        )
        now.losses.clear()

    def _logits(self, pool: ThreadPoolExecutor, clips: HeldOutClips, indices: Sequence[int]) -> tuple[Tensor, Labels]:
        chunks = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
        replica = self._replicas[0].eval()

        def measured(chunk: Sequence[int]) -> tuple[Tensor, Labels]:
            frames, labels = clips.batch(chunk)
            with torch.no_grad():
                return replica(self.tensor(frames), self._shift).unflatten(0, labels.shape).cpu(), labels

        done = list(pool.map(measured, chunks))
        return torch.cat([part[0] for part in done]), np.concatenate([part[1] for part in done])

    def _average_statistics(self) -> None:
        """Give the first replica the mean of all workers' BatchNorm statistics."""
        first, *others = [dict(replica.named_buffers()) for replica in self._replicas]
        for name, buffer in first.items():
            if buffer.is_floating_point() and others:
                mean = sum((other[name] for other in others), buffer) / len(self._replicas)
                for each in (first, *others):
                    each[name].copy_(mean)

    def _save(self, path: Path, training: str) -> None:
        stored: dict[str, Any] = {
            "recipe": repr(self._recipe),
            "training": training,
            "progress": {**vars(self.progress), "points": [vars(point) for point in self.progress.points]},
            "optimizer": self._optimizer.state_dict(),
            "replicas": [replica.state_dict() for replica in self._replicas],
        }
        data = io.BytesIO()
        torch.save(stored, data)
        write_atomic(path, data.getvalue())

    def _restore(self, path: Path, training: str) -> None:
        try:
            stored = torch.load(path, weights_only=True, map_location=self._place.device)
            for name, ours, what in (
                ("recipe", repr(self._recipe), "with another recipe"),
                ("training", training, "of other clips, or of another network or start"),
            ):
                if stored[name] != ours:
                    raise CheckpointError(
                        f"{path}: is of a training {what}",
                        f"repeat its options, choose another -o DIR, or begin again: rm {shlex.quote(str(path))}",
                    )
            for replica, tensors in zip(self._replicas, stored["replicas"], strict=True):
                replica.load_state_dict(tensors)
            self._optimizer.load_state_dict(stored["optimizer"])
            points = [Point(**point) for point in stored["progress"].pop("points")]
            self.progress.__dict__.update(**stored["progress"], points=points)
        except (OSError, KeyError, TypeError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{path}: cannot go on from it ({type(error).__name__})", f"begin again: rm {shlex.quote(str(path))}"
            ) from None


def _with_shared_parameters(backbone: Backbone) -> Backbone:
    """A copy with the same parameters, not equal ones, and buffers of its own."""
    made = copy.deepcopy(backbone)
    for ours, theirs in zip(made.modules(), backbone.modules(), strict=True):
        ours._parameters.update(theirs._parameters)
    return made


def _modes(replica: Backbone, fixed_names: Sequence[str], partial_bn: bool) -> Callable[[], None]:
    """A function that puts a replica into training mode, apart from what stays as it is."""
    modules = dict(replica.named_modules())
    still = [modules[name] for name in fixed_names]
    if partial_bn:
        still += [module for module in modules.values() if isinstance(module, nn.BatchNorm2d)][1:]

    def set_modes() -> None:
        replica.train()
        for module in still:
            module.eval()

    return set_modes


def _optimizer(parameters: Sequence[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    groups = [
        {"params": [item for item in parameters if item.dim() > 1], "weight_decay": recipe.decay},
        {"params": [item for item in parameters if item.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, recipe.rate)


class _Workers:
    """Threads with one of PyTorch's own each; PyTorch's setting here is given back."""

    def __init__(self, count: int) -> None:
        self._before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))

    def __enter__(self) -> ThreadPoolExecutor:
        torch.set_num_threads(1)
        return self._pool

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._before)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min" if minutes >= 10 else f"{minutes} min {rest:02d} s"
