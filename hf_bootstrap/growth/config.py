"""`GrowthConfig`: what growth you want, checked when made; how it is carried out belongs to `plan`.

Loads without torch, so that studies and the command line can describe a growth for nothing.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..errors import GrowthError, did_you_mean
from ..store import read_json, write_json

__all__ = [
    "CONFIG_NAME",
    "LARGEST_FACTOR",
    "LAYER_MAPS",
    "WIDTH_METHODS",
    "GrowthConfig",
    "LayerMap",
    "interpose_layers",
    "stack_layers",
]

CONFIG_NAME = "growth_config.json"

# Nobody grows a model a thousandfold in one step; a larger factor is a size given where a factor goes.
LARGEST_FACTOR = 1024

# The width methods that come with the library and leave the function unchanged, by name, so that checking a
# config needs no torch. Each is a function in `operators.OPERATORS`.
WIDTH_METHODS = ("clone", "partition", "split")

LayerMap = Callable[[int, int], Sequence[int]]


def stack_layers(n_layers: int, factor: int) -> tuple[int, ...]:
    """The whole stack again on top of itself: 0, 1, 2, 0, 1, 2.

    Changes the function. Source: G_stack, Du et al. 2024, arXiv:2405.15319.
    """
    return tuple(range(n_layers)) * factor


def interpose_layers(n_layers: int, factor: int) -> tuple[int, ...]:
    """Each layer next to its copies: 0, 0, 1, 1, 2, 2.

    Changes the function. Source: arXiv:2510.08008, which finds it better than stacking for converged models.
    """
    return tuple(layer for layer in range(n_layers) for _ in range(factor))


@dataclass(frozen=True, kw_only=True)
class GrowthConfig:
    """How to make a model deeper and wider. `GrowthConfig()` asks for no growth.

    Attributes:
        depth: layers after growth per layer before it.
        depth_method: where the copies go, a name in `LAYER_MAPS` or a function
            ``(n_layers, factor) -> old layer of every new layer``. Default "stack": the one with the most
            published evidence. Neither method keeps the function; the loss jumps and recovers in training.
        layer_map: the old layer of every new layer, instead of `depth` and `depth_method`.
        width: size of the residual stream, the MLP and the number of heads after growth, per unit before it;
            the head width stays.
        width_method: how the copies of an input share its weight, a name in `operators.OPERATORS` or a function
            of the same signature. Default "split": it keeps the function, its shares sum bit-exactly to the
            original in every float dtype, and the copies part in training. "clone" gives every copy the same
            share, so copies never part: a negative control.
        seed: of the random shares; the same seed gives the same weights, tensor by tensor.

    Raises:
        GrowthError: a factor below one or not whole, an unknown method, an empty or negative layer map.
    """

    depth: int = 1
    depth_method: str | LayerMap = "stack"
    layer_map: tuple[int, ...] | None = None
    width: int = 1
    width_method: str | Callable[..., Any] = "split"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse nonsense before anything is loaded."""
        _check_factor("depth", self.depth)
        _check_factor("width", self.width)
        if not _is_whole(self.seed) or not 0 <= self.seed < 2**63:
            raise GrowthError(f"seed is {self.seed!r}; it must be a whole number from 0 to 2**63 - 1.")
        if self.layer_map is not None:
            object.__setattr__(self, "layer_map", _checked_map(self.layer_map))
            if self.depth != 1:
                raise GrowthError(
                    f"depth={self.depth} and a layer_map of {len(self.layer_map)} layers both say how deep the model "
                    "becomes. Give one of them."
                )
        if isinstance(self.depth_method, str):
            _check_name("depth_method", self.depth_method, LAYER_MAPS)
        elif not callable(self.depth_method):
            raise GrowthError(f"depth_method is {self.depth_method!r}; give one of {sorted(LAYER_MAPS)} or a function.")
        if isinstance(self.width_method, str):
            if self.width_method not in WIDTH_METHODS:
                from .operators import OPERATORS  # needs torch: only for names someone else has registered

                _check_name("width_method", self.width_method, OPERATORS)
        elif not callable(self.width_method):
            raise GrowthError(f"width_method is {self.width_method!r}; give one of {WIDTH_METHODS} or a function.")

    @property
    def grows_depth(self) -> bool:
        """Whether the layers after growth are others than before."""
        return self.depth > 1 or self.layer_map is not None

    @property
    def grows_width(self) -> bool:
        """Whether tensors get wider."""
        return self.width > 1

    @property
    def grows(self) -> bool:
        """Whether anything changes at all."""
        return self.grows_depth or self.grows_width

    @property
    def shares_add_up(self) -> bool:
        """Whether the copies of every weight are promised to sum to the original, up to one rounding each."""
        return not self.grows_width or self.width_method in WIDTH_METHODS

    @property
    def keeps_function(self) -> bool:
        """Whether the grown model is promised to compute what the old one computed, up to rounding."""
        return not self.grows_depth and self.shares_add_up

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """The old layer of every new layer, for a model of `n_layers`.

        Raises:
            GrowthError: a layer the model does not have, or a method that gives no layers.
        """
        if self.layer_map is not None:
            layers = self.layer_map
        else:
            method = LAYER_MAPS[self.depth_method] if isinstance(self.depth_method, str) else self.depth_method
            layers = _checked_map(method(n_layers, self.depth)) if self.depth > 1 else tuple(range(n_layers))
        missing = sorted({layer for layer in layers if layer >= n_layers})
        if missing:
            raise GrowthError(
                f"The layer map asks for layer {missing[0]}, but the model has layers 0 to {n_layers - 1}. "
                "Layers count from 0."
            )
        return layers

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types.

        Raises:
            GrowthError: a method is a function, which has no name a file could hold.
        """
        for name, known in (("depth_method", "config.LAYER_MAPS"), ("width_method", "operators.OPERATORS")):
            if not isinstance(getattr(self, name), str):
                raise GrowthError(
                    f"{name} is the function {getattr(self, name)!r}, which cannot be written to a file. "
                    f"Put it into hf_bootstrap.growth.{known} under a name and use that name."
                )
        record = dataclasses.asdict(self)
        record["layer_map"] = None if self.layer_map is None else list(self.layer_map)
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Make a config from a record read elsewhere.

        Raises:
            GrowthError: an unknown key, or a value `GrowthConfig` refuses.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in record:
            if key not in known:
                raise GrowthError(f"GrowthConfig has no field {key!r}. {did_you_mean(str(key), known)}")
        return cls(**record)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """Read `growth_config.json` from a folder, or a JSON file by its own path."""
        path = Path(path)
        return cls.from_dict(read_json(path / CONFIG_NAME if path.is_dir() else path))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `growth_config.json` into a folder, made if need be."""
        write_json(Path(folder) / CONFIG_NAME, self.to_dict())


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_factor(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise GrowthError(
            f"{name} is {value!r}; it is the factor a model grows by, a whole number from 1 (no growth). Try {name}=2."
        )
    if value > LARGEST_FACTOR:
        raise GrowthError(
            f"{name} is {value:,}, above {LARGEST_FACTOR:,}; it is the factor a model grows by, not its new size. "
            "Try a factor of 2 to 4."
        )


def _check_name(field: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise GrowthError(f"{field} {name!r} is not known. {did_you_mean(name, known)} A function also works.")


def _checked_map(layers: object) -> tuple[int, ...]:
    if not isinstance(layers, Sequence) or isinstance(layers, str) or not layers:
        raise GrowthError(
            f"The layer map is {layers!r}; it must list the old layer of every new layer, such as (0, 0, 1, 1)."
        )
    for layer in layers:
        if not _is_whole(layer) or layer < 0:
            raise GrowthError(f"The layer map holds {layer!r}; layers are whole numbers that count from 0.")
    return tuple(layers)


# The depth methods, by the name a file can hold. A function passed as `depth_method` needs no entry.
LAYER_MAPS: dict[str, LayerMap] = {"interpose": interpose_layers, "stack": stack_layers}
