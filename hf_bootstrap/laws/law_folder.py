"""A law's folder: `law.json`, the points it was fitted to, a card, figures and the planner; and back.

What stands in `law.json` is the business of `law_file`, what the card says that of `card`.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import LawFileError
from ..folders import read_unchanged, replace_folder
from ..sealing import seal
from ..units import LossUnit
from .card import card_text
from .evidence import Comparison
from .fitted import FittedLaw, LawLike
from .law_file import LAW_FILE, law_text, read_law
from .planner import planner_page
from .points import Points
from .tables import BITS

__all__ = ["OWNED", "POINTS_FILES", "law_files", "read_folder", "write_folder"]

POINTS_FILES = ("points.jsonl", "points.csv")
# What a law speaks for: of an older law nothing stays beside a new one.
OWNED = (LAW_FILE, *POINTS_FILES, "README.md", "planner.html", "figures/*.png")


def law_files(
    law: LawLike,
    *,
    address: str = "path/to/this/folder",
    points: bool = True,
    comparison: Comparison | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """All that is known of a law: path in its folder or repository -> content.

    Args:
        law: a fitted law, or one with published parameters.
        address: what `from_pretrained` is given in the card.
        points: whether the points it was fitted to are among the files.
        comparison: of forms on these points, for the card.
        metadata: for the card's front matter.

    Raises:
        LawError: the form has no name.
        HubError: metadata that the Hub would refuse.
    """
    text = law_text(law.fitted).encode()
    pictures = {} if law.points_ is None else _drawn(law)
    names = [name.removeprefix("figures/") for name in pictures]
    card = card_text(law, names, address=address, planner=True, comparison=comparison, metadata=metadata)
    files = {**pictures, "README.md": card.encode(), "planner.html": planner_page(law).encode()}
    if points and law.points_ is not None:
        files |= _points_file(law.points_)
    return {**files, LAW_FILE: text}


def write_folder(law: LawLike, folder: str | Path) -> None:
    """Write all that is known of a law into a folder, which changes as one (`replace_folder`).

    Raises:
        LawError: the form has no name.
        StoreError: the folder cannot be written.
    """
    replace_folder(folder, law_files(law), owned=OWNED)


def read_folder(folder: str | Path) -> tuple[FittedLaw, Points | None]:
    """The law of a folder, and its points where they lie beside it.

    Raises:
        LawFileError: the law, or the points beside it, are missing, changed or of another version.
    """

    def read(place: Path) -> tuple[FittedLaw, Points | None]:
        law = read_law(place / LAW_FILE)
        return law, _read_points(place, law)

    return read_unchanged(folder, read, LawFileError)


def _drawn(law: LawLike) -> dict[str, bytes]:
    """The figures as PNG files: path -> bytes."""
    from .figures import save_figures

    with tempfile.TemporaryDirectory() as drawn:
        return {f"figures/{name}": (Path(drawn) / name).read_bytes() for name in save_figures(law, drawn)}


def _points_file(points: Points) -> dict[str, bytes]:
    if points.records is None:
        return {"points.csv": points.to_csv().encode()}
    return {"points.jsonl": "".join(seal(record.to_dict()) + "\n" for record in points.records).encode()}


def _read_points(folder: Path, law: FittedLaw) -> Points | None:
    for name in POINTS_FILES:
        if (folder / name).exists():
            in_bits = name == "points.csv" and law.loss_unit is LossUnit.BITS
            points = Points.read(folder / name, columns={"loss": BITS} if in_bits else None)
            if points.digest() != law.points_digest:
                raise LawFileError(
                    f"{folder / name} does not hold the points this law was fitted to. Fit again, or remove the file."
                )
            return points
    return None
