"""Cards from files and tables: the shipped ones by name, one's own by path."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tsm_edge.cards.model import ModelCard
from tsm_edge.cards.tables import Place, from_table
from tsm_edge.cards.target import TargetCard
from tsm_edge.errors import CardError, TextFileError, TsmEdgeError, unknown_name
from tsm_edge.files.atomic import read_text

# The card that a command works on where none is named.
DEFAULT_MODEL = "motion"


def model_names() -> list[str]:
    """Names of the shipped model cards, sorted."""
    return _card_names("models")


def target_names() -> list[str]:
    """Names of the shipped target cards, sorted."""
    return _card_names("targets")


def load_model(name: str | Path) -> ModelCard:
    """Read a model card by name (``mobilenetv2-jester``) or by path (``./mine.toml``).

    Raises
    ------
    CardError
        The card is unknown, has unknown keys, wrong types or impossible values.
    """
    path = _card_path("models", "model", name)
    table = read_toml(path)
    table.setdefault("name", path.stem)
    if "labels" in table:
        raise CardError(f"{path}: key 'labels' is not read from a card", 'name a file: labels_file = "labels.txt"')
    labels_file = table.get("labels_file")
    if isinstance(labels_file, str) and labels_file:
        table["labels"] = _read_labels(path.parent / labels_file, path)
    weights_file = table.get("weights_file")
    if isinstance(weights_file, str) and weights_file:
        table["weights_file"] = str(_weights(path.parent / weights_file, path))
    return from_table(ModelCard, table, _place(path, "models"))


def model_files(name: str | Path, card: ModelCard) -> tuple[Path, ...]:
    """The files that :func:`load_model` has read ``card`` from."""
    path = _card_path("models", "model", name)
    labels = [path.parent / card.labels_file] if card.labels_file else []
    weights = [Path(card.weights_file)] if card.weights_file else []
    return (path, *labels, *weights)


def target_file(name: str | Path) -> Path:
    """The file that :func:`load_target` reads."""
    return _card_path("targets", "target", name)


def shipped_records(target: str) -> Path | None:
    """The tuning records that come with a target's card; None: it has none."""
    path = _data_folder("targets") / "records" / f"{target}.jsonl"
    return path if path.is_file() else None


def model_to_table(card: ModelCard) -> dict[str, Any]:
    """Return a model card as plain values that JSON and TOML can hold; :func:`model_from_table` is its inverse."""
    table = dataclasses.asdict(card)
    table["network"]["shift_proportion"] = str(card.network.shift_proportion)
    return table


def model_from_table(table: Any, where: str) -> ModelCard:
    """Rebuild a model card from :func:`model_to_table`'s values; ``where`` names their origin in error messages.

    Raises
    ------
    CardError
        Unknown or missing keys, wrong types or impossible values.
    """
    return from_table(ModelCard, table, _place(where, "models"))


def load_target(name: str | Path) -> TargetCard:
    """Read a target card by name or path; ``native`` comes back filled in with what this machine reports.

    ``native-cuda`` keeps its placeholders, and ``detect``, where this machine has no GPU.

    Raises
    ------
    CardError
        The card is unknown, has unknown keys, wrong types or impossible values, or detection failed.
    """
    path = _card_path("targets", "target", name)
    table = read_toml(path)
    table.setdefault("name", path.stem)
    card = from_table(TargetCard, table, _place(path, "targets"))
    if card.detect:
        from tsm_edge.cards.detect import detect_cpu, detect_libc

        card = dataclasses.replace(card, cpu=detect_cpu(), libc=detect_libc())
    return _with_gpu(card) if card.detect and card.gpu is not None else card


def _with_gpu(card: TargetCard) -> TargetCard:
    from tsm_edge.cards.detect_gpu import detect_gpu

    try:
        return dataclasses.replace(card, gpu=detect_gpu(), detect=False)
    except CardError:  # said again where it is compiled for
        return card


@functools.cache
def _data_folder(kind: str) -> Path:
    """``models`` or ``targets``: inside an installed package, or at the top of a source checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / kind, package.parent / kind):
        if folder.is_dir():
            return folder
    raise CardError(
        f"the {kind} folder of tsm-edge is missing", "reinstall with: pip install --force-reinstall tsm-edge"
    )


def _card_names(kind: str) -> list[str]:
    return sorted(path.stem for path in _data_folder(kind).glob("*.toml"))


def _card_path(kind: str, noun: str, name: str | Path) -> Path:
    text = str(name)
    if text.endswith(".toml") or "/" in text:
        path = Path(text)
        if not os.path.isfile(path):  # also where the name is too long to be one
            shipped = f"the shipped one is called {path.stem}, " if path.stem in _card_names(kind) else ""
            raise CardError(f"{noun} card {text}: no such file", f"{shipped}see them with: tsm-edge {kind}")
        return path
    if text not in _card_names(kind):
        here = f"for the file here, ./{text}.toml; " if os.path.isfile(f"{text}.toml") else ""
        raise CardError(unknown_name(noun, text, _card_names(kind)), f"{here}see them with: tsm-edge {kind}")
    return _data_folder(kind) / f"{text}.toml"


def _place(where: str | Path, kind: str) -> Place:
    return Place(str(where), CardError, f"compare with the shipped cards: tsm-edge {kind} --json")


def read_toml(path: Path, kind: type[TsmEdgeError] = CardError) -> dict[str, Any]:
    """Read a TOML file that a person wrote.

    Raises
    ------
    TsmEdgeError
        Of ``kind``: it cannot be read, or is no TOML.
    """
    try:
        table: dict[str, Any] = tomllib.loads(read_text(path))
    except TextFileError as error:
        raise kind(error.problem, error.hint) from None
    # ValueError: also a number of thousands of digits; RecursionError: thousands of brackets.
    except (ValueError, RecursionError) as error:
        raise kind(f"{path}: not a readable TOML file ({error})", "correct it; toml.io explains the format") from None
    return table


def _weights(path: Path, card: Path) -> Path:
    if not os.path.isfile(path):
        raise CardError(f"{card}: weights_file {path}: no such file", "put the weights there, or leave the key out")
    return path


def _read_labels(path: Path, card: Path) -> list[str]:
    """Read a label file: one class a line, empty lines left out."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise TextFileError(f"{path}: is not a file", "name a text file with one class a line")
        lines = read_text(path).splitlines()
    except TextFileError as error:
        raise CardError(f"{card}: labels_file {error.problem}", error.hint) from None
    return [line.strip() for line in lines if line.strip()]
