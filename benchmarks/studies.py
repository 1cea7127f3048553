"""What planning a study costs: CPU seconds for 10,000 runs."""

import os
import sys
import time
from dataclasses import replace

from hf_bootstrap.demo import demo_study
from hf_bootstrap.study.conduct import planned_runs
from hf_bootstrap.study.plan import make_plan

__all__ = ["main"]


def main() -> None:
    """Print a table."""
    config = replace(demo_study(), seeds=tuple(range(143)))
    wall, cpu = time.perf_counter(), time.process_time()
    specs, _ = planned_runs(config, None)
    plan = make_plan(config, specs)
    told = f"{time.process_time() - cpu:.1f} CPU s, {time.perf_counter() - wall:.1f} s wall"
    print(f"plan of {plan.runs:,} runs: {told}; torch loaded: {'torch' in sys.modules}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
