# Real runs of the recipes on a GPU machine that is lent for minutes, one bash function each. On that machine, in the root of the repository:
#   DIR=data_root; OUT=folder; PY=python; . tools/real_runs.sh; run_mnist_lenet
# DIR: mnist_png/, cifar10/ and catsdogs/ as the archives unpack (pets is found as catsdogs/images).
# Runs lie in $RUNS (default /tmp/runs) and stay there while the machine is warm: THE SAME FUNCTION CALLED AGAIN GOES ON where the limit
# has cut it off. Back in $OUT come NAME.tar (unpack it in results/) if the run is whole, else NAME-partial.tar.xz (the records of all
# finished trials; no masks, no weights); always NAME.log.gz. Seconds are added up over calls in $RUNS/NAME.seconds.
# LIMIT: seconds since the shell began after which training stops (500: with gathering and packing the call ends within 600).
# N, K: trials that share a GPU, networks in a stack. DET=--deterministic: bytes that repeat on a GPU (needed only to go on from a partial pack).
: "${PY:=.venv/bin/python}" "${RUNS:=/tmp/runs}" "${LIMIT:=500}" "${DET:=}"
export PYTHONUNBUFFERED=1 RAY_AUTH_MODE=disabled
# GPUs that the commands see: those of CUDA_VISIBLE_DEVICES, if it is set
_gpus() { if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then tr , '\n' <<< "$CUDA_VISIBLE_DEVICES" | wc -l; else nvidia-smi -L 2>/dev/null | grep -c GPU; fi; }
_at_least_one() { local n; n=$(_gpus); echo $((n > 1 ? n : 1)); }
_seconds() { cat "$RUNS/$1.seconds" 2>/dev/null || echo 0; }

