"""The one place that fills in the templates of this package; what they say is the business of those who ask."""

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["fill"]


def fill(template: str, values: Mapping[str, Any], *, shown: Callable[[Any], Any] | None = None) -> str:
    """A file of ``templates/`` with its places filled in.

    Args:
        template: name of the file.
        values: name -> value; a name that the template uses and that is missing is an error.
        shown: what every value passes through on its way into the text. Without it the text is HTML, and every
            value that is no `markupsafe.Markup` is escaped.

    Raises:
        jinja2.UndefinedError: the template names what was not given.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hf_bootstrap", "templates"),
        autoescape=shown is None,  # noqa: S701  what is no HTML is escaped by `shown`
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=shown is not None,
    )
    return environment.get_template(template).render(values)
