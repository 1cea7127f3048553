"""Order many runs, carry them out on this machine, and report; `run_one` is handed in."""
