"""The model as the server is given it, and the token ids that prompts may be made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from perfgate.errors import InputError
from perfgate.server import ModelRef
from perfgate.server.spec import model_path
from perfgate.targets import ModelSpec
from perfgate.tinymodel import dummy_model

SAFE_FIRST, SAFE_END = 1000, 30000
"""Ids that are ordinary tokens in every large vocabulary: special ones sit at the very beginning or the end."""


class Vocabulary(TypedDict):
    """Which ids prompts are drawn from."""

    vocab_size: int
    first_id: int


def model_reference(model: ModelSpec, root: Path) -> ModelRef:
    """Name and path of the model; a dummy one is made if it is not there yet.

    Raises:
        InputError: a hub model without id, a dummy one without configuration, or a folder without ``config.json``.
    """
    if model.kind == "dummy":
        return ModelRef(name=model.name, path=str(dummy_model(model.name, model.config)))
    if model.id is None:
        raise InputError(
            f"model {model.name!r} has no id",
            remedy=f'Set id = "ORG/NAME" or a folder in its [models.{model.name}] entry.',
        )
    path = model_path(model.id, root)
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(
            f"model {model.name!r}: {folder} has no config.json",
            remedy="Give the folder that holds the model itself.",
        )
    if model.id.startswith(("/", "./", "../", "~")) and not folder.is_dir():
        raise InputError(
            f"model {model.name!r}: no folder {model.id}", remedy="Give an existing folder, or a hub id."
        )
    return ModelRef(name=model.name, path=path)


def vocabulary(reference: ModelRef) -> Vocabulary:
    """The range that prompts are drawn from: the model's own where its configuration is at hand, a safe one otherwise."""
    config = Path(reference.path) / "config.json"
    size = SAFE_END
    if config.is_file():
        try:
            data = json.loads(config.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(
                f"{config}: cannot be read: {error}", remedy="Repair the model folder."
            ) from error
        found = data.get("vocab_size", data.get("text_config", {}).get("vocab_size"))
        if isinstance(found, int):
            size = found
    if size >= SAFE_END:
        return Vocabulary(vocab_size=SAFE_END, first_id=SAFE_FIRST)
    # A small vocabulary begins with special tokens and single bytes; what follows are whole words.
    return Vocabulary(vocab_size=size, first_id=min(300, size // 2))
