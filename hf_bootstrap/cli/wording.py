"""The library's advice in the words of this door: `extrapolate=True` is `--extrapolate` on a command line."""

import re
import shlex

__all__ = ["OPTIONS", "in_options"]

# Arguments of the laws half that are options here under the same name.
OPTIONS = (
    "base_tokens", "columns", "count_base_cost", "extrapolate", "form", "forms", "mixture_ratio", "n_params",
    "n_params_are", "n_params_base", "scratch", "tokens", "unique_tokens", "where",
)  # fmt: skip
_PHRASES = {
    " Or pass a Form object.": "",
    "fit(..., n_params_are=...)": "n_params_are=",
    "summary() says": "`hf-bootstrap fit` says",
    "compute_optimal": "compute-optimal",
    "num_hidden_layers cannot go": "--num-hidden-layers cannot go",
    "in layer_map, such as (0, 2, 4)": "in --layer-map, such as 0,2,4",
}
_NAME = rf"\b({'|'.join(OPTIONS)})="
_PAIR = re.compile(_NAME + r"\{'(\w+)': '([^']*)'\}")
_ALONE = re.compile(_NAME + r"(?:True\b|(?=[\s;,.)]|$))")


def in_options(text: str) -> str:
    """What the library says, with options for Python's arguments.

    Example:
        ``"say extrapolate=True"`` -> ``"say --extrapolate"``; ``"where={'method': 'stack'}"`` ->
        ``"--where method=stack"``; ``"it needs base_tokens=; give it"`` -> ``"it needs --base-tokens; give it"``.
    """
    for python, words in _PHRASES.items():
        text = text.replace(python, words)
    text = _PAIR.sub(lambda found: f"{_option(found[1])} {found[2]}={shlex.quote(found[3])}", text)
    return _ALONE.sub(lambda found: _option(found[1]), text)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
