"""YAML text as plain data and back: what PyYAML leaves silent (a repeated key) is an error here."""

from collections.abc import Hashable, Mapping
from typing import cast

import yaml

from search_spaces.errors import InputError

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader; final."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, with short lists and filters on one line; final."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, object]:
    seen: set[str] = set()
    for key_node, _ in cast(list[tuple[yaml.Node, yaml.Node]], node.value):
        if key_node.tag == _MERGE or not isinstance(key_node, yaml.ScalarNode):
            continue
        key = str(key_node.value)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{key}' stands twice in one mapping", key_node.start_mark
            )
        seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _sequence(dumper: _Dumper, data: list[object]) -> yaml.Node:
    flow = not any(isinstance(item, (dict, list)) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


def _condition(dumper: _Dumper, data: dict[str, object]) -> yaml.Node:
    flow = "value" in data
    return dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=flow)


def _text(_: _Dumper, data: str) -> yaml.Node:
    # Unquoted, PyYAML loses line breaks that are not "\n" (U+0085, U+2028).
    style = None if data.isprintable() else '"'
    return yaml.ScalarNode("tag:yaml.org,2002:str", data, style=style)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _sequence)
_Dumper.add_representer(dict, _condition)


def read_mapping(text: str, where: str) -> dict[str, object]:
    """The mapping that `text` spells.

    Args:
        text: YAML.
        where: what to call the text in errors (a file's path, say).

    Raises:
        InputError: not YAML or a key that stands twice in one mapping (both with the line), or no
            mapping with names as keys.
    """
    try:
        # The loader is a SafeLoader: it makes plain data only.
        data = cast(object, yaml.load(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}, line {mark.line + 1}" if mark else where
        problem = error.problem or "the text ends too early"
        raise InputError("the text", f"it is not YAML: {problem}", place, "correct it") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError("the text", f"it is not YAML: {reason}", where, "correct it") from None
    if not isinstance(data, dict):
        kind = "nothing" if data is None else f"a {type(data).__name__}"
        raise InputError(kind, "a mapping is needed here", where, "write `key: value` lines")
    mapping = cast(Mapping[object, object], data)
    for key in mapping:
        if not isinstance(key, str):
            raise InputError(f"key {key!r}", "keys are names", where, "quote it or correct it")
    return cast(dict[str, object], data)


def write(data: Mapping[str, object]) -> str:
    """`data` as YAML text, its keys in their order."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text
