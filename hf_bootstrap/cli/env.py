"""`hf-bootstrap env`: what a bug report needs, and no secret."""

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

__all__ = ["env"]

_PACKAGES = (
    "hf_bootstrap", "torch", "transformers", "accelerate", "peft", "datasets", "evaluate", "tokenizers",
    "safetensors", "huggingface_hub", "numpy", "scipy", "matplotlib", "pandas", "pyarrow", "typer", "submitit",
    "flash-attn",
)  # fmt: skip


def env(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print versions and hardware for a bug report.

    Example: hf-bootstrap env --json
    """
    facts = _facts()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {value if value is not None else 'not installed'}")


def _facts() -> dict[str, str | int | None]:
    facts: dict[str, str | int | None] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
    }
    for name in _PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = None
    facts["gpu"] = _gpu()
    # Settings that change what happens, as yes or no: their values could be tokens, addresses or paths.
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HOME", "OMP_NUM_THREADS", "ACCELERATE_USE_FSDP"):
        facts[name] = "set" if os.environ.get(name) else "not set"
    facts["token of the Hub"] = _token()
    return facts


def _token() -> str:
    """Whether there is one; never which."""
    try:
        from huggingface_hub import get_token
    except ImportError:
        return "huggingface_hub is not installed"
    return "there" if get_token() else "none"


def _gpu() -> str:
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if not torch.cuda.is_available():
        return "none"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
