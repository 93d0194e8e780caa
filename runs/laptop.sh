#!/usr/bin/env bash
# From nothing to a compared student on a laptop: teach, train, compare. Embedded profile, nano, two cores, no GPU.
#
#   runs/laptop.sh [short|long] [FOLDER]     short: about an hour; long: an evening. Interrupted, the same line goes on.
#
# $SEED: of the data and of chance in training (1). Ears (understand) share nothing with words and voice, so each learns on a core of
# its own. Words come first on paper alone, which is cheap. The voice comes once more at the end: what is answered in empathise is
# far less varied than what it learnt before.
set -euo pipefail
cd "$(dirname "$0")/.."
size=${1:-short} out=${2:-runs/laptop-${1:-short}} seed=${SEED:-1} flavour=nano
case $size in
  tiny)  # nothing is learnt in it: it shows that every step leaves what the next one needs
    data=(--turns 24 --listen 12 --speak 6 --unclear 6 --write 12) flavour=runs/tiny.toml items=trial
    codec=20 understand=12 write=6 speak=12 empathise=4 refine=2 more=4 compared=(--paced 1 --rounds 1 --scored 0 --system cascade) ;;
  short)
    data=(--turns 700 --listen 2000 --speak 1200 --unclear 150 --write 8000) items=tiny
    codec=400 understand=600 write=500 speak=300 empathise=90 refine=6 more=60 compared=(--paced 8 --system cascade --system cascade:cues=hidden) ;;
  long)
    data=(--turns 3600 --listen 8000 --speak 2400 --unclear 500 --write 20000) items=small
    codec=1600 understand=4000 write=4000 speak=3500 empathise=900 refine=20 more=900
    compared=(--paced 12 --system cascade --system cascade:cues=hidden --system cascade:cues=oracle) ;;
  *) echo "runs/laptop.sh: $size: give tiny, short or long" >&2; exit 2 ;;
esac
[ -x .venv/bin/attune ] && PATH=$PWD/.venv/bin:$PATH
command -v attune >/dev/null || { echo "runs/laptop.sh: attune is not installed; try: pip install -e '.[train]'" >&2; exit 2; }
voice=()  # Flite's voice is the clearer one; the student then carries it to where Flite is not installed
command -v flite >/dev/null && voice=(--engine tts=flite)
export OMP_NUM_THREADS=1  # each step has a core, or several processes
log=$out/steps.jsonl
step() { python runs/step.py "$log" "$@"; }
again() { [ -e "$1" ] && echo --resume || true; }

step teach attune teach -o "$out/data" --profile embedded --seed "$seed" "${data[@]}" ${voice[@]+"${voice[@]}"} $(again "$out/data/settings.json")

train=(attune train --data "$out/data" --seed "$seed")
new=("${train[@]}" --flavour "$flavour")
step understand "${new[@]}" -o "$out/ears" --stages understand --steps understand=$understand $(again "$out/ears") &
ears=$!
trap 'kill $ears 2>/dev/null' EXIT  # it ends with this script, and goes on with it
step codec "${new[@]}" -o "$out/codec" --stages codec --steps codec=$codec $(again "$out/codec")
step write "${new[@]}" -o "$out/words" --codec "$out/codec" --stages speak --freeze talker --freeze vector \
  --steps speak=$write $(again "$out/words")
step speak "${train[@]}" -o "$out/voice" --from "$out/words" --stages speak --steps speak=$speak $(again "$out/voice")
wait $ears
trap - EXIT
step empathise "${train[@]}" -o "$out/answers" --from "$out/voice" --ears "$out/ears" \
  --stages empathise,refine --steps empathise=$empathise --steps refine=$refine $(again "$out/answers")
step speak-again "${train[@]}" -o "$out/nano" --from "$out/answers" --stages speak --freeze thinker --steps speak=$more $(again "$out/nano")

step compare attune compare -o "$out/compared" --items $items --profile embedded "${compared[@]}" --system "$out/nano/student" \
  $(again "$out/compared")

python runs/step.py "$log" --table
echo "Talk to it: attune chat --model $out/nano/student"
echo "Look at it: $out/compared/comparison.html"
