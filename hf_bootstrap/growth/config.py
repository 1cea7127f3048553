"""`GrowthConfig`: what growth you want, checked when made; how it is carried out belongs to `plan`.

Loads without torch, so that studies and the command line can describe a growth for nothing.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from ..errors import CorruptFileError, GrowthError, StoreError, did_you_mean
from ..store import read_json, write_json
from .layer_maps import LAYER_MAPS, LayerMap

__all__ = [
    "CONFIG_NAME",
    "DTYPES_TO_WRITE",
    "LARGEST_FACTOR",
    "SIZE_FIELDS",
    "WIDTH_METHODS",
    "GrowthConfig",
]

CONFIG_NAME = "growth_config.json"

# Nobody grows a model a thousandfold in one step; a larger factor is a size given where a factor goes.
LARGEST_FACTOR = 1024

# The width methods that come with the library, and whether each keeps the function; here as well as in
# `operators.OPERATORS`, so that checking a config needs no torch.
WIDTH_METHODS = {"aki": False, "clone": True, "noise": False, "partition": True, "split": True, "zero_pad": True}

# What the grown weights may be stored in.
DTYPES_TO_WRITE = ("bfloat16", "float16", "float32", "float64")

# The field that states a dimension's size after growth.
SIZE_FIELDS = {
    "hidden": "hidden_size",
    "mlp": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
}


@dataclass(frozen=True, kw_only=True)
class GrowthConfig:
    """How to make a model deeper and wider. `GrowthConfig()` asks for no growth.

    Attributes:
        depth: layers after growth per layer before it.
        depth_method: where the copies go, a name in `LAYER_MAPS` or a function
            ``(n_layers, n_layers after growth) -> old layer of every new layer``. Default "stack": the one with the
            most published evidence. Only "identity" keeps the function (LLaMA-Pro, arXiv:2401.02415: copies that
            add nothing until they are trained); after the others the loss jumps and recovers in training.
        num_hidden_layers: layers after growth, instead of `depth`; no fewer than before.
        layer_map: the old layer of every new layer, instead of `depth` and `depth_method`; it may leave some out.
        width: size of the residual stream, the MLP and the number of heads after growth, per unit before it;
            the head width stays.
        hidden_size, intermediate_size, num_attention_heads, num_key_value_heads: sizes after growth, for what shall
            not grow by `width`; each a multiple of the old one, or with "zero_pad" any larger number.
        width_method: what the new units are, a name in `operators.OPERATORS`, a function of the signature of
            `operators.Operator`, or a `operators.WidthMethod`. Default "split": it keeps the function, its shares
            sum bit-exactly to the original in every float dtype, and the copies part in training. "clone" gives every
            copy the same share, so copies never part: a negative control.
        seed: of the random shares; the same seed gives the same weights, tensor by tensor.
        dtype: of the grown weights, a name in `DTYPES_TO_WRITE`; default: that of the source. The source is converted
            first and then grown, so the grown model computes what the *converted* source computes: nothing is lost
            where the dtype gets wider, and every weight is rounded once where it gets narrower.

    Raises:
        GrowthError: a factor below one or not whole, an unknown method or dtype, an empty or negative layer map.
    """

    depth: int = 1
    depth_method: str | LayerMap = "stack"
    num_hidden_layers: int | None = None
    layer_map: tuple[int, ...] | None = None
    width: int = 1
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    width_method: str | Callable[..., Any] = "split"
    seed: int = 0
    dtype: str | None = None

    def __post_init__(self) -> None:
        """Refuse nonsense before anything is loaded."""
        _check_factor("depth", self.depth)
        _check_factor("width", self.width)
        if not _is_whole(self.seed) or not 0 <= self.seed < 2**63:
            raise GrowthError(f"seed is {self.seed!r}; it must be a whole number from 0 to 2**63 - 1.")
        for name in (*SIZE_FIELDS.values(), "num_hidden_layers"):
            _check_size(name, getattr(self, name))
        if self.layer_map is not None:
            object.__setattr__(self, "layer_map", _checked_map(self.layer_map))
        if (self.depth != 1) + (self.layer_map is not None) + (self.num_hidden_layers is not None) > 1:
            length = None if self.layer_map is None else len(self.layer_map)
            raise GrowthError(
                f"depth={self.depth}, num_hidden_layers={self.num_hidden_layers} and a layer_map of {length} layers "
                "all say how deep the model becomes. Give one of them."
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
            known = ", ".join(WIDTH_METHODS)
            raise GrowthError(f"width_method is {self.width_method!r}; give one of {known}, or a function.")
        if self.dtype is not None and self.dtype not in DTYPES_TO_WRITE:
            raise GrowthError(
                f"dtype is {self.dtype!r}; weights are written as one of {', '.join(DTYPES_TO_WRITE)}. Leave it out to "
                "keep the source's."
            )

    @property
    def grows_depth(self) -> bool:
        """Whether the layers after growth are others than before."""
        return self.depth > 1 or self.layer_map is not None or self.num_hidden_layers is not None

    @property
    def grows_width(self) -> bool:
        """Whether tensors get wider."""
        return self.width > 1 or any(getattr(self, name) is not None for name in SIZE_FIELDS.values())

    @property
    def grows(self) -> bool:
        """Whether anything changes at all."""
        return self.grows_depth or self.grows_width or self.dtype is not None

    def factors(self, sizes: Mapping[str, int]) -> dict[str, int | Fraction]:
        """The growth factor of every dimension, for a model of these sizes.

        Args:
            sizes: by dimension: "hidden", "mlp", "heads", "kv_heads". A dimension the model has not is left out.

        Returns:
            Whole numbers, or with "zero_pad" fractions.

        Raises:
            GrowthError: a size that is no multiple of the old one, or of a dimension the model has not.
        """
        factors: dict[str, int | Fraction] = dict.fromkeys(SIZE_FIELDS, self.width)
        for dimension, name in SIZE_FIELDS.items():
            wanted = getattr(self, name)
            if wanted is None:
                continue
            if dimension not in sizes:
                raise GrowthError(f"{name}={wanted:,} is asked for, but the model states no such size. Leave it out.")
            factors[dimension] = self._factor(name, sizes[dimension], wanted)
        if "kv_heads" in sizes:
            heads, kv_heads = (int(sizes[name] * factors[name]) for name in ("heads", "kv_heads"))
            if heads % kv_heads:
                more, fewer = self._shared_evenly(sizes, heads, kv_heads)
                raise GrowthError(
                    f"{heads} attention heads cannot share {kv_heads} key/value heads evenly: heads are a multiple of "
                    f"key/value heads. Nearest are num_attention_heads={more}, or num_key_value_heads={fewer}."
                )
        return factors

    def _shared_evenly(self, sizes: Mapping[str, int], heads: int, kv_heads: int) -> tuple[int, int]:
        """The nearest number of heads that these key/value heads allow, and the other way about."""
        any_size = self.width_method == "zero_pad"
        step = kv_heads if any_size else math.lcm(kv_heads, sizes["heads"])
        above = heads + -heads % step
        more = above - step if above - step >= sizes["heads"] and heads - (above - step) < above - heads else above
        allowed = (n for n in range(sizes["kv_heads"], heads + 1) if any_size or n % sizes["kv_heads"] == 0)
        return more, min((n for n in allowed if heads % n == 0), key=lambda n: abs(n - kv_heads), default=heads)

    def _factor(self, name: str, old: int, wanted: int) -> int | Fraction:
        if wanted < old:
            raise GrowthError(
                f"{name} cannot go from {old:,} to {wanted:,}: growth takes nothing away. Nearest is {old:,}, and "
                f"{2 * old:,} is the first that grows by whole copies."
            )
        if wanted > LARGEST_FACTOR * old:
            raise GrowthError(
                f"{name} cannot go from {old:,} to {wanted:,}: one growth goes up to {LARGEST_FACTOR:,} times a size. "
                f"The largest is {LARGEST_FACTOR * old:,}."
            )
        if wanted % old == 0:
            return wanted // old
        if self.width_method == "zero_pad":
            return Fraction(wanted, old)
        below, above = wanted - wanted % old, wanted + old - wanted % old
        raise GrowthError(
            f"{name} cannot go from {old:,} to {wanted:,}: copies are whole, so the new size is a multiple of the old "
            f"one. Nearest are {below:,} and {above:,}; or width_method='zero_pad', which takes any size."
        )

    @property
    def shares_add_up(self) -> bool:
        """Whether the copies of every weight are promised to sum to the original, up to one rounding each."""
        method: Any = self.width_method
        if isinstance(method, str) and method not in WIDTH_METHODS:
            from .operators import OPERATORS

            method = OPERATORS.get(method)
        keeps = WIDTH_METHODS[method] if isinstance(method, str) else getattr(method, "keeps_function", False)
        return not self.grows_width or bool(keeps)

    @property
    def keeps_function(self) -> bool:
        """Whether the grown model is promised to compute what the old one computed, up to rounding."""
        return (not self.grows_depth or self.adds_nothing) and self.shares_add_up

    @property
    def adds_nothing(self) -> bool:
        """Whether copied layers are made to add nothing to the residual stream."""
        return self.grows_depth and self.layer_map is None and self.depth_method == "identity"

    @property
    def keeps_moments(self) -> bool:
        """Whether a rule is known by which Adam's state grows exactly; a model may still break it."""
        keeps_width = not self.grows_width or self.width_method == "clone"
        return keeps_width and (not self.grows_depth or self.adds_nothing)

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """The old layer of every new layer, for a model of `n_layers`.

        Raises:
            GrowthError: a layer the model does not have, fewer layers than it has without a map that says which, or a
                method that gives no layers.
        """
        if self.layer_map is not None:
            layers = self.layer_map
        else:
            method = LAYER_MAPS[self.depth_method] if isinstance(self.depth_method, str) else self.depth_method
            target = n_layers * self.depth if self.num_hidden_layers is None else self.num_hidden_layers
            if target > LARGEST_FACTOR * n_layers:
                raise GrowthError(f"num_hidden_layers is {target:,}; the model has {n_layers:,}. Try {2 * n_layers:,}.")
            if target < n_layers:
                raise GrowthError(
                    f"num_hidden_layers cannot go from {n_layers:,} to {target:,}: growth takes nothing away, and no "
                    f"method says which layers to drop. Ask for {n_layers:,} or more, or list the layers to keep in "
                    "layer_map, such as (0, 2, 4)."
                )
            layers = tuple(range(n_layers)) if target == n_layers else _checked_map(method(n_layers, target))
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
        """Read `growth_config.json` from a folder, or a file by its own path: JSON, or YAML where it is not named so.

        Raises:
            StoreError: there is no such file, or it is damaged.
            GrowthError: an unknown key, or a value `GrowthConfig` refuses.
        """
        path = Path(path)
        if path.is_dir():
            return cls.from_dict(read_json(path / CONFIG_NAME))
        return cls.from_dict(read_json(path) if path.suffix == ".json" else _read_yaml(path))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `growth_config.json` into a folder, made if need be."""
        write_json(Path(folder) / CONFIG_NAME, self.to_dict())


def _read_yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML too; safe_load makes no objects
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}. Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFileError(f"{path} is neither YAML nor JSON: {error}. Correct the file.") from error
    if not isinstance(record, dict):
        raise GrowthError(f"{path} holds {type(record).__name__}; a recipe is a mapping, such as 'width: 2'.")
    return record


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


def _check_size(name: str, value: object) -> None:
    # How large it may be is a matter of the model, which is not known yet.
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise GrowthError(
            f"{name} is {value!r}; it is a size after growth, a whole number from 1. Leave it out to keep it."
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
