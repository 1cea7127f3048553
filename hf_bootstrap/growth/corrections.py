"""What growth must scale besides copying: tied heads, constants that follow the width, layers that shall add nothing.

A correction is (scale, offset, reason), as in `operators.rescale`. Norms over silent channels are for `padding`.
"""

from collections.abc import Mapping
from fractions import Fraction

import torch
from transformers import PreTrainedModel

from ..errors import UnsupportedModelError
from .architecture import adds_one, constants, final_norm, named_tensors
from .depth import Layers
from .identity import silent_tensors

__all__ = ["AS_IT_IS", "Correction", "silent_corrections", "table_corrections"]

Correction = tuple[float, float, str]

# A tensor without a correction: scale, offset, reason.
AS_IT_IS: Correction = (1.0, 0.0, "")


def silent_corrections(deep: PreTrainedModel, layers: Layers, layer_map: tuple[int, ...]) -> dict[str, Correction]:
    """Corrections by target tensor that make every repeated layer add nothing."""
    inside: dict[tuple[str, int], list[str]] = {}
    for name in named_tensors(deep):
        if (part := layers.split(name)) and layer_map[part[1]] in layer_map[: part[1]]:
            inside.setdefault(part[:2], []).append(part[2])
    silent = {}
    for (prefix, number), names in inside.items():
        for name, is_norm in silent_tensors(names, deep.config.model_type).items():
            full = f"{prefix}.{number}.{name}"
            one = is_norm and name.endswith("weight") and adds_one(deep.get_submodule(full.rpartition(".")[0]))
            silent[full] = (0.0, 1.0 if one else 0.0, "the copied layer adds nothing until it is trained")
    return silent


def table_corrections(
    deep: PreTrainedModel,
    grown: PreTrainedModel,
    layers: Layers,
    factors: Mapping[str, int | Fraction],
    *,
    copies: bool,
) -> dict[str, Correction]:
    """Corrections by source tensor, for the token table, and for the final norm where the head is the table.

    Args:
        deep, grown: before and after width growth, on the meta device.
        layers: of the source.
        factors: growth factor by dimension.
        copies: whether new channels are copies, which a tied head reads each with the whole weight.
    """
    table_scale = _embedding_scale(deep, grown)
    scales: dict[str, Correction] = {}
    embedding, head = deep.get_input_embeddings(), deep.get_output_embeddings()
    names = {id(p): name for name, p in reversed(list(deep.named_parameters()))}
    table = names[id(embedding.weight)]
    if table_scale != 1:
        scales[table] = (1 / table_scale, 0.0, "the architecture multiplies the table by a constant of the hidden size")
    if head is not None and head.weight is embedding.weight:
        # The head reads the table's copies, which are whole copies and no shares; the norm before it makes up.
        path = final_norm(deep, layers.prefixes)
        norm = deep.get_submodule(path)
        for name, _ in norm.named_parameters():
            offset = 1.0 if name == "weight" and adds_one(norm) else 0.0
            scale = table_scale / float(factors["hidden"]) if copies else table_scale
            if scale != 1:
                scales[f"{path}.{name}"] = (scale, offset, "the output head is tied and reads what the table holds")
    return scales


def _embedding_scale(deep: PreTrainedModel, grown: PreTrainedModel) -> float:
    """How much larger the constant on the token table becomes.

    Raises:
        UnsupportedModelError: another constant depends on the width.
    """
    before, after = constants(deep), constants(grown)
    changed = {k: (v, after[k]) for k, v in before.items() if isinstance(v, float) and k in after and after[k] != v}
    scale = 1.0
    for name, (old, new) in changed.items():
        if deep.get_submodule(name.rpartition(".")[0]) is not deep.get_input_embeddings():
            raise UnsupportedModelError(
                f"{deep.config.model_type} computes {name} from its width: it would go from {old} to {new} and change "
                "the function, and growth does not know how to make up for it."
            )
        # The model multiplies by the constant rounded to its dtype: 55.43 is 55.5 in bfloat16.
        dtype = deep.config.dtype if isinstance(deep.config.dtype, torch.dtype) else torch.float32
        old, new = (torch.tensor(value, dtype=dtype).double().item() for value in (old, new))
        scale *= new / old
    return scale
