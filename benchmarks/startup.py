"""How long it takes to look in: importing the package, the face of the laws, and asking for help.

Prints a table for docs/benchmarks.md. Each figure is of a new process; reading the interpreter's own start
beside it says how much is ours.
"""

import statistics
import subprocess
import sys
import time

REPEATS = 10
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import hf_bootstrap": ["-c", "import hf_bootstrap"],
    "from hf_bootstrap import ScalingLaw": ["-c", "from hf_bootstrap import ScalingLaw"],
    "hf-bootstrap --help": ["-m", "hf_bootstrap.cli.main", "--help"],
    "hf-bootstrap fit --help": ["-m", "hf_bootstrap.cli.main", "fit", "--help"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one new Python process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    """Run each command once to warm the disk cache, then `REPEATS` times in turn."""
    for arguments in COMMANDS.values():
        seconds(arguments)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    bare = statistics.median(times["python -c pass"])
    print("| command | median | fastest | above a bare interpreter |")
    print("|---|---|---|---|")
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"| `{name}` | {median * 1e3:.0f} ms | {min(taken) * 1e3:.0f} ms | {(median - bare) * 1e3:.0f} ms |")


if __name__ == "__main__":
    main()
