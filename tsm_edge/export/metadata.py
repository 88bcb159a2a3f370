"""What tsm-edge writes into an ONNX file besides the network: enough to compile and run the file by itself.

Keys of ``metadata_props``; every value is JSON:

=======================  ===========================================================================================
``tsm_edge.format``      version of this scheme, a number: 1
``tsm_edge.version``     version of tsm-edge that wrote the file
``tsm_edge.model``       name, description and source of the model card
``tsm_edge.network``     backbone, classes, temporal mode, cache proportion and the rest of :class:`NetworkSpec`
``tsm_edge.preprocess``  resize, crop and normalisation (:class:`Preprocess`)
``tsm_edge.smoothing``   how a live label is steadied (:class:`Smoothing`)
``tsm_edge.labels``      class names; empty list: none
``tsm_edge.weights``     where the weights come from (:class:`WeightSource`)
=======================  ===========================================================================================
"""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsm_edge.cards import ModelCard, model_from_table, model_to_table
from tsm_edge.cards.tables import Place, from_table
from tsm_edge.errors import CardError, ModelFileError

if typing.TYPE_CHECKING:
    import onnx

_PREFIX = "tsm_edge."
_FORMAT = 1
_CARD_PARTS = ("network", "preprocess", "smoothing", "labels")


@dataclass(frozen=True)
class WeightSource:
    """Where a network's weights come from: a checkpoint, or a seed.

    Attributes
    ----------
    checkpoint : str
        File name without its folder; empty for random weights.
    sha256 : str
        Of the checkpoint file, hexadecimal; empty for random weights.
    trained_mode : str
        Temporal mode the checkpoint was trained in, which may differ from the network's where the user allowed it;
        empty for random weights.
    seed : int
        Of the random weights; 0 with a checkpoint.
    part : str
        Which of the checkpoint's state dicts they are; empty where it has one only.
    beside : str
        The others, not used: a running average (EMA), for example.
    from_rgb : bool
        They are an RGB network's in a network for optical flow, which has yet to be trained.
    """

    checkpoint: str = ""
    sha256: str = ""
    trained_mode: str = ""
    seed: int = 0
    part: str = ""
    beside: str = ""
    from_rgb: bool = False

    @property
    def random(self) -> bool:
        """Whether the weights are random, so that predictions mean nothing."""
        return not self.sha256

    def __str__(self) -> str:
        if self.random:
            return f"random, seed {self.seed}"
        which = f", its {self.part or 'weights'}, not its {self.beside}" if self.beside else ""
        start = ", of RGB, to begin training with" if self.from_rgb else ""
        return f"{self.checkpoint}{which}{start} (sha256 {self.sha256[:12]})"


@dataclass(frozen=True)
class OnnxMetadata:
    """What :func:`read_metadata` finds in a file that tsm-edge exported.

    Attributes
    ----------
    card : ModelCard
        The card as exported, its temporal mode and class count being those of the file.
    weights : WeightSource
    version : str
        Version of tsm-edge that wrote the file.
    """

    card: ModelCard
    weights: WeightSource
    version: str


def write_metadata(model: onnx.ModelProto, metadata: OnnxMetadata) -> None:
    """Put ``metadata`` into ``model``'s ``metadata_props``, replacing what tsm-edge wrote there before."""
    card = model_to_table(metadata.card)
    del card["weights_file"]  # a place on this machine; what the weights were is said below
    values = {part: card.pop(part) for part in _CARD_PARTS}
    values |= {
        "format": _FORMAT,
        "version": metadata.version,
        "model": card,
        "weights": dataclasses.asdict(metadata.weights),
    }
    kept = [entry for entry in model.metadata_props if not entry.key.startswith(_PREFIX)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in sorted(values.items()):
        entry = model.metadata_props.add()
        entry.key, entry.value = _PREFIX + key, json.dumps(value, ensure_ascii=False)


def read_metadata(source: str | Path | onnx.ModelProto) -> OnnxMetadata | None:
    """Read the metadata of an ONNX file or a loaded model.

    Returns
    -------
    OnnxMetadata or None
        None for a foreign file, one that tsm-edge did not export.

    Raises
    ------
    ModelFileError
        The file is not a readable ONNX model, or its tsm-edge metadata is damaged or of a newer format.
    """
    where, model = (str(source), _load(source)) if isinstance(source, (str, Path)) else ("the ONNX model", source)
    raw = {entry.key[len(_PREFIX) :]: entry.value for entry in model.metadata_props if entry.key.startswith(_PREFIX)}
    if not raw:
        return None
    again = "export it again with: tsm-edge export"
    try:
        values: dict[str, Any] = {key: json.loads(value) for key, value in raw.items()}
        if values["format"] != _FORMAT:
            raise ModelFileError(f"{where}: tsm_edge.format is {values['format']!r}, expected {_FORMAT}", again)
        table = values["model"] | {part: values[part] for part in _CARD_PARTS}
        card = model_from_table(table, where)
        weights = from_table(
            WeightSource,
            values["weights"],
            Place(f"{where}: its tsm_edge metadata is damaged: weights", ModelFileError, again),
        )
        return OnnxMetadata(card, weights, str(values["version"]))
    except KeyError as error:
        raise ModelFileError(f"{where}: metadata tsm_edge.{error.args[0]} is missing", again) from None
    except (ValueError, TypeError, RecursionError, CardError) as error:
        reason = error.problem if isinstance(error, CardError) else str(error)
        raise ModelFileError(f"{where}: its tsm_edge metadata is damaged ({reason})", again) from None


def _load(path: str | Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not an ONNX model"
        raise ModelFileError(f"{path}: cannot be read ({reason})", "expected a file from: tsm-edge export") from None
