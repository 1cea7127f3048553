"""Where the copies go when a model gets deeper: the old layer of every new layer, one plain function per method.

Loads without torch. What a config may ask for is for `config`, what the layers are for `depth`.
"""

from collections.abc import Callable, Sequence

from ..errors import GrowthError

__all__ = ["LAYER_MAPS", "LayerMap", "interpose_layers", "midas_layers", "solar_layers", "stack_layers"]

LayerMap = Callable[[int, int], Sequence[int]]


def stack_layers(n_layers: int, target: int) -> tuple[int, ...]:
    """The whole stack again on top of itself, from the bottom: 0, 1, 2, 0, 1, 2.

    Changes the function. Source: G_stack, Du et al. 2024, arXiv:2405.15319.
    """
    return tuple(layer % n_layers for layer in range(target))


def interpose_layers(n_layers: int, target: int) -> tuple[int, ...]:
    """Each layer next to its copies, spread evenly: 0, 0, 1, 1, 2, 2.

    Changes the function. Source: arXiv:2510.08008, which finds it better than stacking for converged models.
    """
    return tuple(layer * n_layers // target for layer in range(target))


def solar_layers(n_layers: int, target: int) -> tuple[int, ...]:
    """Two overlapping copies, the first without its last layers, the second without its first: 0, 1, 2, 1, 2, 3.

    Changes the function less than stacking at the seam. Source: SOLAR, Kim et al. 2023, arXiv:2312.15166.

    Raises:
        GrowthError: `target` is odd, or not between the old depth and twice that, both excluded.
    """
    if target % 2 or not n_layers < target < 2 * n_layers:
        nearest = max(n_layers + 1 + (n_layers + 1) % 2, min(target - target % 2, 2 * n_layers - 2))
        advice = f"Try num_hidden_layers={nearest}" if nearest < 2 * n_layers else "This model is too shallow for it"
        raise GrowthError(
            f"solar joins two parts of equal size and drops layers at the seam, so {n_layers} layers become an even "
            f"number between {n_layers} and {2 * n_layers}, not {target}. {advice}; or choose stack for {target}."
        )
    half = target // 2
    return (*range(half), *range(n_layers - half, n_layers))


def midas_layers(n_layers: int, target: int) -> tuple[int, ...]:
    """The middle block again and again: 0, 1, 2, 1, 2, 3. The ends, which do work of their own, stay single.

    The block is the largest that divides both depths and is at most half the model. Changes the function. The
    method was published for several stages of training; call growth once for each. Source: MIDAS, Saunshi et al.
    2024, arXiv:2409.19044.
    """
    if target <= n_layers:
        return tuple(range(target))
    largest = max(1, n_layers // 2)
    block = next(size for size in range(largest, 0, -1) if not n_layers % size and not (target - n_layers) % size)
    start = (n_layers - block) // 2
    middle = tuple(range(start, start + block)) * ((target - n_layers) // block)
    return (*range(start), *middle, *range(start, n_layers))


# The depth methods, by the name a file can hold. A function passed as `depth_method` needs no entry.
LAYER_MAPS: dict[str, LayerMap] = {
    "identity": interpose_layers,  # the copies are then made to add nothing, see `plan`
    "interpose": interpose_layers,
    "midas": midas_layers,
    "solar": solar_layers,
    "stack": stack_layers,
}
