"""``python -m hf_bootstrap.cli``: the command where only a module can be named, as under `accelerate launch -m`."""

from .main import main

__all__ = ()

if __name__ == "__main__":
    main()
