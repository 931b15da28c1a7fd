"""What a model folder holds besides weights: the tokenizer's files, and a folder of only that."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from pathlib import Path

from evomerge.merge.depths import slots_config
from evomerge.merge.sources import Sources
from evomerge.merge.vocabulary import FAST, SLOW

TOKENIZER_FILES = (
    FAST,
    *SLOW,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
TEMPLATES = "additional_chat_templates"
_WEIGHTS = (
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".pt",
    ".pth",
    ".gguf",
)


def write_tokenizer(sources: Sources, default: str, folder: Path) -> None:
    """Write the result's tokenizer files, and its generation_config.json.

    Args:
        sources: with the recipe's tokenizer.
        default: source that brings them where none was chosen.
        folder: where they go.
    """
    origin = sources.folder(sources.tokenizer_of or default)
    made = sources.tokenizer_text
    for name in TOKENIZER_FILES:
        if (origin / name).is_file() and not (made and name in SLOW):
            shutil.copyfile(origin / name, folder / name)
    if made:
        (folder / FAST).write_text(made, encoding="utf-8")
    if (origin / TEMPLATES).is_dir():
        shutil.copytree(origin / TEMPLATES, folder / TEMPLATES)
    # It names tokens by their ids, which are the chosen tokenizer's if rows were matched.
    generation = (origin if sources.matched else sources.folder(default)) / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, folder / generation.name)


def model_folder(sources: Sources, layers: int | None = None, *, of_each_kind: bool = True) -> Path:
    """A folder with the configuration and the tokenizer of an engine's model for these sources.

    The first source's own, unless vocabulary, tokenizer, tying or depth change; then a temporary
    one without weights, which is gone when `sources` is.

    Args:
        sources: opened and compatible.
        layers: of the deepest candidate, where layers move; None: all stay in their places.
        of_each_kind: `layers` slots of every kind of layer that the sources have (sliding and full
            attention, say), for engines whose slots keep their kind: a candidate may be all of one
            kind. False: `layers` slots, each kind among them.

    Raises:
        InputError: layers that cannot move; see `depths.LayerKinds`.
    """
    first = sources.names[0]
    own = sources.folder(first)
    same_tokens = sources.tokenizer_of in (None, first) and not sources.tokenizer_text
    stored = json.loads((own / "config.json").read_text(encoding="utf-8"))
    config = slots_config(sources, layers, of_each_kind=of_each_kind)
    if same_tokens and config == stored:
        return own
    folder = Path(tempfile.mkdtemp(prefix="evomerge-model-"))
    weakref.finalize(sources, shutil.rmtree, folder, ignore_errors=True)
    for path in own.iterdir():
        if path.is_file() and path.name not in TOKENIZER_FILES and not path.name.endswith(_WEIGHTS):
            shutil.copyfile(path, folder / path.name)
    write_tokenizer(sources, first, folder)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
