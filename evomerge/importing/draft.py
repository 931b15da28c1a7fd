"""A run file being written, with what became of each key of the file that it is made from."""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from search_spaces.errors import InputError, nearest

_WIDTH = 100


@dataclass
class Draft:
    """Collects a run file and notes; `text` is what is written.

    Attributes:
        tool: whose file is read.
        where: the file.
        content: the run file.
        became: key -> what it is in the run file.
        left_out: key -> why it has no counterpart.
        assumed: what the file does not say and the run file has to.
    """

    tool: str
    where: str
    content: dict[str, Any] = field(default_factory=dict[str, Any])
    became: dict[str, str] = field(default_factory=dict[str, str])
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    assumed: list[str] = field(default_factory=list[str])

    def put(self, path: str, value: Any) -> None:
        """Set a key of the run file, `search.budget.evaluations` say."""
        section = self.content
        *sections, last = path.split(".")
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value

    def turn(self, key: str, path: str, value: Any, why: str = "") -> None:
        """Set a key of the run file to what `key` became."""
        self.put(path, value)
        self.became[key] = f"{path}{f', {why}' if why else ''}"

    def read(self, given: Mapping[str, Any], table: Mapping[str, "Rule"], prefix: str = "") -> None:
        """Let the rule of each key of `given` say what becomes of it; a key without one is left out."""
        for name, value in given.items():
            key = str(name)  # YAML's may be numbers
            rule = table.get(key)
            if rule is None:
                self.left_out[prefix + key] = f"unknown to {self.tool} as documented"
            elif isinstance(rule, str):
                self.left_out[prefix + key] = rule
            else:
                rule(self, prefix + key, value)

    @property
    def notes(self) -> list[str]:
        """What the user should know: a line each."""
        left = [f"left out: {key}: {why}" for key, why in self.left_out.items()]
        return [*left, *(f"assumed: {what}" for what in self.assumed)]

    def header(self) -> str:
        """The notes as comments of the run file."""
        lines = [f"A run file made of {self.where} ({self.tool}) by `evomerge import`.", ""]
        lines += ["What became of its keys:"]
        lines += [f"  {key} -> {what}" for key, what in self.became.items()]
        if self.left_out:
            lines += ["", "Left out, without a counterpart here:"]
            lines += [f"  {key}: {why}" for key, why in self.left_out.items()]
        if self.assumed:
            lines += ["", "Assumed, as the file does not say it:"]
            lines += [f"  {what}" for what in self.assumed]
        wrapped = (
            textwrap.wrap(line, _WIDTH, subsequent_indent="      ", break_on_hyphens=False) or [""]
            for line in lines
        )
        return "".join(f"# {line}".rstrip() + "\n" for group in wrapped for line in group)


Rule = str | Callable[[Draft, str, Any], None]
"""What becomes of a key: a function that is given draft, key and value, or why it has no counterpart."""


def ignored(_: Draft, __: str, ___: Any) -> None:
    """A rule for keys that another key's rule reads."""


def required(given: Mapping[str, Any], key: str, tool: str, where: str) -> Any:
    """The value of a key that the tool requires too.

    Raises:
        InputError: it is not there.
    """
    if given.get(key) in (None, [], {}):
        raise InputError(f"no '{key}'", f"a file of {tool} has it", where, "add it")
    return given[key]


def known(value: Any, names: Mapping[str, Any], key: str, where: str) -> Any:
    """What a name stands for.

    Raises:
        InputError: an unknown name.
    """
    if not isinstance(value, str) or value not in names:
        raise InputError(f"{key} = {value!r}", "it is unknown", where, nearest(str(value), names))
    return names[value]


def typed(value: Any, kind: type | tuple[type, ...], key: str, where: str, what: str) -> Any:
    """The value, if it is of the kind.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{key} = {value!r}", f"it is {what}", where, "correct the value")
    return value


def flag(given: Mapping[str, Any], key: str, default: bool, where: str, prefix: str = "") -> bool:
    """A key that is true or false; the default where it is not there, or empty.

    Raises:
        InputError: it is neither: `"false"` in quotes would count as true.
    """
    value = given.get(key)
    return default if value is None else typed(value, bool, prefix + key, where, "true or false")


def names(values: Iterable[Any], key: str, where: str) -> list[str]:
    """Texts, each once.

    Raises:
        InputError: one is something else.
    """
    return list(dict.fromkeys(typed(value, str, key, where, "a name") for value in values))
