"""Random recipes in mergekit's dialect, over every method that mergekit 0.1.5 has.

A recipe is a mapping that `yaml` writes; its models are names of a family (`base`, `a`, `b`, `c`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

LAYERS = 3
FILTERS = ("self_attn", "mlp", "up_proj", "o_proj", "layernorm", "embed_tokens", "layers.1.")

Range = tuple[float, float]


@dataclass(frozen=True)
class Method:
    """What a recipe of one method may say.

    Attributes:
        sources: least and greatest number of models besides the base.
        base: "needed", "optional", or "none" (then it is a model as any other).
        own: ranges of the parameters of each model.
        shared: ranges of the tensor's parameters.
        switches: values of the tensor's other parameters.
        noise: standard deviation of the fine-tunes' deltas.
    """

    sources: tuple[int, int] = (1, 3)
    base: str = "needed"
    own: Mapping[str, Range] = field(default_factory=dict[str, Range])
    shared: Mapping[str, Range] = field(default_factory=dict[str, Range])
    switches: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    noise: float = 0.01


_WEIGHT: Mapping[str, Range] = {"weight": (0.1, 1.2)}
_SIGNED: Mapping[str, Range] = {"weight": (-0.5, 1.2)}
_SPARSE: Mapping[str, Range] = _SIGNED | {"density": (0.05, 1.0)}
_LAMBDA: Mapping[str, Range] = {"lambda": (0.3, 1.5)}
_BOTH = (True, False)

METHODS: Mapping[str, Method] = {
    "linear": Method((2, 3), "none", _WEIGHT, switches={"normalize": _BOTH}),
    "passthrough": Method((1, 1), "none", {"scale": (-0.5, 1.5)}),
    "slerp": Method((1, 1), shared={"t": (0.0, 1.0)}),
    "nuslerp": Method((2, 2), "optional", _WEIGHT, switches={
        "nuslerp_flatten": _BOTH, "nuslerp_row_wise": _BOTH}),
    "multislerp": Method((1, 3), "optional", _WEIGHT, switches={"normalize_weights": _BOTH}),
    "karcher": Method((1, 3), "none", switches={"max_iter": (1, 5, 20)}),
    "task_arithmetic": Method(own=_SIGNED, shared=_LAMBDA, switches={"normalize": _BOTH}),
    "ties": Method(own=_SPARSE, shared=_LAMBDA, switches={"normalize": _BOTH, "rescale": _BOTH}),
    "breadcrumbs": Method(own=_SPARSE | {"gamma": (0.0, 0.2)}, shared=_LAMBDA,
                          switches={"normalize": _BOTH, "rescale": _BOTH}),
    "breadcrumbs_ties": Method(own=_SPARSE | {"gamma": (0.0, 0.2)}, shared=_LAMBDA,
                               switches={"normalize": _BOTH, "rescale": _BOTH}),
    "dare_linear": Method(own=_SIGNED, shared=_LAMBDA, switches={"normalize": _BOTH}),
    "dare_ties": Method(own=_SIGNED, shared=_LAMBDA, switches={"normalize": _BOTH}),
    "della": Method(own=_SIGNED, shared=_LAMBDA, switches={"normalize": _BOTH}),
    "della_linear": Method(own=_SIGNED, shared=_LAMBDA, switches={"normalize": _BOTH}),
    "model_stock": Method((2, 3), switches={"filter_wise": _BOTH}),
    "sce": Method((1, 3), shared={"select_topk": (0.05, 1.0)}, noise=0.3),
    "nearswap": Method((1, 1), shared={"t": (0.001, 0.02)}),
    "arcee_fusion": Method((1, 1), noise=0.5),
    "ram": Method((1, 3), switches={"epsilon": (1e-5, 0.005, 0.02)}),
}  # fmt: skip
"""Every method of mergekit 0.1.5 but RAM+; dare and della without dropping, which is random."""

KINDS = ("llama", "llama_tied", "llama_odd", "llama_thin", "qwen2", "gemma", "mixtral_fused")
_OF_FIXED_DEPTH = ("qwen2",)
"""mergekit 0.1.5 leaves a configuration's list of layer types as it is, which transformers refuses."""


