"""hf_bootstrap: reuse a pretrained language model, and know what it is worth.

Grow a checkpoint, train it further with exact token counts, fit the two-stage scaling law
(Liew & Kato 2025, arXiv:2510.06548) and decide. Names are loaded when first used, so importing
the package costs milliseconds and the laws half never loads torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .advise.candidates import make_budget
    from .advise.reuse import plan_reuse
    from .growth.adapters import grow_adapter
    from .growth.bootstrap import bootstrap_from_pretrained
    from .growth.config import GrowthConfig
    from .growth.merging import merge_adapter
    from .growth.operators import OPERATORS
    from .growth.optimizer_state import grow_optimizer_state
    from .growth.stream import grow_checkpoint
    from .growth.verify import verify_growth
    from .laws.evidence import compare_forms
    from .laws.forms import FORMS
    from .laws.law import ScalingLaw
    from .records import ScalingPoint
    from .training.callback import ScalingCallback

__version__ = "0.1.0"

_HOMES = {
    "FORMS": "laws.forms",
    "OPERATORS": "growth.operators",
    "GrowthConfig": "growth.config",
    "ScalingCallback": "training.callback",
    "ScalingLaw": "laws.law",
    "ScalingPoint": "records",
    "bootstrap_from_pretrained": "growth.bootstrap",
    "compare_forms": "laws.evidence",
    "grow_adapter": "growth.adapters",
    "grow_checkpoint": "growth.stream",
    "grow_optimizer_state": "growth.optimizer_state",
    "make_budget": "advise.candidates",
    "merge_adapter": "growth.merging",
    "plan_reuse": "advise.reuse",
    "verify_growth": "growth.verify",
}

__all__ = [
    "FORMS",
    "OPERATORS",
    "GrowthConfig",
    "ScalingCallback",
    "ScalingLaw",
    "ScalingPoint",
    "bootstrap_from_pretrained",
    "compare_forms",
    "grow_adapter",
    "grow_checkpoint",
    "grow_optimizer_state",
    "make_budget",
    "merge_adapter",
    "plan_reuse",
    "verify_growth",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
