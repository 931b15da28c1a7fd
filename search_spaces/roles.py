"""Tensor roles: what a weight is, read off its name, for any decoder-only architecture.

There is no table of architectures. Checkpoints name their tensors by dotted paths; the first purely
numeric segment is the layer index (`model.layers.3.mlp...`, `transformer.h.3...`), and the other
segments say what the weight does. A later number (`...experts.7...`) is not a layer.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

COMPONENTS: tuple[str, ...] = ("norm", "attn", "mlp", "embed", "lm_head")
"""Every component, in the order in which filters must be tried (`self_attn.q_norm` is a norm)."""

_NORM = re.compile(r"norm|(^|[._])ln(_|\d|\.|$)")
_ATTENTION = re.compile(r"attn|attention|(^|[._])att[._]")
_HEAD = re.compile(r"lm_head|embed_out|output_layer|ff_out|^output\.")


@dataclass(frozen=True, slots=True)
class Role:
    """A tensor's place: `layer` (0-based, None outside the stack) and `component`."""

    layer: int | None
    component: str


@lru_cache(maxsize=65536)
def role(tensor: str) -> Role:
    """The role of `tensor`, a dotted name such as `model.layers.0.mlp.up_proj.weight`."""
    segments = tensor.split(".")
    index = next((i for i, segment in enumerate(segments) if segment.isdigit()), None)
    if index is None:
        return Role(None, _outer_component(tensor))
    return Role(int(segments[index]), _inner_component(".".join(segments[index + 1 :])))


def with_layer(tensor: str, layer: int) -> str:
    """The name `tensor` has in layer `layer`; the name itself when it is outside the stack."""
    segments = tensor.split(".")
    for i, segment in enumerate(segments):
        if segment.isdigit():
            return ".".join([*segments[:i], str(layer), *segments[i + 1 :]])
    return tensor


def _inner_component(rest: str) -> str:
    if _NORM.search(rest):
        return "norm"
    return "attn" if _ATTENTION.search(rest) else "mlp"


def _outer_component(tensor: str) -> str:
    if _HEAD.search(tensor):
        return "lm_head"
    return "norm" if _NORM.search(tensor) else "embed"