def random_case(method: str, number: int) -> tuple[str, dict[str, Any]]:
    """(kind of model, recipe); the same for the same arguments."""
    random = Random(f"{method} {number}")
    recipe = random_recipe(method, random)
    spans = [part["sources"][0]["layer_range"] for part in recipe.get("slices", ())]
    same_depth = not spans or sum(last - first for first, last in spans) == LAYERS
    kinds = KINDS if same_depth else [kind for kind in KINDS if kind not in _OF_FIXED_DEPTH]
    return random.choice(kinds), recipe


def random_recipe(method: str, random: Random) -> dict[str, Any]:
    """A recipe of `method`: models or slices; numbers, gradients and filters."""
    spec = METHODS[method]
    switched = {name: random.choice(values) for name, values in spec.switches.items()}
    if switched.get("normalize"):  # a divisor near 0 magnifies rounding errors
        spec = replace(spec, own={**spec.own, **_WEIGHT})
    models = ["a", "b", "c"][: random.randint(*spec.sources)]
    if spec.base == "none" and len(models) > 1 and random.random() < 0.5:
        models[-1] = "base"
    random.shuffle(models)
    based = spec.base == "needed" or (spec.base == "optional" and random.random() < 0.5)
    recipe: dict[str, Any] = {"merge_method": method, "dtype": "float32"}
    if based:
        recipe["base_model"] = "base"
    if random.random() < 0.5:
        listed = [_entry(name, spec, random) for name in models]
        if based and random.random() < 0.7:
            listed.insert(random.randint(0, len(listed)), {"model": "base"})
        recipe["models"] = listed
    else:
        recipe["slices"] = [
            _slice(models, based, spec, random) for _ in range(random.randint(1, 3))
        ]
    shared = {name: _setting(bounds, random) for name, bounds in spec.shared.items()}
    shared |= switched
    return recipe | ({"parameters": shared} if shared else {})


def _entry(name: str, spec: Method, random: Random) -> dict[str, Any]:
    own = {key: _setting(bounds, random) for key, bounds in spec.own.items()}
    return {"model": name} | ({"parameters": own} if own else {})


def _slice(models: list[str], based: bool, spec: Method, random: Random) -> dict[str, Any]:
    length = random.randint(1, LAYERS)
    sources = [_entry(name, spec, random) for name in models]
    if based:
        sources.insert(random.randint(0, len(sources)), {"model": "base"})
    aligned, start = random.random() < 0.7, random.randint(0, LAYERS - length)
    for source in sources:
        first = start if aligned else random.randint(0, LAYERS - length)
        source["layer_range"] = [first, first + length]
    shared = {
        name: _setting(bounds, random)
        for name, bounds in spec.shared.items()
        if random.random() < 0.3
    }
    return {"sources": sources} | ({"parameters": shared} if shared else {})


def _setting(bounds: Range, random: Random) -> Any:
    """A number, a gradient, or clauses with filters of which the last speaks for all."""
    draw = random.random()
    if draw < 0.4:
        return _value(bounds, random)
    if draw < 0.6:
        return _gradient(bounds, random)
    filters = random.sample(FILTERS, random.randint(1, 3))
    clauses = [{"filter": f, "value": _either(bounds, random)} for f in filters]
    return [*clauses, {"value": _either(bounds, random)}]


def _either(bounds: Range, random: Random) -> Any:
    return _gradient(bounds, random) if random.random() < 0.4 else _value(bounds, random)


def _gradient(bounds: Range, random: Random) -> list[float]:
    return [_value(bounds, random) for _ in range(random.randint(2, 4))]


def _value(bounds: Range, random: Random) -> float:
    return round(random.uniform(*bounds), 3)
