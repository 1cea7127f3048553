"""Where a source lies and how it may be read: a folder, or a name on the Hub; whose code may be run, and which."""

import os
import re
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..errors import GrowthError, StoreError, UnsupportedModelError
from ..hub.pull import is_repo_id
from ..hub.refusals import showable, without_secrets
from ..store import read_json
from .carried import CARRIED
from .checkpoint import Checkpoint, real_file
from .depth import LAYER_COUNTS

__all__ = ["check_depth", "check_trust", "find_source", "open_config", "remote_class"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
# What a checkpoint is made of; pickles are fetched only where they may be read.
_FETCHED = ["*.safetensors", *(f"*{ending}" for ending in CARRIED)]


def find_source(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Path:
    """The folder of a source, fetched from the Hub where it is a name there.

    Args:
        source: a folder, or a name such as "org/model".
        revision: on the Hub: a branch, tag or commit; default: the main branch.
        trust_remote_code: the checkpoint's own code may be run. Only with a commit that pins what it is.
        allow_pickle: fetch pickled weights too.

    Raises:
        GrowthError: code is trusted without a pinned commit, or a revision is given for a folder.
        StoreError: the name is neither a folder nor to be had from the Hub.
    """
    name, folder = os.fspath(source), Path(os.path.abspath(source))
    local = not is_repo_id(name)
    check_trust(name, local=local, revision=revision, trust_remote_code=trust_remote_code)
    if local:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [*_FETCHED, "*.bin"] if allow_pickle else _FETCHED
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise StoreError(
            f"{name!r} is not a folder here, and could not be fetched from the Hub: "
            f"{without_secrets(' '.join(str(error).split()))[:300]} Check the name and the connection, or "
            "`hf download` it first."
        ) from showable(error)


def check_trust(name: str, *, local: bool, revision: str | None, trust_remote_code: bool) -> None:
    """Refuse to run code that no commit pins, and a revision of a folder, which has none.

    Args:
        name: of the source; local: whether it is a path here, and not a name on the Hub.
        revision, trust_remote_code: as `find_source`.

    Raises:
        GrowthError: as said.
    """
    if trust_remote_code and (local or not _COMMIT.fullmatch(revision or "")):
        what = "a folder has no revision" if local else f"the revision is {revision!r}"
        raise GrowthError(
            f"trust_remote_code runs code that came with {name!r}, and {what}, so nobody can say which code. Give a "
            "name on the Hub and revision=COMMIT (40 hexadecimal digits) of code you have read."
        )
    if local and revision is not None:
        raise GrowthError(f"revision={revision!r} is for a name on the Hub, and {name!r} is a path. Leave it out.")


def check_depth(checkpoint: Checkpoint) -> None:
    """Refuse a config with more layers than there are tensors, before something of that depth is built.

    Raises:
        GrowthError: as said.
        StoreError: there is no config.
    """
    path, n_tensors = checkpoint.folder / "config.json", len(checkpoint.entries)
    record = read_json(real_file(path))
    for part in (record, *(value for value in record.values() if isinstance(value, dict))):
        for name in LAYER_COUNTS:
            if isinstance(part.get(name), int) and part[name] > n_tensors:
                raise GrowthError(
                    f"{path} says {name}={part[name]:,}, and the checkpoint holds {n_tensors:,} tensors, fewer than "
                    "one for each layer. It is damaged, or of another model; fetch it again."
                )


def open_config(folder: Path, *, trust_remote_code: bool = False, quantised: bool = False) -> PreTrainedConfig:
    """The config of a checkpoint folder; no code of it is run unless it is trusted.

    Args:
        folder: of the checkpoint.
        trust_remote_code: run the config class that came with it.
        quantised: take quantised weights too; what the config says of them is left out.

    Raises:
        UnsupportedModelError: quantised, an encoder-decoder, or nothing transformers knows.
        StoreError: there is none.
    """
    record = read_json(real_file(folder / "config.json"))
    if (settings := record.get("quantization_config")) and not quantised:
        method = settings.get("quant_method", "quantised") if isinstance(settings, dict) else "quantised"
        raise UnsupportedModelError(
            f"{folder} holds quantised weights ({method}), which cannot be computed with here. Take the original "
            "weights; of quantised ones grow_checkpoint can only copy layers (depth)."
        )
    if named := record.get("transformers_weights"):
        raise UnsupportedModelError(
            f"{folder / 'config.json'} says that the weights are in {str(named)[:80]!r} (transformers_weights); growth "
            "reads model.safetensors or what its index names. Load the model and save_pretrained it elsewhere."
        )
    if trust_remote_code:
        _check_own_code(folder, record)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # a config class may refuse a value in any way it likes
        raise UnsupportedModelError(f"{folder / 'config.json'} cannot be used: {error}. Correct it.") from error
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if config.is_encoder_decoder:
        raise UnsupportedModelError(f"{folder} is an encoder-decoder; growth is for decoder-only language models.")
    return config


def remote_class(folder: Path, config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The model class a trusted checkpoint brings with it; None where transformers has its own."""
    name = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    if name is None:
        return None
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    found: Any = get_class_from_dynamic_module(name, folder, local_files_only=True)
    return found  # type: ignore[no-any-return]


def _check_own_code(folder: Path, record: dict[str, Any]) -> None:
    """Code of another repository is not pinned by this one's commit."""
    for name in (record.get("auto_map") or {}).values():
        if any("--" in str(part) for part in (name if isinstance(name, list) else [name])):
            raise GrowthError(
                f"{folder / 'config.json'} takes its code from another repository ({name}), which the pinned commit "
                "says nothing about. Copy that code beside the weights after reading it."
            )
