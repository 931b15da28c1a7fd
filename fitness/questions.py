"""Which items ask the same, within a task and across tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Forms = Sequence[str]
"""Texts of one question, at least one; two items ask the same if they share one."""


def forms_of_text(text: object, template: object) -> tuple[str, ...]:
    """A question's text with whitespace normalised, and without its template's frame.

    `Question: {{question}}\\nAnswer:` and `Q: {{question}}\\nA:` ask the same of the same document,
    so the literal text before the template's first field and after its last is no part of it.

    Args:
        text: the rendered template; anything but a text that says something has no forms.
        template: the Jinja template; anything else (a function, a column) has no frame.
    """
    whole = _normal(text) if isinstance(text, str) else ""
    if not whole:
        return ()
    if not isinstance(template, str) or not re.search(r"\{[{%#]", template):
        return (whole,)
    head = _normal(re.split(r"\{[{%#]", template, maxsplit=1)[0])
    tail = _normal(re.split(r"[}%#]\}", template)[-1])
    inner = whole.removeprefix(head).removesuffix(tail).strip()
    return (whole, inner) if inner else (whole,)


def forms_of_task(texts: Sequence[Forms], wholes: Sequence[str]) -> tuple[Forms, ...]:
    """Each item's forms: its text's, unless the texts do not tell the task's items apart.

    Tasks such as blimp and winogrande ask everything with one text, or with none, and the choices
    make the question.

    Args:
        texts: per item, the forms of its text; empty if it has none.
        wholes: per item, text, choices and target.
    """
    told = {forms[0] for forms in texts if forms}
    if 2 * len(told) <= len(set(wholes)):
        return tuple((whole,) for whole in wholes)
    return tuple(forms or (whole,) for forms, whole in zip(texts, wholes, strict=True))


def same_questions(forms: Mapping[str, Sequence[Forms]]) -> dict[str, tuple[str, ...]]:
    """By task, one text per item: equal if and only if the items ask the same.

    It is the least, in the order of strings, of all forms that a question has in these tasks, so
    it does not depend on their order.
    """
    parent: dict[str, str] = {}

    def root(form: str) -> str:
        while parent.setdefault(form, form) != form:
            form = parent[form]
        return form

    for items in forms.values():
        for item in items:
            roots = {root(form) for form in item}
            least = min(roots)
            parent.update(dict.fromkeys(roots, least))
    return {task: tuple(root(item[0]) for item in items) for task, items in forms.items()}


def _normal(text: str) -> str:
    return " ".join(text.split())
