"""What a space of stacks needs beyond what merging does, checked before the night.

A merged layer runs under the configuration of its place; in a stack a layer also runs beside layers of
other models, under one configuration for all of them. So what merging warns of (another rotary base,
another epsilon) is refused here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search_spaces.errors import InputError
from search_spaces.roles import role
from search_spaces.space import SearchSpace
from search_spaces.stacking import Hop, Pool

if TYPE_CHECKING:
    from evomerge.merge.sources import Sources

_APART = frozenset(
    (
        "architectures",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "embd_pdrop",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "is_encoder_decoder",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "resid_pdrop",
        "return_dict",
        "tie_word_embeddings",
        "transformers_version",
        "use_cache",
        "vocab_size",
    )
)
"""Keys of a configuration that change nothing a layer computes, or that are looked at elsewhere."""

_WINDOW = "max_position_embeddings"
"""Changes what a layer computes only where the rotary embedding is scaled by it."""


def check_stackable(sources: "Sources", space: SearchSpace) -> None:
    """Refuse sources whose layers cannot stand in any order, beside each other.

    Args:
        sources: opened and compatible.
        space: of stacks.

    Raises:
        InputError: an architecture for which stacks are not known to work, sources whose
            configurations differ in what layers compute (which key), a tensor that one lacks, a
            starting point that cannot be made, input scales that cannot be folded.
    """
    from evomerge.merge.families import family_of
    from evomerge.merge.weights import MergedWeights

    first, *others = sources.names
    family_of(sources.config(first))
    for other in others:
        check_one_configuration(sources, first, other)
    _check_whole(sources)
    weights = MergedWeights(sources)
    for name, genome in space.seeds().items():
        try:
            weights.prepare(space.decode(genome))
            weights.stack()
        except InputError as error:
            where = f"starting point '{name}', {error.where}"
            raise InputError(error.passed, error.rule, where, error.remedy) from None


def check_scales_fold(sources: "Sources", scales: Sequence[float]) -> None:
    """Refuse input scales where they cannot become weights.

    Args:
        sources: opened and compatible.
        scales: the least and the greatest that may come (of both signs, if they do).

    Raises:
        InputError: the architecture, and why.
    """
    from evomerge.merge.folding import folds

    first, last = sources.names[0], sources.layers - 1
    pool = Pool([first], sources.layers, {})
    for scale in scales:
        folds(pool.stack([Hop(first, last), Hop(first, last, scale)]), sources)


def check_one_configuration(sources: "Sources", first: str, other: str) -> None:
    """Refuse two sources whose layers cannot run under one configuration.

    Raises:
        InputError: which key differs, and both values.
    """
    mine, theirs = _computed_by(sources.config(first)), _computed_by(sources.config(other))
    for key in sorted(mine.keys() | theirs.keys(), key=lambda key: (key == _WINDOW, key)):
        if mine.get(key) != theirs.get(key):
            raise InputError(
                f"{key} {mine.get(key)} and {theirs.get(key)}",
                "in a stack, layers of both run under one configuration",
                f"sources {first} and {other}",
                "stack fine-tunes of one base model, or merge them (space.kind: parameter)",
            )


def _computed_by(config: dict[str, Any]) -> dict[str, Any]:
    """What layers compute by, of a config.json, as transformers completes it: dotted key -> value."""
    from transformers import CONFIG_MAPPING

    from evomerge.merge.checkpoint import text_config
    from evomerge.merge.depths import SAYS_KINDS

    # A layer takes its kind with it; how wide its window is, the one configuration says.
    by_layer = {*SAYS_KINDS} - {"sliding_window"}
    text = text_config(config)
    kind = CONFIG_MAPPING[text["model_type"]]
    known = kind().to_dict()
    whole = kind.from_dict(dict(text)).to_dict()
    found = {
        key: value
        for key, value in whole.items()
        if key in known
        and key not in _APART | by_layer
        and not key.startswith("_")
        and "dropout" not in key
    }
    scaled = [value for key, value in _leaves(found) if key.endswith("rope_type")]
    if all(value == "default" for value in scaled):
        found.pop(_WINDOW, None)
    return dict(_leaves(found))


def _leaves(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _check_whole(sources: "Sources") -> None:
    """A layer may come from any source, so each source has every tensor of a layer.

    That layers of one kind have the same tensors is looked at where stacks are made
    (`evomerge.merge.depths`).
    """
    inside = [n for n in sources.shapes if role(n).layer is not None and sources.floating(n)]
    for source in sources.names:
        lacking = [name for name in inside if not sources.holds(source, name)]
        if lacking:
            raise InputError(
                f"tensor {lacking[0]}",
                f"'{source}' lacks it, and in a stack nobody stands in for it",
                f"sources {sources.names[0]} and {source}",
                "merge these models (space.kind: parameter), or name others",
            )
