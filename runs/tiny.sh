#!/usr/bin/env bash
# runs/laptop.sh with a student too small to learn anything, in about two minutes: does every step leave what the next one needs,
# and do losses fall?
#
#   runs/tiny.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/tiny}
runs/laptop.sh tiny "$out"
python runs/check_run.py "$out"
