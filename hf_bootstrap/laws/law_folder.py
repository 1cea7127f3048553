"""A law's folder: `law.json`, the points it was fitted to, a card and figures; and back.

What stands in `law.json` is the business of `law_file`, what the card says that of `card`.
"""

import tempfile
from pathlib import Path

from ..errors import LawFileError
from ..sealing import seal
from ..store import write_atomic
from .card import card_text
from .fitted import FittedLaw, LawLike
from .law_file import LAW_FILE, read_law, write_law
from .points import Points

__all__ = ["read_folder", "write_folder"]


def write_folder(law: LawLike, folder: str | Path) -> None:
    """Write all that is known of a law into a folder; `law.json` last.

    Raises:
        LawError: the form has no name.
        StoreError: the folder cannot be written.
    """
    # All is drawn and written down before the first file changes, and points and law go last, one after the other:
    # a reader refuses points that are not those of the law beside them.
    pictures = {} if law.points_ is None else _drawn(law)
    card, folder = card_text(law, list(pictures)), Path(folder)
    for name, picture in pictures.items():
        write_atomic(folder / "figures" / name, picture)
    write_atomic(folder / "README.md", card)
    if law.points_ is not None:
        _write_points(law.points_, folder)
    write_law(law.fitted, folder / LAW_FILE)


def read_folder(folder: str | Path) -> tuple[FittedLaw, Points | None]:
    """The law of a folder, and its points where they lie beside it.

    Raises:
        LawFileError: the law, or the points beside it, are missing, changed or of another version.
    """
    law = read_law(Path(folder) / LAW_FILE)
    return law, _read_points(Path(folder), law)


def _drawn(law: LawLike) -> dict[str, bytes]:
    """The figures as PNG files: name -> bytes."""
    from .figures import save_figures

    with tempfile.TemporaryDirectory() as drawn:
        return {name: (Path(drawn) / name).read_bytes() for name in save_figures(law, drawn)}


def _write_points(points: Points, folder: Path) -> None:
    if points.records is None:
        name, other, text = "points.csv", "points.jsonl", points.to_csv()
    else:
        name, other = "points.jsonl", "points.csv"
        text = "".join(seal(record.to_dict()) + "\n" for record in points.records)
    write_atomic(folder / name, text)
    (folder / other).unlink(missing_ok=True)


def _read_points(folder: Path, law: FittedLaw) -> Points | None:
    for name in ("points.jsonl", "points.csv"):
        if (folder / name).exists():
            points = Points.read(folder / name)
            if points.digest() != law.points_digest:
                raise LawFileError(
                    f"{folder / name} does not hold the points this law was fitted to. Fit again, or remove the file."
                )
            return points
    return None
