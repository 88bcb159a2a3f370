"""Model and target cards: what is declared in ``models/*.toml`` and ``targets/*.toml``.

A card is a frozen dataclass read from TOML. Unknown keys, wrong types and impossible values are refused when the
card is read, so every later stage can rely on what it is given. Adding a board or a model is adding a file.
"""

from tsm_edge.cards.load import (
    DEFAULT_MODEL,
    load_model,
    load_target,
    model_files,
    model_from_table,
    model_names,
    model_to_table,
    shipped_records,
    target_file,
    target_names,
)
from tsm_edge.cards.model import (
    BACKBONES,
    FLOW_CHANNELS,
    LARGEST_SEED,
    RGB_CHANNELS,
    SHIFT_PROPORTIONS,
    Extent,
    ModelCard,
    NetworkSpec,
    Preprocess,
    ShiftPlace,
    Smoothing,
    TemporalMode,
    extent_of,
    extent_text,
    height_width,
)
from tsm_edge.cards.target import Ability, CpuSpec, GpuSpec, TargetCard

__all__ = [
    "BACKBONES",
    "DEFAULT_MODEL",
    "FLOW_CHANNELS",
    "LARGEST_SEED",
    "RGB_CHANNELS",
    "SHIFT_PROPORTIONS",
    "Ability",
    "CpuSpec",
    "Extent",
    "GpuSpec",
    "ModelCard",
    "NetworkSpec",
    "Preprocess",
    "ShiftPlace",
    "Smoothing",
    "TargetCard",
    "TemporalMode",
    "extent_of",
    "extent_text",
    "height_width",
    "load_model",
    "load_target",
    "model_files",
    "model_from_table",
    "model_names",
    "model_to_table",
    "shipped_records",
    "target_file",
    "target_names",
]
