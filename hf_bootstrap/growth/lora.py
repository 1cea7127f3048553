"""A LoRA adapter as PEFT writes it: read, and held to the kinds of it that can be carried over.

No PEFT is needed: an adapter is two small files. Growing one is for `adapters`, merging for `merging`.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import GrowthError, UnsupportedModelError
from ..store import read_json
from .checkpoint import read_header, real_file

__all__ = ["ADAPTER_CONFIG", "ADAPTER_WEIGHTS", "TABLE", "LoraAdapter", "open_adapter"]

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.(?P<leaf>lora_(embedding_)?[AB])(\.weight)?")
TABLE = re.compile(r"base_model\.model\.(?P<module>.+)\.base_layer\.weight")
# What a LoRA config may ask for that this growth does not carry over, and why; each is off when it is empty.
_REFUSED = {
    "use_dora": "DoRA also holds the length of every row of the sum, which copies and shares change",
    "use_qalora": "QA-LoRA pools its input in groups, which copies cut",
    "use_bdlora": "its factors are block-diagonal, and blocks do not follow the axes of the base",
    "lora_bias": "it holds biases of its own beside B",
    "modules_to_save": "it holds whole copies of base modules, which would have to grow as the base does",
    "target_parameters": "it adapts bare parameters such as fused experts, whose axes are not those of a matrix",
    "layer_replication": "it repeats layers of the base by itself",
    "trainable_token_indices": "it holds rows of the token table",
    "megatron_config": "its layers are Megatron's",
    "arrow_config": "it routes among adapters",
}
# Initialisations that leave the base as it is; others (PiSSA, OLoRA, LoftQ ...) subtract something from it first.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, kw_only=True)
class LoraAdapter:
    """An adapter as it lies in its folder.

    Attributes:
        settings: its adapter_config.json.
        matrices: by module of the base, the two factors: "lora_A" (r, in) and "lora_B" (out, r), or "lora_embedding_A"
            (r, rows) and "lora_embedding_B" (width, r).
        tables: by name in the file, whole tables of the base, which PEFT stores beside adapters of them.
    """

    settings: Mapping[str, Any]
    matrices: Mapping[str, Mapping[str, Tensor]]
    tables: Mapping[str, Tensor]

    def pattern(self, name: str, module: str) -> Any:
        """The entry of `rank_pattern` or `alpha_pattern` for a module, as PEFT finds it; None if there is none."""
        entries = self.settings.get(name) or {}
        return next((v for k, v in entries.items() if re.match(rf"(.*\.)?({k})$", module)), None)

    def scaling(self, module: str) -> float:
        """The factor `s` of a module's adapter."""
        alpha = self.pattern("alpha_pattern", module) or self.settings.get("lora_alpha", 8)
        rank = next(iter(self.matrices[module].values())).shape[0]
        return float(alpha) / (rank**0.5 if self.settings.get("use_rslora") else rank)


def open_adapter(folder: str | os.PathLike[str]) -> LoraAdapter:
    """Read an adapter.

    Raises:
        UnsupportedModelError: another method than LoRA, or a kind of it this library does not carry over.
        StoreError, CorruptFileError: a file is missing or damaged.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    settings = read_json(real_file(folder / ADAPTER_CONFIG))
    _check_settings(folder, settings)
    weights = real_file(folder / ADAPTER_WEIGHTS)
    read_header(weights)
    matrices: dict[str, dict[str, Tensor]] = {}
    tables: dict[str, Tensor] = {}
    for name, tensor in load_file(weights).items():
        found = _NAME.fullmatch(name)
        if TABLE.fullmatch(name):
            tables[name] = tensor
            continue
        if found is None or tensor.dim() != 2:
            raise UnsupportedModelError(
                f"{weights} holds {name} {list(tensor.shape)}, which is no factor of a matrix (lora_A, lora_B, "
                "lora_embedding_A, lora_embedding_B). Merge it with PEFT (merge_and_unload) and grow the result."
            )
        if not torch.isfinite(tensor).all():
            raise GrowthError(f"{name} of {weights} holds NaN or infinity. Use a sound adapter.")
        matrices.setdefault(found["module"], {})[found["leaf"]] = tensor
    for module, pair in matrices.items():
        if sorted(pair) not in (["lora_A", "lora_B"], ["lora_embedding_A", "lora_embedding_B"]):
            raise GrowthError(f"{weights} holds {', '.join(sorted(pair))} for {module}; a pair of factors is needed.")
    return LoraAdapter(settings=settings, matrices=matrices, tables=tables)


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModelError(
            f"{folder} is an adapter of type {kind}; only LORA grows. Merge it with PEFT first."
        )
    for name, why in _REFUSED.items():
        if settings.get(name):
            raise UnsupportedModelError(
                f"{folder} sets {name}={settings[name]!r}: {why}. Merge it with PEFT (merge_and_unload), and grow that."
            )
    if settings.get("bias", "none") != "none":
        raise UnsupportedModelError(
            f"{folder} sets bias={settings['bias']!r}: it holds biases of the base. Merge it first."
        )
    start = settings.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise UnsupportedModelError(
            f"{folder} sets init_lora_weights={start!r}, which changes the base when it is loaded. Convert it to plain "
            "LoRA with PEFT (path_initial_model_for_weight_conversion), or merge it first."
        )
