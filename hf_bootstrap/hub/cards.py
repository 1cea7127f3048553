"""What every card has: metadata that the Hub accepts, and templates in which no name can become markup.

What the cards say is the business of the rooms above.
"""

import re
from collections.abc import Mapping
from typing import Any

from ..errors import HubError
from ..pages import fill

__all__ = ["Markdown", "code", "front_matter", "plain", "render", "table"]


class Markdown(str):
    """Text that is Markdown already; a template shows every other text as it is written."""

    __slots__ = ()


def front_matter(metadata: Mapping[str, Any]) -> Markdown:
    """The block between ``---`` lines at the top of a card; fields that are None or empty are left out.

    Raises:
        HubError: a field has a type or a name that the Hub would refuse.
    """
    import yaml

    kept = {name: value for name, value in metadata.items() if value not in (None, "", [], {})}
    for name, value in kept.items():
        values = value if isinstance(value, list) else [value]
        if name in ("datasets", "base_model"):
            wrong = [v for v in values if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(v))]
            if wrong:
                raise HubError(f"{name} in a card names things on the Hub (user/name); {wrong[0]!r} is no such name.")
        if name in ("license", "library_name", "base_model_relation") and not isinstance(value, str):
            raise HubError(f"{name} in a card is a word, not {value!r}. Write it as text.")
    text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=1000)
    return Markdown(f"---\n{text}---")


def plain(text: object) -> Markdown:
    """Any text on one line, as Markdown that shows it and does nothing else."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markdown(re.sub(r"([\\`*\[\]|~!])|((?<!\w)_|_(?!\w))", r"\\\g<0>", line))


def code(text: object) -> Markdown:
    """Any text on one line as code; in a table too."""
    line = " ".join(str(text).split()).replace("|", "\u2223")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if "`" in line else ""
    return Markdown(f"{fence}{pad}{line}{pad}{fence}") if line else Markdown("")


def table(head: list[str], rows: list[list[Any]]) -> Markdown:
    """A table of Markdown; cells that are no `Markdown` are shown as they are written."""
    cells = [[cell if isinstance(cell, Markdown) else plain(cell) for cell in row] for row in rows]
    lines: list[list[str]] = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in cells)]
    return Markdown("\n".join("| " + " | ".join(line) + " |" for line in lines))


def render(template: str, **values: Any) -> str:
    """A template of this package filled in; everything that is no `Markdown` passes through `plain`.

    Raises:
        jinja2.UndefinedError: the template names what was not given.
    """
    from jinja2 import StrictUndefined

    def shown(value: Any) -> Any:
        return value if isinstance(value, Markdown | StrictUndefined) else plain(value)

    return re.sub(r"\n{3,}", "\n\n", fill(template, values, shown=shown))
