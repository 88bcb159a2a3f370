"""Where training from nothing starts: random weights, among them detectors of motion.

From plain random weights a shifted network needs thousands of steps before it finds that a channel of the frame before
and one of this frame are worth comparing; until then nothing but pictures is learned. So the first layers of a
MobileNet-V2 start as what they would have to become: brightness and two colours in the channels that are shifted, the
same once more in channels that are not, the brightness' two derivatives beside them, and in the first shifted block
``|d/dt + d/dx| - |d/dt - d/dx|``, which has the sign of the motion. Every later shifted block starts with some units
that subtract the frame before. All of it is trained on like the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tsm_edge.networks.backbone import Backbone
from tsm_edge.networks.mobilenet_v2 import InvertedResidual, MobileNetV2

_BLUR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
_ACROSS = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
# A pixel less the mean of those around it.
_AROUND = torch.tensor([[-1.0, -1.0, -1.0], [-1.0, 8.0, -1.0], [-1.0, -1.0, -1.0]]) / 8
_POINT = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
# Brightness and two colour differences, of RGB.
_COLOURS = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-0.5, 1.0, -0.5]]) / 3
# Mean over standard deviation of half a bell curve: what puts the zero of a rectified channel back to zero.
_RECTIFIED = 0.7
# Two expanded units of every block, which no other detector uses: they hand channels on to later frames.
_ONE, _OTHER = 40, 41


@torch.no_grad()
def start(backbone: Backbone, seed: int, fades: bool = True) -> None:
    """Give a backbone the weights that training from nothing starts from.

    Parameters
    ----------
    backbone : Backbone
        Changed in place. A MobileNet-V2 gets as many of the detectors as its shift leaves channels for.
    seed : int
        Of all that is random.
    fades : bool
        With detectors of fades, too.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0, 0.01, generator=generator)
            module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    for norm in backbone.residual_norms():
        norm.weight.fill_(0.5)
    if isinstance(backbone, MobileNetV2):
        _subtract_frames(backbone, generator)
        if _has_room(backbone):
            _detect_motion(backbone)
            if fades:
                _detect_fades(backbone)


def _has_room(backbone: MobileNetV2) -> bool:
    """Whether the first shifted block's input holds what is shifted, that once more, and the two derivatives."""
    second, third = backbone.features[2:4]
    return (
        isinstance(third, InvertedResidual)
        and third.fold > 0
        and _first_derivative(second, third) + 2 <= _projection(second).shape[0]
    )


def _first_derivative(second: nn.Module, third: nn.Module) -> int:
    """Its channel: behind what is shifted, and behind that once more, or only the colours of it where room is short."""
    fold: int = third.fold  # type: ignore[assignment]
    whole = 2 * fold + 2 <= _projection(second).shape[0]
    return fold + (fold if whole else min(fold, len(_COLOURS)))


def _subtract_frames(backbone: MobileNetV2, generator: torch.Generator) -> None:
    """In each shifted block: the shifted channels twice, and units that take one frame from the other."""
    layers = list(backbone.features)
    for before, block in itertools.pairwise(layers):
        if not (isinstance(block, InvertedResidual) and block.fold and isinstance(before, InvertedResidual)):
            continue
        fold = block.fold
        if 2 * fold > _projection(block).shape[0]:
            continue
        _projection(before)[fold : 2 * fold] = _projection(before)[:fold]
        expand = _convolution(block, 0)
        units = expand.shape[0] // 3
        expand[:units] *= 0.3
        difference = torch.randn(units, fold, 1, 1, generator=generator) / fold**0.5
        expand[:units, :fold] = -difference
        expand[:units, fold : 2 * fold] = difference


