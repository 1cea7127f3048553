"""Write docs/reference/cli.md from the commands themselves: `python docs/reference/make_cli.py`.

The test of the command line compares the two, so a command or an option that comes, goes or changes its words changes
this page in the same commit.
"""

import inspect
from pathlib import Path
from typing import Any

from typer.main import get_command

from hf_bootstrap.cli.main import app

PAGE = Path(__file__).with_name("cli.md")
_HEAD = """\
# Command line

Made from the commands by `docs/reference/make_cli.py`; `hf-bootstrap COMMAND --help` says the same.

Counts and quantities may be written `6.5e9`, `3B` or `128k`; suffixes are powers of 1000. Where a command takes
`--json`, standard output holds that JSON and nothing else; progress and warnings go to standard error. Progress bars
show on a terminal only, and nowhere with `--quiet`.

| exit code | means |
| --- | --- |
| 0 | done |
| 1 | failed; the message says what happened, why, and what to do next |
| 2 | the command line is wrong: no such command or option, or a value of another kind |
| 3 | it does not fit: disk, memory, or the `--memory` of a rank |
| 130 | stopped by Ctrl-C; the same command goes on where it was |
| 143 | stopped by SIGTERM, as schedulers send it; likewise |

`HF_BOOTSTRAP_TRACEBACK=1` shows where an unforeseen error came from. `hf-bootstrap --install-completion` teaches your
shell to complete commands and options (bash, zsh, fish, PowerShell).

## As an extension of `hf`

`hf extensions install` takes repositories named `hf-<name>` that hold an executable of that name. To reach every
command as `hf bootstrap ...`, make a repository `you/hf-bootstrap` with one executable file `hf-bootstrap`:

```sh
#!/bin/sh
exec python -m hf_bootstrap.cli "$@"
```

and run `hf extensions install you/hf-bootstrap` in the environment where this library is installed.
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for name, command in _walk("hf-bootstrap", get_command(app)):
        about = inspect.cleandoc(command.help or "")
        parts.append(f"\n## {name}\n\n{about}\n\n{_options(command)}")
        if command.epilog:
            parts.append(f"\n```bash\n{command.epilog.partition('Example: ')[2]}\n```\n")
    return "".join(parts)


def _walk(name: str, command: Any) -> list[tuple[str, Any]]:
    children = getattr(command, "commands", {})
    here = [] if children else [(name, command)]
    return here + [found for child in children for found in _walk(f"{name} {child}", children[child])]


def _options(command: Any) -> str:
    rows = ["| | | default |", "| --- | --- | --- |"]
    for parameter in command.params:
        if parameter.name in ("help", "install_completion", "show_completion"):
            continue
        is_option = parameter.param_type_name == "option"
        names = (
            [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.metavar or parameter.name.upper()]
        )
        spelled = ", ".join(f"`{name}`" for name in names)
        default = parameter.default
        shown = "" if default in (None, False, "") or callable(default) or not is_option else f"`{default}`"
        need = "**needed**" if parameter.required else shown
        rows.append(f"| {spelled} | {parameter.help or ''} | {need} |".replace("|  |", "| |"))
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
