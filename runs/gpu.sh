#!/usr/bin/env bash
# From nothing to a compared student on machines with GPUs: the gpu profile teaches, `base` or `full` learns, both are compared.
#
#   runs/gpu.sh [base|full] [FOLDER]         Interrupted, the same line goes on. DRY_RUN=1: checks and shows every line.
#
# Models first (attune doctor --models prints each one's download line); $ENCODER, $THINKER, $MIMI, $EMOTION2VEC: their folders.
# $GPUS: processes that train (all that torch sees). $RAY: a cluster that teaches (local), with $CLUSTER, the engines' shares.
set -euo pipefail
cd "$(dirname "$0")/.."
flavour=${1:-base} out=${2:-runs/gpu-${1:-base}}
data=${DATA:-$out/data}  # one that is there, to try the rest
case $flavour in
  base) turns=50000 memory=() more=() ;;
  full) turns=200000 memory=(--gradient-checkpointing) more=(--emotion-encoder "${EMOTION2VEC:-emotion2vec}") ;;
  *) echo "runs/gpu.sh: $flavour: give base or full" >&2; exit 2 ;;
esac
[ -x .venv/bin/attune ] && PATH=$PWD/.venv/bin:$PATH
gpus=${GPUS:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}
log=$out/steps.jsonl
step() { python runs/step.py "$log" "$@"; }
again() { [ -e "$1" ] && echo --resume || true; }

step teach attune teach -o "$data" --profile gpu --seed 1 --turns $turns --listen $((2 * turns)) --speak $((turns / 2)) \
  --unclear $((turns / 20)) --write $((4 * turns)) --ray "${RAY:-local}" --cluster "${CLUSTER:-runs/gpu-cluster.toml}" $(again "$data/settings.json")

parts=(${ENCODER:+--encoder "$ENCODER"} ${THINKER:+--thinker "$THINKER"} ${MIMI:+--codec "$MIMI"} ${more[@]+"${more[@]}"})
step train accelerate launch --num_processes "$gpus" $([ "$gpus" -gt 1 ] && echo --multi_gpu) -m cli train --data "$data" \
  --flavour $flavour --seed 0 -o "$out/$flavour" --stages understand,speak,empathise,refine --capacity 16384 ${parts[@]+"${parts[@]}"} \
  ${memory[@]+"${memory[@]}"} $(again "$out/$flavour")

step compare attune compare -o "$out/compared" --items full --profile gpu --system cascade --system cascade:cues=hidden \
  --system cascade:cues=oracle --system student --system "$out/$flavour/student:name=$flavour" $(again "$out/compared")

python runs/step.py "$log" --table
echo "Talk to it: attune chat --model $out/$flavour/student"
echo "Look at it: $out/compared/comparison.html"
