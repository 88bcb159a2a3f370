"""Which way a strided convolution in halfs takes: gathered by each block of threads, or once, by a launch before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.choose.cycles import elapsed
from tsm_edge.compile.backends.cuda.choose.tiles import gemm_tile, is_legal, microseconds, other_tiles
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec, GemmTile
from tsm_edge.compile.backends.cuda.kernels.patches_spec import PatchesSpec

# Share of the time of gathering in each block from which a launch more is worth it.
WORTH = 0.95


@dataclass(frozen=True)
class PatchesSettings:
    """What the rule chooses.

    Attributes
    ----------
    product : GemmTile
    """

    product: GemmTile


@dataclass(frozen=True)
class PatchesSpecs:
    """The two launches of a convolution."""

    patches: PatchesSpec
    product: GemmSpec


def patches_specs(direct: GemmSpec, tile: GemmTile) -> PatchesSpecs:
    """What computes the same as a matrix product with a window of one group."""
    if direct.window is None:
        raise TypeError("a 1×1 convolution has no patches")
    patches = PatchesSpec(direct.source, direct.target, direct.window, direct.shift)
    product = replace(direct, source=patches.target, tile=tile, window=None, shift=0)
    return PatchesSpecs(patches, product)


def patches_settings(gpu: GpuSpec, direct: GemmSpec) -> PatchesSettings | None:
    """The settings of the way through patches; None: gathering in each block is faster.

    Parameters
    ----------
    gpu : GpuSpec
    direct : GemmSpec
        The convolution as a matrix product; its tile is a placeholder.
    """
    product = patches_specs(direct, direct.tile).product
    specs = patches_specs(direct, gemm_tile(gpu, product))
    time = elapsed(gpu, 0.0, specs.patches.bytes) + microseconds(gpu, specs.product)
    gathered = microseconds(gpu, replace(direct, tile=gemm_tile(gpu, direct)))
    return PatchesSettings(specs.product.tile) if time < WORTH * gathered else None


def all_patches_settings(gpu: GpuSpec, direct: GemmSpec) -> Iterator[PatchesSettings]:
    """Those with the best products, best first by the model: what a tuner tries."""
    yield from map(PatchesSettings, other_tiles(gpu, patches_specs(direct, direct.tile).product))


def is_patches_legal(direct: GemmSpec, settings: PatchesSettings) -> bool:
    """Whether the kernels can be written for these settings."""
    return is_legal(patches_specs(direct, settings.product).product)