def _detect_motion(backbone: MobileNetV2) -> None:
    stem, first, second, third = backbone.features[:4]
    fold = third.fold
    for colour, mix in enumerate(_COLOURS):
        for sign in (0, 1):
            stem[0].weight[2 * colour + sign] = (1 - 2 * sign) * mix[:, None, None] * _BLUR
    # The first block: all six rectified colours through, then their differences.
    _filter(first, 0, range(6), _POINT)
    _set_rows(_projection(first), {colour: {2 * colour: 1, 2 * colour + 1: -1} for colour in range(3)})
    # The second: brightness and colours, blurred, and the brightness' derivatives, each from rectified halves.
    expand: dict[int, dict[int, float]] = {}
    for colour in range(3):
        expand |= {2 * colour: {colour: 1}, 2 * colour + 1: {colour: -1}}
    _set_rows(_convolution(second, 0), expand)
    _filter(second, 3, range(6), _BLUR)
    _derive(second, 6, 0, _ACROSS)
    _derive(second, 10, 0, _ACROSS.T)
    across, channels = _first_derivative(second, third), _projection(second).shape[0]
    along = across + 1
    rows = {place: {2 * (place % fold % 3): 1.0, 2 * (place % fold % 3) + 1: -1.0} for place in range(across)}
    rows |= {place: _signed(6 + 4 * ((place - across) % 2)) for place in range(across, min(across + 4, channels))}
    _set_rows(_projection(second), rows)
    # The third: both signs of d/dt + d/dx and of d/dt - d/dx, blurred; their sums and difference.
    units = {}
    for axis, place in enumerate((across, along)):
        for index, (time, space) in enumerate(((1, 1), (-1, -1), (1, -1), (-1, 1))):
            units[4 * axis + index] = {0: -time, fold: time, place: space}
    _set_rows(_convolution(third, 0), units)
    _filter(third, 3, range(8), _BLUR)
    moving = {across + 2 + axis: {4 * axis + unit: (1, 1, -1, -1)[unit] for unit in range(4)} for axis in (0, 1)}
    if across + 3 < channels:
        _set_rows(_projection(third), moving)
        _carry(list(backbone.features)[4:-1], [*moving])


