"""The YAML in front of a model card, as the Hugging Face Hub reads it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from evomerge.licence_table import HUB
from evomerge.licences import Verdict
from search_spaces.dialect_sources import LORA

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def front_matter_text(
    *, verdict: Verdict, parents: Sequence[str], model_index: Mapping[str, Any] | None
) -> str:
    """The front matter between its two lines `---`.

    Args:
        verdict: on the parents' licences.
        parents: their names on the Hub, those that have one.
        model_index: of `model_index`; None: no results.
    """
    content: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    content |= _licence(verdict)
    if parents:
        content |= {"base_model": list(dict.fromkeys(parents)), "base_model_relation": "merge"}
    content["tags"] = ["merge", "evomerge"]
    if model_index:
        content["model-index"] = [dict(model_index)]
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---\n"


def _licence(verdict: Verdict) -> dict[str, str]:
    """`license`, and `license_name` where the Hub's list has no such name."""
    if verdict.licence is None:
        return {"license": "unknown"}
    if verdict.licence in HUB:
        return {"license": verdict.licence}
    name = "several-see-below" if verdict.licence == "other" else verdict.licence
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.-]+", "-", name)}


def hub_names(lasting: str) -> list[str]:
    """The Hub's names of a source: of its model, and of an adapter on it; none for folders.

    Args:
        lasting: `org/name@commit` or a path (see `locations.lasting_name`), an adapter's after it.
    """
    pairs = [part.partition("@") for part in lasting.split(LORA)]
    return [name for name, at, _ in pairs if at and _HUB_ID.fullmatch(name)]


def model_index(
    name: str, scores: Mapping[str, Mapping[str, float]], tasks: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Results on test items, in the Hub's form.

    Args:
        name: of the model.
        scores: by objective, `value` and `se` on the test items.
        tasks: by objective, the tasks it is made of; objectives without tasks are left out.
    """
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"type": "+".join(tasks[label]), "name": f"{label}: held-out test items"},
            "metrics": [
                {
                    "type": "score",
                    "name": f"{label} (standard error {found['se']:.4f})",
                    "value": round(found["value"], 6),
                }
            ],
        }
        for label, found in scores.items()
        if tasks.get(label)
    ]
    return {"name": name, "results": results} if results else {}
