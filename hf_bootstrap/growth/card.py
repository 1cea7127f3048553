"""The card of a grown checkpoint: how it was made, what was verified, and what it is not; nothing that is not known.

It reads the `growth.json` beside the weights, and is handed what others know: tokens trained since, a law's forecast.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CorruptFileError
from ..hub.cards import Markdown, code, front_matter, render, table
from ..store import read_json
from ..units import format_bytes, format_count

__all__ = ["growth_card"]


def growth_card(
    folder: str | Path,
    *,
    address: str = "path/to/this/folder",
    base_model: str | None = None,
    tokens: Mapping[str, float] | None = None,
    forecast: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """The card as markdown with YAML front matter.

    Args:
        folder: a checkpoint that `grow_checkpoint` made, with its `growth.json`.
        address: what `from_pretrained` is given in the example.
        base_model: the Hub name of the source; without it the card names none.
        tokens: what was trained: stage -> trained tokens.
        forecast: what a law expects of it, in words.
        metadata: further fields of the front matter: ``license``, ``language``, ``datasets``.

    Raises:
        StoreError: there is no `growth.json`.
        CorruptFileError: it is not a whole one.
        HubError: metadata that the Hub would refuse.
    """
    record = read_json(Path(folder) / "growth.json")
    try:
        plan, report, files = record["plan"], record["report"], record["files"]
        growth, config = plan["growth"], plan["target_config"]
        sizes, verification = _sizes(plan), _verification(report)
        listed = [[code(name), format_bytes(one["bytes"]), code(one["sha256"])] for name, one in files.items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFileError(
            f"{folder}/growth.json is not a whole growth ({type(error).__name__}: {error}). Grow again, or restore it."
        ) from error
    given = dict(metadata or {})
    # The Hub knows no relation for growth; of its words, "finetune" is the one of a model that starts from another.
    base = {} if base_model is None else {"base_model": base_model, "base_model_relation": "finetune"}
    head: dict[str, Any] = {
        "library_name": "transformers",
        "tags": ["hf-bootstrap", "model-growth", *given.pop("tags", [])],
    }
    if "CausalLM" in str(config.get("architectures")):
        head["pipeline_tag"] = "text-generation"
    origin = "another checkpoint" if base_model is None else base_model
    return render(
        "growth_card.md",
        front_matter=front_matter({**head, **base, **given}),
        title=f"{config.get('model_type', 'model')!s}, grown",
        what=f"{origin}, grown {_ways(growth)} with hf-bootstrap.",
        recipe=_yaml(growth),
        sizes=sizes,
        verification=verification,
        notes=[str(note) for note in report.get("notes") or ()],
        tokens=_tokens(tokens) if tokens else None,
        forecast=forecast,
        address=Markdown(address.replace('"', "").replace("\n", " ")),
        changed=not tokens,
        files=table(["file", "size", "SHA-256"], listed) if listed else Markdown(""),
    )


def _tokens(tokens: Mapping[str, float]) -> Markdown:
    return table(["stage", "trained tokens"], [[name, format_count(count)] for name, count in tokens.items()])


def _ways(growth: Mapping[str, Any]) -> str:
    ways = []
    for name, method in (("depth", "depth_method"), ("width", "width_method")):
        if growth.get(name, 1) != 1:
            ways.append(f"{growth[name]} times in {name} ({growth.get(method)})")
    return " and ".join(ways) or "by nothing"


def _yaml(growth: Mapping[str, Any]) -> Markdown:
    import yaml

    text = yaml.safe_dump(dict(growth), sort_keys=False, allow_unicode=True, width=1000).rstrip()
    return Markdown(text.replace("```", "'''"))


def _sizes(plan: Mapping[str, Any]) -> Markdown:
    rows = [
        [label, format_count(plan[f"{key}_source"]), format_count(plan[key])]
        for label, key in (("parameters", "n_params"), ("without embeddings", "n_params_non_embedding"))
    ]
    return table(["what", "before", "after"], [list(row) for row in rows])


def _verification(report: Mapping[str, Any]) -> Markdown:
    words = {True: "yes", False: "NO", None: "not measured"}
    drift = report.get("logit_drift")
    rows = [
        ["every tensor has the name, dtype and shape the architecture builds", words[report["structure"]]],
        ["every number of the source is finite", words[report["finite"]]],
        ["the method keeps the function, up to rounding", "yes" if report["keeps_function"] else "no, or not promised"],
        ["largest change of a logit, of the largest logit", "not measured" if drift is None else f"{drift:.2e}"],
    ]
    return table(["what", "found"], [list(row) for row in rows])
