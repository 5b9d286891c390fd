#!/usr/bin/env bash
# What a machine with a GPU says of this project: its tests on the GPU, what schemes and models cost, and
# a short training with and without OCR. All of it ends in one page, summary.md.
#
#   bash tools/gpu_check.sh [--output DIR] [--wheels DIR] [--only "STEP ..."] [--iterations N] [--device D]
#
#   --output DIR      folder for summary.md, log.txt and the numbers as json: $OUT, else output/gpu_check
#   --wheels DIR      folder of wheels with Detectron2 and what else is missing, for a machine without a
#                     package index: $WHEELS; they are installed for this script alone
#   --only "STEP .."  some of doctor, tests, context, model-480, model-800, training,
#                     training-checkpointed and shapes; by default all
#   --iterations N    of each training on Shapes, by default 300
#   --device cpu      the same steps on the CPU, as small as they get: to see that this script works
#
# PYTHON names the Python, by default python3. Every step has a time limit, and one that fails does not keep
# the others from running. Exit status: 0 all done; 1 the steps in the last line failed; 2 bad input.
set -euo pipefail

die() {
    echo "error: $*" >&2
    exit 2
}

output=${OUT:-output/gpu_check} wheels=${WHEELS:-} only="" iterations=300 device=cuda
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"
            exit 0
            ;;
        --output | --wheels | --only | --iterations | --device)
            [ -n "${2:-}" ] || die "$1: no value, expected one"
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        *) die "$1: expected --output, --wheels, --only, --iterations or --device" ;;
    esac
done
case $device in cuda | cpu) ;; *) die "--device $device: expected cuda or cpu" ;; esac
[[ $iterations =~ ^[1-9][0-9]{0,5}$ ]] || die "--iterations $iterations: expected 1 to 999999"
steps="doctor tests context model-480 model-800 training training-checkpointed shapes"
for name in $only; do
    [[ " $steps " == *" $name "* ]] || die "--only $name: expected some of $steps"
done
only=${only:-$steps}
mkdir -p "$output" 2>/dev/null && [ -w "$output" ] || die "--output $output: cannot be written to"
output=$(cd "$output" && pwd)
if [ -n "$wheels" ]; then
    compgen -G "$wheels/*.whl" >/dev/null || die "--wheels $wheels: expected a folder of wheels"
    wheels=$(cd "$wheels" && pwd)
