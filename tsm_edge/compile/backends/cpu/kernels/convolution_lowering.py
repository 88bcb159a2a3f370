"""A fused convolution layer → the spec of its kernel: what it reads, and what the card's numbers make of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tsm_edge.compile.backends.common.workspace import Tensor
from tsm_edge.compile.backends.cpu.borders import NO_BORDER
from tsm_edge.compile.backends.cpu.choose.tiles import GemmTile, gemm_tile, gemm_tiles, k_block, k_loop, run_of_tiles
from tsm_edge.compile.backends.cpu.kernels.convolution_spec import ConvolutionSpec
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.layout import Image

# A wider kernel reads so many columns outside a planar frame that a padded copy of it costs less than guards.
WIDEST_GUARDED_KERNEL = 3


@dataclass(frozen=True)
class ConvolutionSettings:
    """What is chosen for a convolution.

    Attributes
    ----------
    tile : GemmTile
    prefetch : tuple of str
    k_block : int
        As in ``ConvolutionSpec``.
    """

    tile: GemmTile
    prefetch: tuple[str, ...] = ()
    k_block: int = 0


def convolution_inputs(at: Lowering, layer: ir.Convolution) -> dict[str, Tensor]:
    """The tensors a convolution reads, by the names of its kernel's arguments."""
    plain = at.tensors[layer.source]
    # The camera frame is read as it is, with guards at its edges, where a padded copy would cost more than they do.
    guarded = plain.image.channel > 1 and layer.weight.shape[3] <= WIDEST_GUARDED_KERNEL
    needed = NO_BORDER if guarded else at.border_of(layer)
    inputs = {"source": at.tensors.with_border(layer.source, needed)}
    if layer.residual is not None:
        inputs["residual"] = at.tensors.vectors(layer.residual)
    if layer.shift is not None:
        inputs["cache"] = at.tensors[layer.shift.cache]
    return inputs


def convolution_settings(at: Lowering, layer: ir.Convolution, images: Mapping[str, Image]) -> ConvolutionSettings:
    """The register tile by the card's numbers, and what comes from beyond L2; the k loop is whole."""
    source, target = images["source"], images["target"]
    outputs, _, *kernel = layer.weight.shape
    channels, group_vectors = _group_split(at.lanes, layer)
    reduction = channels * kernel[0] * kernel[1]
    tiled = group_vectors * at.lanes if group_vectors else outputs
    tile = gemm_tile(at.core, target.rows, target.width, reduction, tiled, paired=source.paired)
    if group_vectors:
        while group_vectors % tile.vectors:
            tile = gemm_tile(at.core, target.rows, target.width, reduction, (tile.vectors - 1) * at.lanes)
        tile = replace(tile, tail_vectors=0, panels=math.ceil(outputs / (tile.vectors * at.lanes)))
    return ConvolutionSettings(tile, far_operands(at, layer, images))


# Tiles that the model finds this much slower than the best are not worth a measurement.
WORST_TILE = 1.35
MOST_TILES = 8