# _train NAME RECIPE FLAGS...: in the storage $RUNS/NAME, the run is named RECIPE; returns 0 if the run is whole, 3 if the limit stopped it
_train() {
  local name=$1 code began=$SECONDS; shift
  mkdir -p "$RUNS/$name" "$OUT"
  $PY -m sweeps.lth_grid "$@" --storage "$RUNS/$name" --data-root "$DIR" $DET \
    --max-hours "$($PY -c "print(max(20, $LIMIT - $SECONDS)/3600)")" > "$OUT/$name.log" 2>&1; code=$?
  grep -v ' trials, .* running, ' "$OUT/$name.log" | tail -40
  grep ' trials, .* running, ' "$OUT/$name.log" | tail -1
  echo $(($(_seconds "$name") + SECONDS - began)) > "$RUNS/$name.seconds"
  echo "== $name: exit code $code, $(_seconds "$name") s so far"
  return "$code"
}
OTHER_PICTURES="the images are not those of Oxford-IIIT Pet but 7,390 other photographs of cats and dogs, of the same size, class balance and rule of names"
ONE_CLASS="supermasks are tested with BatchNorm's statistics of epoch 0, so most of them answer one class for all images (docs/supermasks.md says more)"
JPEG_COPIES="the images are JPEG copies of CIFAR-10"
_note() { case $1 in pets_tutorial) echo "$OTHER_PICTURES";; cifar10_supermask) echo "$JPEG_COPIES";; esac; }
# _keep NAME RECIPE CODE: what comes back
_keep() {
  local name=$1 run=$RUNS/$1/$2 code=$3 gpus note=(); gpus=$(_gpus)
  [ -z "$(_note "$2")" ] || note=(--note "$(_note "$2")")
  if [ "$code" = 0 ]; then
    [ "$gpus" = 0 ] || gpus="--gpus $gpus"
    $PY -m analysis results "$run" --seconds "$(_seconds "$name")" ${gpus#0} "${note[@]}" --out "$RUNS/$name/results" &&
      tar cf "$OUT/$name.tar" -C "$RUNS/$name/results" "$2"
  fi
  if [ "$code" != 0 ] || [ ! -f "$OUT/$name.tar" ]; then
    $PY -m analysis pack "$run" --tickets none --out "$OUT/$name-partial.tar.xz"
  fi
  gzip -f "$OUT/$name.log"; ls -l "$OUT"
}
_masks() { $PY -m analysis supermasks "$RUNS/$1/$1" --data-root "$DIR" > /dev/null && $PY -m analysis "$RUNS/$1/$1" > /dev/null; }

# 610 trials, 33,550 epochs trained; 1,155 epochs one after another (21 levels x 55). 30 trials are ready at once (10 seeds x ticket, reinit,
# random_sparse). Two workers on one H200 trained no faster than one with all of them (docs/log.md), so each GPU has one.
run_mnist_lenet() {
  local code=0
  _train mnist_lenet mnist_lenet --replicas "${K:-$((30 / $(_at_least_one)))}" --trials-per-gpu "${N:-1}" || code=$?
  _keep mnist_lenet mnist_lenet $code
}
# 255 trials, 14,025 epochs; 330 one after another. All networks have one shape; after the 5 dense ones 50 are ready at once.
run_mnist_supermask() {
  local code=0
  _train mnist_supermask mnist_supermask --replicas "${K:-$((50 / $(_at_least_one)))}" --trials-per-gpu "${N:-1}" || code=$?
  [ $code != 0 ] || _masks mnist_supermask || code=$?
  _keep mnist_supermask mnist_supermask $code
}
# 45 trials, 1,515 epochs; 120 one after another (Conv-6). Networks with convolutions are packed, not stacked; 15 are ready at once.
run_cifar10_supermask() {
  local code=0
  _train cifar10_supermask cifar10_supermask --trials-per-gpu "${N:-8}" || code=$?
  [ $code != 0 ] || _masks cifar10_supermask || code=$?
  _keep cifar10_supermask cifar10_supermask $code
}
# run_pets FROM TO: seeds FROM to TO, both included, in pieces of CHUNK seeds one after the other, each a paired whole. 119 trials and 610 epochs a
# seed (6 seeds with 12 trials a GPU: 352 s on one H200, 195 s on two; with 8 a GPU 76 GPU-seconds a seed). A seed takes 13.7 GB of states, so CHUNK
# follows the free space at $RUNS; the states of a piece are deleted when it is whole. (A larger or faster place, as root:
# mkdir -p /tmp/ram; mount -t tmpfs -o size=110g tmpfs /tmp/ram; RUNS=/tmp/ram)
# The same call again goes on: pieces that are whole are skipped (their tar came back with the call that made them).
run_pets() {
  local from=$1 to=$2 chunk=${CHUNK:-} last name code
  mkdir -p "$RUNS"
  : "${chunk:=$(df -BG --output=avail "$RUNS" | tail -1 | $PY -c "print(max(1, min(6, (int(input().strip(' G')) - 8) // 14)))")}"
  for ((; from <= to; from = last + 1)); do
    last=$((from + chunk - 1 < to ? from + chunk - 1 : to)) code=0
    name=pets_$from-$last
    [ ! -f "$RUNS/$name.whole" ] || continue
    [ $((LIMIT - SECONDS)) -gt 60 ] || { echo "== $name: not begun, call run_pets again"; wait; return 3; }
    _train "$name" pets_tutorial --seed $(seq "$from" "$last") --trials-per-gpu "${N:-12}" || code=$?
    [ $code = 0 ] || { _keep "$name" pets_tutorial $code; wait; return $code; }
    _keep_piece "$name" & # while the next piece trains
  done
  wait
}
_keep_piece() {
  _keep "$1" pets_tutorial 0
  [ ! -f "$OUT/$1.tar" ] || { touch "$RUNS/$1.whole"; rm -rf "${RUNS:?}/$1"; }
}
# _seeds_so_far RUN: a note, if the run has fewer seeds than its recipe
_seeds_so_far() {
  $PY - "$1" <<'END'
import sys
from analysis.tables.run_plan import find_run, read_plan
from sweeps.experiments.recipes import RECIPES
plan = read_plan(*find_run(sys.argv[1]))
here, wanted = len({trial.spec["seed"] for trial in plan.trials}), len(RECIPES[plan.recipe]().seeds)
print(f"{here} of the recipe's {wanted} seeds so far" if here < wanted else "")
END
}
# merge_pets PIECE.tar ...: at home, without a GPU: results/pets_tutorial of two or more pieces that came back whole, of which one may be what
# was kept before (tar cf before.tar -C results pets_tutorial).
merge_pets() {
  local work piece seconds=0 notes=("$OTHER_PICTURES" "$ONE_CLASS") so_far folder folders=(); work=$(mktemp -d) # seconds: of one GPU
  for piece in "$@"; do
    folder=$work/pieces/$(basename "$piece" .tar)
    mkdir -p "$folder" "$work/kept"; folders+=("$folder/pets_tutorial")
    tar xf "$piece" -C "$work/kept" && tar xJf "$work/kept/pets_tutorial/pets_tutorial.tar.xz" -C "$folder" || return
    seconds=$($PY -c "import json; it = json.load(open('$work/kept/pets_tutorial/machine.json')); print($seconds + it['seconds'] * it['gpus'])")
  done
  $PY -m analysis merge "${folders[@]}" --into "$work/runs/pets_tutorial" > "$work/merged" || { cat "$work/merged"; return 1; }
  so_far=$(_seeds_so_far "$work/runs/pets_tutorial") || return
  [ -z "$so_far" ] || notes+=("$so_far")
  $PY -m analysis results "$work/runs/pets_tutorial" --seconds "$seconds" --gpus 1 --note "${notes[@]}" && rm -rf "$work"
}
