#!/bin/sh
# Tokens a second and MFU on this machine's GPU, in under nine minutes: sh benchmarks/gpu.sh [results.md]
# Without a GPU it runs a tiny size, to see that it works.
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"  # so that it need not be installed
"${PYTHON:-python3}" benchmarks/gpu.py --out "${1:-gpu-results.md}"
