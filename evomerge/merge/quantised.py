"""Quantised checkpoints: how they are told, and the way out for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces.errors import InputError

_TYPES = ("F8", "F4", "F6_", "E8M0", "I8")
"""Beginnings of the storage types that only quantised weights have, as safetensors spells them."""

_PACKED = ("U8", "I32")
_PACKED_NAMES = ("weight", "weight_packed", "qweight", "qzeros", "blocks", "scales")
"""Types and last words of names under which packed weights hide (GPTQ, AWQ, bitsandbytes, MXFP4)."""

_DEQUANTISE = (
    "dequantise it: AutoModelForCausalLM.from_pretrained(folder, dtype='bfloat16', "
    "quantization_config=transformers.{}(dequantize=True)).save_pretrained(new_folder)"
)
_LOAD_AND_SAVE = (
    "dequantise it: AutoModelForCausalLM.from_pretrained(folder).dequantize()"
    ".save_pretrained(new_folder)"
)
_WAYS: Mapping[str, str] = {
    "fp8": _DEQUANTISE.format("FineGrainedFP8Config"),
    "mxfp4": _DEQUANTISE.format("Mxfp4Config"),
    "compressed-tensors": _DEQUANTISE.format("CompressedTensorsConfig"),
    "bitsandbytes": _LOAD_AND_SAVE,
}
"""By `quant_method`. The others (GPTQ, AWQ, ...) lose too much to be worth going back from."""


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration that speaks of quantised weights.

    Raises:
        InputError: with what to do for its `quant_method`.
    """
    nested = config.get("text_config")
    inner = nested.get("quantization_config") if isinstance(nested, Mapping) else None
    found = config.get("quantization_config") or inner
    if found is None:
        return
    method = found.get("quant_method") if isinstance(found, Mapping) else None
    kind = f" (quant_method {method})" if method else ""
    raise _error(f"quantization_config{kind} in config.json", where, str(method))


def check_type(tensor: str, dtype: str, where: str) -> None:
    """Refuse a tensor whose type and name say that it is quantised.

    Args:
        tensor: its name.
        dtype: its type as safetensors spells it.
        where: of the source.

    Raises:
        InputError: it is.
    """
    packed = dtype in _PACKED and tensor.rpartition(".")[2].endswith(_PACKED_NAMES)
    if packed or dtype.startswith(_TYPES):
        kind = "fp8" if dtype.startswith("F8") else ""
        raise _error(f"{tensor} of type {dtype}", where, kind)


def _error(passed: str, where: str, method: str) -> InputError:
    way = _WAYS.get(method)
    return InputError(
        passed,
        "quantised weights cannot be merged",
        where,
        "use the bfloat16 or float16 checkpoint it was made from"
        + (f", or {way}" if way else ", or dequantise it with the tool that made it"),
    )
