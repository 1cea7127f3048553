"""How a command line names rows and columns of a table: `--where method=stack`, `--columns tokens=D2,loss=L`."""

import typer

__all__ = ["named_columns", "wanted_rows"]


def wanted_rows(words: list[str] | None) -> dict[str, list[str]]:
    """``["method=stack", "method=continue"]`` -> ``{"method": ["stack", "continue"]}``."""
    found: dict[str, list[str]] = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise typer.BadParameter(f"{word!r} is not of the form name=value.")
        found.setdefault(name.strip(), []).append(value.strip())
    return found


def named_columns(text: str) -> dict[str, str]:
    """``"tokens=D2,loss=L"`` -> ``{"tokens": "D2", "loss": "L"}``."""
    found = wanted_rows([part for part in text.split(",") if part.strip()])
    for name, values in found.items():
        if len(values) > 1:
            raise typer.BadParameter(f"{name} is given twice, as {' and as '.join(values)}.")
    return {name: values[0] for name, values in found.items()}
