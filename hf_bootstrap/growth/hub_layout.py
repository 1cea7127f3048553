"""Where the tensors of an architecture lie on disk: under which names, in which pieces.

A mixture of experts runs on one tensor of all experts and is stored expert by expert; other types fuse or cut other
tensors. What `save_pretrained` writes is asked of transformers itself, with numbered stand-ins instead of weights.
Reading and writing by the answer is for `tensors` and `writer`.
"""

import bisect
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import UnsupportedModelError
from .architecture import find_ties, named_tensors

__all__ = ["Box", "HubLayout", "Part", "hub_layout", "layout_of"]

_Array = NDArray[np.int64]

# (start, stop) on the leading axes of a tensor; it is whole on the others.
Box = tuple[tuple[int, int], ...]

# A stand-in need not be as large as the tensor: along an axis longer than this it has that many entries, which can
# be cut into 2, 3, 4, 6, 8 and 12 equal pieces. The first axis is kept, for it may count experts.
_LONGEST, _SHORTENED = 64, 24


@dataclass(frozen=True, kw_only=True)
class Part:
    """A box of a tensor in memory, and the rows of a tensor on disk that hold it.

    Attributes:
        tensor: name in memory; box: (start, stop) on each of its axes.
        stored: name on disk; start: the first of its rows (first axis) that this part fills.
        drops_first: the first axis of the box is one entry long, and the tensor on disk has no such axis.
    """

    tensor: str
    stored: str
    box: Box
    start: int = 0
    drops_first: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the part on disk."""
        lengths = tuple(stop - start for start, stop in self.box)
        return lengths[1:] if self.drops_first else lengths

    @property
    def rows(self) -> int:
        """How many rows of the tensor on disk it fills; 1 for a scalar."""
        return self.shape[0] if self.shape else 1


@dataclass(frozen=True, kw_only=True)
class HubLayout:
    """How a model lies on disk.

    Attributes:
        parts: by the name of the tensor in memory, tied ones once.
        stored: the same parts by the name of the tensor on disk, in the order of its rows.
        shapes: of the tensors on disk, in the order of the model's tensors.
        ties: names on disk that are another tensor on disk.
    """

    parts: Mapping[str, tuple[Part, ...]]
    stored: Mapping[str, tuple[Part, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    ties: Mapping[str, str]


def hub_layout(model: PreTrainedModel) -> HubLayout:
    """The names and pieces `save_pretrained` writes for an architecture.

    Args:
        model: may be on the meta device.

    Raises:
        UnsupportedModelError: a tensor is stored in another way than in boxes of the tensors in memory.
    """
    tensors, ties = named_tensors(model), find_ties(model)
    converted = _converted(model, [*tensors, *ties])
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    numbered = _stand_ins({name: shape for name, shape in shapes.items() if name in converted})
    numbers = _Numbers(numbered, shapes)
    marks = {name: torch.empty(0, device="meta") for name in (*tensors, *ties) if name not in numbered}
    stored = _revert(model, {**marks, **numbered})
    names = {id(mark): name for name, mark in marks.items()}
    parts: dict[str, list[Part]] = {name: [] for name in tensors}
    tied: dict[str, str] = {}
    for title, value in stored.items():
        name = names.get(id(value))
        if name is None:
            for part in _known(model, title, numbers.parts(title, value.numpy())):
                parts[part.tensor].append(part)
        elif name in ties:
            tied[title] = ties[name]
        else:
            parts[name].append(Part(tensor=name, stored=title, box=tuple((0, length) for length in shapes[name])))
    _check_complete(model, parts, shapes)
    in_memory = {name: tuple(sorted(found, key=lambda part: (part.box, part.stored))) for name, found in parts.items()}
    return layout_of(in_memory, {title: in_memory[first][0].stored for title, first in tied.items()})


def layout_of(parts: Mapping[str, tuple[Part, ...]], ties: Mapping[str, str]) -> HubLayout:
    """The layout that consists of some parts.

    Args:
        parts: as `HubLayout.parts`, in the order of the model's tensors.
        ties: as `HubLayout.ties`.
    """
    on_disk: dict[str, list[Part]] = defaultdict(list)
    for part in (part for found in parts.values() for part in found):
        on_disk[part.stored].append(part)
    stored = {title: tuple(sorted(found, key=lambda part: part.start)) for title, found in on_disk.items()}
    return HubLayout(
        parts=parts, stored=stored, shapes={title: _shape(found) for title, found in stored.items()}, ties=ties
    )


def _shape(parts: tuple[Part, ...]) -> tuple[int, ...]:
    first = parts[0].shape
    return (sum(part.rows for part in parts), *first[1:]) if first else first


def _converted(model: PreTrainedModel, names: list[str]) -> set[str]:
    """Tensors that are stored as something else, and not only under another name."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    transforms = get_model_conversion_mapping(model, add_legacy=False)
    back = [transform.reverse_transform() for transform in transforms if isinstance(transform, WeightConverter)]
    return {name for name in names if any(transform.rename_source_key(name)[1] for transform in back)}


