"""The texts of a run as flags name them: checked together before anything is read, then packed."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import DataError
from . import documents, prepare
from .flags import option

__all__ = ["Texts"]


@dataclass(kw_only=True)
class Texts:
    """Which texts to train and score on; flags of `HfArgumentParser`."""

    train_file: str | None = option("Text to train on: .txt, .jsonl or .parquet, .gz too.")
    validation_file: str | None = option("Held-out text, all of it scored at every point: keep it short.")
    dataset_name: str | None = option("Instead of train_file: a data set of the Hub.")
    dataset_config_name: str | None = option("Its configuration.")
    max_train_samples: int | None = option("How many of its documents, from the start.")
    streaming: bool = option("Read it without keeping its files.", False)
    replay_file: str | None = option("Text of the base's domain to mix in, so that it forgets less.")
    replay_ratio: str | None = option("Share of blocks that are replayed, 0.05 if left out.")
    base_validation_file: str | None = option("Held-out text of the base's domain: its loss beside the target's.")
    preprocessing_num_workers: int = option("Processes that tokenise.", 1)

    def said(self) -> dict[str, Any]:
        """The flags that name or bound a text, as they were said."""
        values = {f.name: getattr(self, f.name) for f in fields(Texts) if f.name != "preprocessing_num_workers"}
        return {name: value for name, value in values.items() if value not in (None, False)}

    def check(self) -> None:
        """Refuse flags that lack another, or that another makes useless.

        Raises:
            DataError: naming both.
        """
        said = self.said()
        if self.train_file and self.dataset_name:
            raise DataError(
                f"--train_file {self.train_file} and --dataset_name {self.dataset_name} are both given, and a run "
                "trains on one text. Leave one out."
            )
        if not self.train_file and not self.dataset_name:
            raise DataError("there is no text to train on. Give it as --train_file, or as --dataset_name from the Hub.")
        if not self.validation_file:
            raise DataError(
                "there is no held-out text, and a point is a loss on some. Give it as --validation_file; a hundred "
                "thousand tokens will do."
            )
        for name, needed in (
            ("dataset_config_name", "dataset_name"),
            ("max_train_samples", "dataset_name"),
            ("streaming", "dataset_name"),
            ("replay_ratio", "replay_file"),
        ):
            if name in said and needed not in said:
                raise DataError(
                    f"--{name} {said[name]} is not heeded without --{needed}. Give that too, or leave it out."
                )

    def pack(self, folder: Path, tokenizer: Any) -> dict[str, Path]:
        """Token files by name (train, held_out, replay, held_out_base), each packed once into the folder."""
        names = {"train": self.train_file, "held_out": self.validation_file}
        names |= {"replay": self.replay_file, "held_out_base": self.base_validation_file}
        workers = self.preprocessing_num_workers
        files = prepare.pack_files(folder, names, tokenizer, processes=workers)
        if self.dataset_name:
            name = self.dataset_name
            asked = {
                "config": self.dataset_config_name,
                "documents": self.max_train_samples,
                "streaming": self.streaming,
            }
            files["train"] = prepare.pack_once(
                folder,
                "train",
                f"{name} {asked}",
                lambda: documents.read_hub_documents(name, **asked),  # type: ignore[arg-type]
                tokenizer,
                processes=workers,
            )
        return files
