#!/bin/sh
# Tokens a second and MFU on this machine's GPU, in under nine minutes: sh benchmarks/gpu.sh [results.md]
# Without a GPU it runs a tiny size, to see that it works.
set -eu
cd "$(dirname "$0")/.."
python benchmarks/gpu.py --out "${1:-gpu-results.md}"
