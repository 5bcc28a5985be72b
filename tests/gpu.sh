#!/usr/bin/env bash
# Checks and measures vqtk on one GPU, in under six minutes: bash tests/gpu.sh [OUT]
# OUT gets a log and the numbers as JSON; by default they are printed alone. Run it with the environment of the project
# active, or set PYTHON.
set -u
cd "$(dirname "$0")/.."
out=${1:-$(mktemp -d)}
mkdir -p "$out"
${PYTHON:-python} -m tests.gpu --out "$out" 2>&1 | tee "$out/gpu.log"
exit "${PIPESTATUS[0]}"