def _detect_fades(backbone: MobileNetV2) -> None:
    """The strength of edges and fine detail now, less what it was some frames ago: it grows while something appears."""
    layers = list(backbone.features)
    second, third = layers[2:4]
    across = _first_derivative(second, third)
    energy = across + 4
    runs = _later_runs(layers)
    # A frame further back in each block of a run takes a shifted channel more.
    if energy + 2 >= _projection(third).shape[0] or any(len(run) >= layers[run[0]].fold for run in runs):
        return
    # The second block: what a pixel differs from those around it, in brightness and in colours.
    for colour in range(3):
        _derive(second, 14 + 4 * colour, colour, _AROUND)
    _set_rows(_projection(second), {energy + colour: _signed(14 + 4 * colour) for colour in range(3)})
    # The third: both signs of that and of the brightness' two derivatives, blurred, together.
    signed = (across, across + 1, energy, energy + 1, energy + 2)
    detail = {8 + unit: {signed[unit // 2]: 1 - 2 * (unit % 2)} for unit in range(10)}
    _set_rows(_convolution(third, 0), detail)
    _filter(third, 3, [*detail], _BLUR)
    _set_rows(_projection(third), {energy: dict.fromkeys(detail, 1.0), energy + 1: {}, energy + 2: {}})
    third.conv[-1].weight[energy] = 1
    now = before = energy
    for index, run in enumerate(runs):
        now, before = _compare(layers, run, now, before, energy + index)
        _carry(layers[run[-1] + 1 : -1], [energy + index], 16 + 2 * index)


def _later_runs(layers: Sequence[nn.Module]) -> list[list[int]]:
    """Places of shifted blocks that follow each other, of all but the first."""
    shifted = [index for index, block in enumerate(layers) if isinstance(block, InvertedResidual) and block.fold][1:]
    return [
        [place for _, place in group]
        for _, group in itertools.groupby(enumerate(shifted), lambda numbered: numbered[1] - numbered[0])
    ]


def _compare(layers: Sequence[nn.Module], run: list[int], now: int, before: int, place: int) -> tuple[int, int]:
    """Hand a channel from block to block of a run, a frame later in each, and in the last take it from today's.

    Parameters
    ----------
    layers : sequence of nn.Module
    run : list of int
        Shifted blocks that follow each other.
    now, before : int
        Channels that enter the block in front of the run: today's, and the one to be handed on.
    place : int
        The difference's channel.

    Returns
    -------
    now, before : int
        The same two behind the run.
    """
    front, fold = layers[run[0] - 1], layers[run[0]].fold
    _through(front, {_ONE: {now: 1}, _OTHER: {before: 1}})
    _set_rows(
        _projection(front), {0: {_OTHER: 1}, fold: {_ONE: 1}, place: {}} | {1 + step: {} for step in range(len(run))}
    )
    for step, index in enumerate(run):
        block = layers[index]
        _through(block, {_ONE: {step: 1}})
        _set_rows(_projection(block), {step + 1: {_ONE: 1}, fold: {}})
        block.conv[-1].weight[step + 1] = 1
    _through(block, {_OTHER: {fold: 1, step: -1}}, 3)
    _set_rows(_projection(block), {place: {_OTHER: 1}})
    block.conv[-1].weight[place] = 1
    return fold, len(run)


def _through(block: nn.Module, units: Mapping[int, Mapping[int, float]], gain: float = 1.0) -> None:
    """Units of a block whose values of both signs pass its rectifiers, three standard deviations each."""
    _set_rows(_convolution(block, 0), units)
    for unit in units:
        block.conv[1].weight[unit], block.conv[1].bias[unit] = gain, 3
    _filter(block, 3, [*units], _BLUR, 3)


def _carry(layers: Sequence[nn.Module], places: list[int], first: int = 0) -> None:
    """Let channels through to the end, blurred where the picture gets smaller, by units from ``first`` on."""
    for block in layers:
        if not isinstance(block, InvertedResidual):
            continue
        if block.adds:
            block.conv[-1].weight[places] = 0.1  # type: ignore[union-attr]
            continue
        units = {
            first + 2 * index + sign: {place: 1 - 2 * sign} for index, place in enumerate(places) for sign in (0, 1)
        }
        _set_rows(_convolution(block, 0), units)
        _filter(block, 3, [*units], _BLUR)
        pairs = zip(*[iter(units)] * 2, strict=True)
        _set_rows(
            _projection(block),
            {place: {plus: 1, minus: -1} for place, (plus, minus) in zip(places, pairs, strict=True)},
        )


def _derive(block: nn.Module, first: int, channel: int, kernel: Tensor) -> None:
    """A kernel of a channel in four units from ``first`` on, for :func:`_signed` to put together."""
    for unit in range(4):
        _set_rows(_convolution(block, 0), {first + unit: {channel: 1 if unit < 2 else -1}})
        _filter(block, 3, [first + unit], kernel * (1 - 2 * (unit % 2)), 0.0)


def _signed(unit: int) -> dict[int, float]:
    """A derivative from its four rectified parts: of the bright and of the dark half, each of both signs."""
    return {unit: 1, unit + 1: -1, unit + 2: -1, unit + 3: 1}


def _convolution(block: nn.Module, index: int) -> Tensor:
    weight: Tensor = block.conv[index].weight  # type: ignore[index,union-attr,assignment]
    return weight


def _projection(block: nn.Module) -> Tensor:
    return _convolution(block, -2)


def _filter(block: nn.Module, index: int, units: range | list[int], kernel: Tensor, rest: float = _RECTIFIED) -> None:
    """Give depthwise units a kernel, and a BatchNorm that maps to ``rest`` what was zero's distance from the mean."""
    for unit in units:
        _convolution(block, index)[unit, 0] = kernel
        block.conv[index + 1].bias[unit] = rest  # type: ignore[index,union-attr]


def _set_rows(weight: Tensor, rows: Mapping[int, Mapping[int, float]]) -> None:
    """Set whole rows of a pointwise convolution: output -> input -> weight."""
    for row, entries in rows.items():
        weight[row] = 0
        for column, value in entries.items():
            weight[row, column] = value