def _stand_ins(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of the same number of axes in which every entry has a number of its own."""
    found, begin = {}, 0
    for name, shape in shapes.items():
        small = [length if axis == 0 or length <= _LONGEST else _SHORTENED for axis, length in enumerate(shape)]
        found[name] = torch.arange(begin, begin + math.prod(small)).reshape(small)
        begin += math.prod(small)
    return found


def _revert(model: PreTrainedModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    from transformers.core_model_loading import revert_weight_conversion

    try:
        stored: dict[str, Tensor] = revert_weight_conversion(model, tensors)
    except Exception as error:  # a conversion may ask for the real sizes, or fail in any other way
        raise UnsupportedModelError(
            f"{model.config.model_type} is stored in another layout than it runs in, and the way between the two "
            f"cannot be followed in pieces ({type(error).__name__}: {str(error)[:200]}). bootstrap_from_pretrained "
            "grows it in memory."
        ) from error
    return stored


def _known(model: PreTrainedModel, stored: str, parts: list[Part] | None) -> list[Part]:
    if parts is None:
        raise UnsupportedModelError(
            f"{model.config.model_type} stores {stored} in another order than its tensors have in memory, which growth "
            "on disk does not handle. bootstrap_from_pretrained grows it in memory."
        )
    return parts


class _Numbers:
    """Finds the box of a tensor in memory that a stored stand-in shows."""

    def __init__(self, numbered: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.names, self.shapes = list(numbered), shapes
        self.arrays = [tensor.numpy() for tensor in numbered.values()]
        self.begins = [int(array.flat[0]) for array in self.arrays]

    def parts(self, stored: str, value: _Array) -> list[Part] | None:
        """The boxes of which a stored stand-in consists, along its first axis; None where it does not."""
        found: list[Part] = []
        row = 0
        while row < len(value):
            part, rows = self._first(stored, value[row:])
            if part is None:
                return None
            found.append(Part(**{**vars(part), "start": sum(p.shape[0] for p in found)}))
            row += rows
        return found

    def _first(self, stored: str, value: _Array) -> tuple[Part | None, int]:
        """(the box a stored stand-in begins with, its rows there)."""
        number = bisect.bisect_right(self.begins, int(value.flat[0])) - 1
        name, whole, begin = self.names[number], self.arrays[number], self.begins[number]
        inside = (value >= begin) & (value < begin + whole.size)
        rows = len(value) if inside.all() else int(inside.reshape(len(value), -1).all(1).argmin())
        if rows == 0 or value.ndim not in (whole.ndim, whole.ndim - 1):
            return None, 0
        ends = (
            np.unravel_index(int(entry) - begin, whole.shape) for entry in (value.flat[0], value[rows - 1].flat[-1])
        )
        box = [(int(first), int(last) + 1) for first, last in zip(*ends, strict=True)]
        shown = whole[tuple(slice(*pair) for pair in box)]
        drops_first = value.ndim < whole.ndim
        if not np.array_equal(shown[0] if drops_first and len(shown) == 1 else shown, value[:rows]):
            return None, 0
        real = []
        for pair, small, length in zip(box, whole.shape, self.shapes[name], strict=True):
            if any(end * length % small for end in pair):
                return None, 0
            real.append((pair[0] * length // small, pair[1] * length // small))
        return Part(tensor=name, stored=stored, box=tuple(real), drops_first=drops_first), rows


def _check_complete(
    model: PreTrainedModel, parts: Mapping[str, list[Part]], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Every entry of every tensor is stored once: the boxes are distinct, so their sizes must add up."""
    for name, found in parts.items():
        if sum(math.prod(part.shape) for part in found) != math.prod(shapes[name]):
            raise UnsupportedModelError(
                f"{model.config.model_type} does not store {name} as a whole, so growth on disk would lose some of it. "
                "bootstrap_from_pretrained grows it in memory."
            )