fi
python=${PYTHON:-python3}
"$python" -c "" 2>/dev/null || die "PYTHON: $python does not run, expected a Python"
[[ $python != */* ]] || python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# For data, checkpoints and installed wheels, which nobody needs afterwards.
work=$(mktemp -d)
child=""
finish() {
    [ -z "$child" ] || kill "$child" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if ! "$python" -c "import detectron2" 2>/dev/null; then
    [ -n "$wheels" ] || die "$python cannot import detectron2, expected it installed, or --wheels DIR"
    PIP_ROOT_USER_ACTION=ignore "$python" -m pip install -q --no-index --no-deps --no-compile \
        --target "$work/site" "$wheels"/*.whl \
        || die "--wheels $wheels: $python cannot install them, expected wheels for it"
    export PYTHONPATH=$work/site:$PYTHONPATH
    "$python" -c "import detectron2" || die "--wheels $wheels: expected a detectron2 that can be imported"
fi
if [ "$device" = cuda ]; then
    "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" \
        || die "torch finds no CUDA device, expected one, or --device cpu"
fi

for name in summary.md log.txt {context,model-480,model-800,training,training-checkpointed,shapes}.json; do
    rm -f "$output/$name"
done
log=$output/log.txt
rows="" failed="" sections=()

# The page as far as it is known: whatever ends this script, what was measured is there.
summarise() {
    {
        printf '# GPU check\n\n%s\n\n' "$about"
        printf '| step | result | seconds |\n|---|---|---|\n%s' "$rows"
        for section in "${sections[@]}"; do
            printf '\n## %s\n\n' "$section"
            case $section in
                doctor | tests) printf '```\n%s\n```\n' "$(tail -n 100 "$work/$section.out")" ;;
                *) cat "$work/$section.out" ;;
            esac
        done
    } >"$output/summary.md"
}

# step NAME SECONDS COMMAND...: run it, if its step is asked for. What it prints is a section of the page,
# but for a part of a step, NAME:PART.
step() {
    local name=$1 limit=$2 start=$SECONDS status=0 result=done
    shift 2
    [[ " $only " == *" ${name%%:*} "* ]] || return 0
    printf '\n== %s: %s\n' "$name" "$*" >>"$log"
    timeout --kill-after=15 "$limit" "$@" >"$work/$name.out" 2>"$work/$name.err" &
    child=$!
    wait "$child" || status=$?
    child=""
    cat "$work/$name.out" "$work/$name.err" >>"$log"
    case $status in
        0) ;;
        124 | 137) result="not done in $limit seconds" ;;
        *) result="failed with status $status" ;;
    esac
    if [ "$status" -ne 0 ]; then
        failed+=" $name"
        tail -n 15 "$work/$name.err" >&2
    fi
    echo "$name: $result, $((SECONDS - start)) s" | tee -a "$log"
    rows+="| $name | $result | $((SECONDS - start)) |"$'\n'
    [[ $name == *:* ]] || sections+=("$name")
    summarise
}

if [ "$device" = cuda ]; then
    tests=(tests/gpu)
    # Several at once, where pytest can.
    ! "$python" -c "import xdist" 2>/dev/null || tests+=(-n 4)
    context=(--size 2048,128,128 --num-regions 19 --dtype float32 bfloat16 --mode forward training --runs 5)
    small=480,640 large=800,1333 runs=15 against=(--against stock) fewer=()
    side=320 train=400 val=100 images=16 workers=8
else
    export OCR_PANOPTIC_TEST_DEVICE=cpu
    tests=(tests/gpu/test_attention.py -k regions)
    context=(--size 512,4,6 --names ocr isa --mode forward training --runs 1)
    small=64,96 large=64,128 runs=1 against=() iterations=2
    fewer=(MODEL.RPN.POST_NMS_TOPK_TEST 20 MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 8)
    fewer+=(MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64)
    side=96 train=4 val=2 images=2 workers=0
fi
configs=configs/COCO-PanopticSegmentation
cost=("$python" tools/benchmark.py model --config-file "$configs/panoptic_fpn_ocr_R_50_3x.yaml")
cost+=(--device "$device" --runs "$runs" "${against[@]}")

about=$("$python" - "$device" <<'PYTHON'
import platform
import sys

import detectron2
import numpy
import torch

if sys.argv[1] == "cuda":
    card = torch.cuda.get_device_properties(0)
    print(f"- GPU: {card.name}, {card.total_memory / 2**30:.0f} GiB")
    switches = {"convolutions": torch.backends.cudnn, "matrix products": torch.backends.cuda.matmul}
    used = (f"{what} in {'TF32' if s.allow_tf32 else 'float32'}" for what, s in switches.items())
    print(f"- float32: {', '.join(used)}")
else:
    print("- CPU: everything as small as it gets, its numbers say nothing")
print(f"- torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}, "
      f"numpy {numpy.__version__}, Detectron2 {detectron2.__version__}")
PYTHON
) || die "$python: torch, numpy or detectron2 cannot be imported"
echo "$about" | tee "$log"
summarise

step doctor 120 "$python" tools/doctor.py --no-self-test
step tests 300 "$python" -m pytest -q -rs -p no:cacheprovider "${tests[@]}"
step context 240 "$python" tools/benchmark.py context --device "$device" "${context[@]}" \
    --json "$output/context.json"
step model-480 90 "${cost[@]}" --size "$small" --json "$output/model-480.json" --opts "${fewer[@]}"
step model-800 90 "${cost[@]}" --size "$large" --json "$output/model-800.json" --opts "${fewer[@]}"
cost+=(--mode training --batch 2 --size "$large")
step training 90 "${cost[@]}" --json "$output/training.json" --opts "${fewer[@]}"
step training-checkpointed 90 "${cost[@]}" --json "$output/training-checkpointed.json" \
    --opts MODEL.SEM_SEG_HEAD.OCR.CHECKPOINT_ACTIVATIONS True "${fewer[@]}"

# Panoptic-FPN without and with OCR on Shapes, from random weights: so nothing may be frozen.
export DETECTRON2_DATASETS=$work/data
step shapes:data 90 "$python" datasets/prepare_shapes.py --output "$DETECTRON2_DATASETS/shapes_easy" \
    --train "$train" --val "$val" --size "$side" --seed 0
overrides=(
    MODEL.DEVICE "$device" MODEL.WEIGHTS "" MODEL.BACKBONE.FREEZE_AT 0
    MODEL.RESNETS.NORM SyncBN MODEL.FPN.NORM SyncBN
    MODEL.ROI_HEADS.NUM_CLASSES 6 MODEL.SEM_SEG_HEAD.NUM_CLASSES 7
    # Of 640x480 pixels 4096; the same share of these.
    MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT $((side * side / 75))
    DATASETS.TRAIN "('shapes_easy_train_panoptic_separated',)"
    DATASETS.TEST "('shapes_easy_val_panoptic_separated',)"
    DATALOADER.NUM_WORKERS "$workers"
    INPUT.MIN_SIZE_TRAIN "($side,)" INPUT.MAX_SIZE_TRAIN "$side"
    INPUT.MIN_SIZE_TEST "$side" INPUT.MAX_SIZE_TEST "$side"
    SOLVER.IMS_PER_BATCH "$images" SOLVER.BASE_LR 0.03 SOLVER.WARMUP_ITERS 50
    SOLVER.CLIP_GRADIENTS.ENABLED True SOLVER.CLIP_GRADIENTS.CLIP_TYPE norm
    SOLVER.CLIP_GRADIENTS.CLIP_VALUE 5.0
    SOLVER.MAX_ITER "$iterations" SOLVER.STEPS "($((iterations * 3 / 4)),)"
    SOLVER.CHECKPOINT_PERIOD 1000000 SEED 1
)
for name in panoptic_fpn_R_50 panoptic_fpn_ocr_R_50; do
    step "shapes:$name" 150 "$python" tools/train_net.py --config-file "$configs/${name}_3x.yaml" \
        OUTPUT_DIR "$work/runs/$name" "${overrides[@]}" "${fewer[@]}"
done
step shapes 60 "$python" -c '
import json, sys
from pathlib import Path
from ocr_panoptic.benchmark.training_runs import format_runs, read_run

folder, path, data = sys.argv[1:]
runs = [read_run(found) for found in sorted(Path(folder).iterdir())]
Path(path).write_text(json.dumps(runs, indent=2) + "\n")
print(f"{data}, from random weights, float32, seed 1\n\n{format_runs(runs)}")
' "$work/runs" "$output/shapes.json" \
    "Shapes of $side x $side pixels, $train to train and $val to evaluate on, $images images a batch"

if [ -n "$failed" ]; then
    echo "failed:$failed; see $log" >&2
    exit 1
fi
echo "$output/summary.md"
