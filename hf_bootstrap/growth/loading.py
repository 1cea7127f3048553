"""A live model from a folder or a name on the Hub, held to the rules of growth on disk before transformers reads it.

Transformers follows an index out of its folder, links, and pickles, asks on stdin whether code may run, and fills in at
random what a checkpoint lacks; growth must not.
"""

import os
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel

from ..errors import GrowthError, UnsupportedModelError
from ..hub.refusals import showable, without_secrets
from .pickled import open_weights
from .source import check_depth, check_trust, find_source, open_config

__all__ = ["load_model"]

# Options that choose which files are read, which growth settles itself and checks first.
_SETTLED = ("code_revision", "use_safetensors", "weights_only")
_OF_FOLDERS = ("gguf_file", "subfolder", "variant")


def load_model(name: str, options: dict[str, Any], *, allow_pickle: bool = False) -> PreTrainedModel:
    """Load a causal language model whose weights are all there, and no others.

    Args:
        name: a folder, or a name on the Hub.
        options: for `AutoModelForCausalLM.from_pretrained`.
        allow_pickle: read pickled weights where there are no others, with torch's `weights_only` guard.

    Raises:
        GrowthError: it cannot be had or read, or an option chooses files that growth does not check.
        UnsupportedModelError: no causal language model, or pickled weights that nobody allowed.
        StoreError, CorruptFileError: what lies in the folder points elsewhere or is damaged.
    """
    local, trust, revision = os.path.isdir(name), bool(options.get("trust_remote_code")), options.get("revision")
    check_trust(name, local=local, revision=revision, trust_remote_code=trust)
    _check_options(name, options, _SETTLED + _OF_FOLDERS * (local or trust))
    place, options = name, {**options, "trust_remote_code": trust, "weights_only": True}
    if local or trust:
        folder = find_source(name, revision=revision, trust_remote_code=trust, allow_pickle=allow_pickle)
        place, safe = str(folder), _check_folder(folder, trust=trust, allow_pickle=allow_pickle)
        options = {**options, "revision": None, "use_safetensors": safe}
    elif not allow_pickle:
        options["use_safetensors"] = True
    # Wrong shapes come back in the loading info, where they can be named, instead of as an error that cannot.
    model, info = _load(name, place, {**options, "output_loading_info": True, "ignore_mismatched_sizes": True})
    _check_loading(name, info)
    model.config.name_or_path = name
    return model


def _check_options(name: str, options: dict[str, Any], settled: tuple[str, ...]) -> None:
    if given := sorted(set(options) & set(settled)):
        raise GrowthError(
            f"{', '.join(given)} would choose which files of {name!r} are read, and growth checks those it reads. "
            "Leave it out; allow_pickle=True reads pickled weights, and a plain folder can be named by its path."
        )


def _check_folder(folder: Path, *, trust: bool, allow_pickle: bool) -> bool:
    """Hold a folder to what growth on disk asks of it; whether its weights are safetensors."""
    if os.path.lexists(folder / "adapter_config.json"):
        raise UnsupportedModelError(
            f"{folder} holds adapter_config.json, so what is loaded depends on another place. Merge the adapter first "
            "(merge_adapter), or name its base."
        )
    checkpoint = open_weights(folder, allow_pickle=allow_pickle)
    check_depth(checkpoint)
    open_config(folder, trust_remote_code=trust, quantised=True)
    return checkpoint.files[0].endswith(".safetensors")


def _load(name: str, place: str, options: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(place, **options)
    except OSError as error:
        raise GrowthError(
            f"{name!r} cannot be opened: {without_secrets(str(error))} Check the name, or `hf download` it first; "
            "allow_pickle=True reads pickled weights."
        ) from showable(error)
    except ValueError as error:
        raise UnsupportedModelError(
            f"{name!r} cannot be loaded as a causal language model: {without_secrets(str(error))} Growth is for "
            "those alone."
        ) from showable(error)
    except Exception as error:  # noqa: BLE001  (weights and configs that nobody meant fail in many ways)
        raise GrowthError(
            f"{name!r} cannot be loaded ({type(error).__name__}: {without_secrets(str(error))}). Is the checkpoint "
            "complete and sound? Fetch it again."
        ) from showable(error)
    return loaded[0], loaded[1]


def _check_loading(name: str, info: dict[str, Any]) -> None:
    """Transformers fills in what a checkpoint lacks at random, with a warning; growth must not build on that."""
    for key, what in (
        ("missing_keys", "lacks tensors the architecture has"),
        ("unexpected_keys", "holds tensors the architecture does not know"),
        ("mismatched_keys", "holds tensors of another shape than its config says"),
        ("error_msgs", "could not be read in full"),
    ):
        if info.get(key):
            found = sorted(map(str, info[key]))
            raise GrowthError(
                f"The checkpoint {name!r} {what}: {', '.join(found[:5])}{' ...' if len(found) > 5 else ''} "
                f"({len(found)} in all). It is damaged, or of another architecture than its config says."
            )