def other_convolution_settings(
    at: Lowering, layer: ir.Convolution, images: Mapping[str, Image], settings: ConvolutionSettings
) -> Iterator[ConvolutionSettings]:
    """What may be faster than what was chosen, the likeliest first: the order of work, prefetch, other tiles."""
    tile = settings.tile
    yield replace(settings, tile=replace(tile, panels_outside=not tile.panels_outside))
    if at.core.can("prefetch"):
        everything = ("caches", *sorted({"residual", "source", "target"} & set(images)), "weights")
        yield from (replace(settings, prefetch=names) for names in ((), everything) if names != settings.prefetch)
    yield from (replace(settings, tile=other) for other in _other_tiles(at, layer, images, tile))
    for block in (tile.block * 2, tile.block // 2):
        if block:
            yield replace(settings, tile=replace(tile, block=block))


def _other_tiles(
    at: Lowering, layer: ir.Convolution, images: Mapping[str, Image], chosen: GemmTile
) -> Iterator[GemmTile]:
    channels, group_vectors = _group_split(at.lanes, layer)
    if group_vectors:  # a panel must end with its group: there is little to choose from
        return
    target, (outputs, _, *kernel) = images["target"], layer.weight.shape
    size = (target.rows, target.width, channels * kernel[0] * kernel[1], outputs)
    tiles = sorted(gemm_tiles(at.core, *size, paired=images["source"].paired), key=lambda tile: tile.cycles)
    near = [tile for tile in tiles if tile != chosen and tile.cycles <= WORST_TILE * tiles[0].cycles]
    yield from near[:MOST_TILES]


def convolution_spec(
    at: Lowering, layer: ir.Convolution, images: Mapping[str, Image], settings: ConvolutionSettings
) -> ConvolutionSpec:
    """The kernel of a layer with these operands."""
    source, kernel = images["source"], layer.weight.shape[2:]
    channels, group_vectors = _group_split(at.lanes, layer)
    return ConvolutionSpec(
        source=source,
        target=images["target"],
        kernel=(kernel[0], kernel[1]),
        strides=layer.strides,
        pad_top=layer.pads[0],
        pad_left=layer.pads[1],
        reduction_channels=channels,
        tile=settings.tile,
        lanes=at.lanes,
        low=layer.clamp.low,
        high=layer.clamp.high,
        groups=layer.groups,
        group_vectors=group_vectors,
        residual=images.get("residual"),
        cache=images.get("cache"),
        tap=images.get("tap"),
        prefetch=settings.prefetch,
        k_loop=k_loop(at.core),
        k_block=settings.k_block,
        frame_runs=layer.frame_runs,
        guarded=source.channel > 1 and source.border == NO_BORDER != at.border_of(layer),
    )


def in_k_blocks(at: Lowering, spec: ConvolutionSpec, settings: ConvolutionSettings) -> ConvolutionSettings:
    """With the k loop in blocks, where a panel's weights would not stay in L1 from one tile to the next.

    Only where weights are the larger part of what is read: a pixel is read once more for every panel.
    """
    if spec.group_vectors or spec.source.channel > 1 or spec.tiles < 2 or not spec.tile.panels_outside:
        return settings
    size = k_block(at.core, spec.tile, spec.kernel[0] * spec.kernel[1], spec.reduction_channels)
    # The first block has all of the shifted channels: where they reach into the last, it would be both.
    if not size or ceil_div(spec.shifted, size) >= ceil_div(spec.reduction_channels, size):
        return settings
    return replace(settings, k_block=size, tile=replace(settings.tile, block=run_of_tiles(spec.tiles)))


# Pixels that all panels read, one after the other, take this share of a core's L2 cache.
PIXELS_L2_SHARE = 0.5


def in_groups(at: Lowering, spec: ConvolutionSpec) -> ConvolutionSpec:
    """Of a clip, whose pixels are too many for L2: parted into groups that each go through all panels."""
    if at.graph.frames == 1 or not spec.tile.panels_outside:
        return spec
    groups = math.ceil(spec.source.bytes / (at.core.own_l2_bytes * PIXELS_L2_SHARE))
    return replace(spec, group=ceil_div(spec.blocks, groups)) if groups > 1 else spec


def far_operands(at: Lowering, layer: ir.Convolution, images: Mapping[str, Image]) -> tuple[str, ...]:
    """Operands too large to be found in the L2 cache, where asking for them ahead of their use is worth it.

    Arm's cores follow streams by themselves, and every instruction takes the place of another there: they run in
    order, or two or three a cycle.
    """
    if not at.core.can("prefetch"):
        return ()
    sizes = {name: image.bytes for name, image in images.items() if name in ("residual", "target")}
    # Weights are read once a frame: by the time they are needed again, all the others have gone by.
    sizes["weights"] = at.weight_bytes
    if layer.weight.shape[2:] == (1, 1) and images["source"].channel == 1:
        sizes["source"] = images["source"].bytes
    # The shift caches are touched once a frame too, however small.
    return ("caches", *sorted(name for name, size in sizes.items() if size > at.core.l2_bytes // 4))


def _group_split(lanes: int, layer: ir.Convolution) -> tuple[int, int]:
    """Reduction channels, and vectors of a panel's group (0: no groups).

    Groups that do not fill vectors are taken together until they do, with zero weights between them; if the number of
    groups does not allow that, all of them.
    """
    outputs, per_group = layer.weight.shape[:2]
    if layer.groups == 1:
        return per_group, 0
    of_group = outputs // layer.groups
    together = lanes // math.gcd(of_group, lanes)
    if layer.groups % together:
        together = layer.groups
    return per_group * together, math.ceil(of_group * together / lanes)
