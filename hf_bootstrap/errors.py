"""The error tree: every exception this library raises on purpose, and nothing else.

    BootstrapError
    ├── QuantityError        (ValueError)    a count, size or duration that cannot be read
    ├── RecordError          (ValueError)    a run or a point that breaks the record format
    │   └── PointError                       one scaling point, named by its run and tokens or its line
    ├── StoreError           (OSError)       a file or folder that cannot be written, read or shared
    │   └── CorruptFileError                 a file whose content is not what its writer left
    ├── HubError             (OSError)       the Hub is away, refuses, or holds what cannot be used
    ├── GrowthError          (ValueError)    a growth that was asked for wrongly
    │   ├── UnsupportedModelError            an architecture, or a size of it, that cannot be grown
    │   └── VerificationError                a grown model that is not what was promised
    ├── LawError             (ValueError)    points, forms and fits
    │   ├── FitError                         points that cannot support the law asked for
    │   ├── NotFittedError                   a question put to a law before `fit`
    │   ├── PredictionError                  a question outside what a law can answer
    │   └── LawFileError                     a law file that cannot be read
    ├── TrainingError        (RuntimeError)  a run that cannot start, go on or finish
    │   └── DataError                        text or tokens that cannot be trained on
    └── StudyError           (RuntimeError)  a set of runs that cannot be ordered or finished

A message says what happened with the values, why it matters, and what to do next.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "BootstrapError",
    "CorruptFileError",
    "DataError",
    "FitError",
    "GrowthError",
    "HubError",
    "LawError",
    "LawFileError",
    "NotFittedError",
    "PointError",
    "PredictionError",
    "QuantityError",
    "RecordError",
    "StoreError",
    "StudyError",
    "TrainingError",
    "UnsupportedModelError",
    "VerificationError",
    "did_you_mean",
]


class BootstrapError(Exception):
    """Base of every error raised on purpose by hf_bootstrap."""


class QuantityError(BootstrapError, ValueError):
    """A count, size or duration that cannot be read, such as ``"3Q"`` tokens."""


class RecordError(BootstrapError, ValueError):
    """A run or a point that breaks the record format (`docs/formats.md`)."""


class PointError(RecordError):
    """A scaling point no law may see: a loss that is not finite, a negative count, a broken line."""


class StoreError(BootstrapError, OSError):
    """A file or folder that cannot be written, read or shared."""


class CorruptFileError(StoreError):
    """A file whose content is not what its writer left: a wrong checksum or broken JSON."""


class HubError(BootstrapError, OSError):
    """The Hub is away, refuses, or holds what cannot be used; nothing there is half changed."""


class GrowthError(BootstrapError, ValueError):
    """A growth that was asked for wrongly: an unknown method, a factor below one."""


class UnsupportedModelError(GrowthError):
    """An architecture, or a size of it, that cannot be grown; the message names the reason."""


class VerificationError(GrowthError):
    """A grown model that is not what its method promises."""


class LawError(BootstrapError, ValueError):
    """Points, forms and fits; its children say which."""


class FitError(LawError):
    """Points that cannot support the law asked for."""


class NotFittedError(LawError, AttributeError):
    """A question put to a law before `fit` gave it parameters."""


class PredictionError(LawError):
    """A question outside what a law can answer."""


class LawFileError(LawError):
    """A law file that cannot be read: another version, cut short, or not a law."""


class TrainingError(BootstrapError, RuntimeError):
    """A run that cannot start, go on or finish."""


class DataError(TrainingError, ValueError):
    """Text or tokens that cannot be trained on."""


class StudyError(BootstrapError, RuntimeError):
    """A set of runs that cannot be ordered or finished."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest known word, or lists what is known.

    Returns:
        ``"Did you mean 'tokens'?"`` or ``"Known: a, b, c."``; never an empty string.
    """
    options = sorted(known)
    near = difflib.get_close_matches(word, options, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(options)}."
