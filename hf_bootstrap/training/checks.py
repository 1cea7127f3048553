"""Whether model and data fit together, asked before any compute; what does not is a sentence with both numbers."""

from collections.abc import Mapping, Sized
from typing import Any

from ..errors import DataError

__all__ = ["check_fit"]


def check_fit(model: Any, name: str, data: Any) -> None:
    """Refuse a data set that a model cannot be trained or scored on.

    Of packed data every token is known to fit; of other data sets only what the first item shows.

    Args:
        model: a transformers model.
        name: what to call the data in the message.
        data: a data set; one without a length is not looked into.

    Raises:
        DataError: nothing in it, no `input_ids`, ids beyond the model's vocabulary, or sequences beyond its positions.
    """
    if not isinstance(data, Sized):
        return
    if len(data) == 0:
        raise DataError(f"the {name} set holds no whole block or item. Give more text, or shorter blocks.")
    first = data[0]  # type: ignore[index]
    if not isinstance(first, Mapping) or "input_ids" not in first:
        has = ", ".join(map(str, first)) if isinstance(first, Mapping) else type(first).__name__
        raise DataError(f"items of the {name} set have {has} but no input_ids. Tokenise the text first.")
    config = model.config.get_text_config()
    largest = getattr(data, "largest_id", None)
    largest = int(max(first["input_ids"])) if largest is None else largest
    if largest >= config.vocab_size:
        raise DataError(
            f"the {name} set has token {largest:,}, but the model's vocabulary ends at {config.vocab_size - 1:,}: it "
            "was packed with another tokenizer. Use the model's own, or give the model more rows (training.vocabulary)."
        )
    positions = getattr(config, "max_position_embeddings", None)
    longest = max(getattr(data, "sequence_length", 0) + 1, len(first["input_ids"]))
    if positions and longest > positions:
        raise DataError(
            f"sequences of the {name} set have {longest:,} positions, the model {positions:,}. Take blocks of at most "
            f"{positions - 1:,} trained tokens; a block has one position more, for neighbours overlap by one."
        )
