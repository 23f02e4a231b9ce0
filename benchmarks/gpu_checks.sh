#!/usr/bin/env bash
# Check and measure a CUDA GPU in less than 8 minutes: bash benchmarks/gpu_checks.sh [--cpu] [FOLDER]
#
# Each part has a time limit and writes FOLDER/PART.txt (default: output/gpu_checks). The last lines of each are printed.
# With --cpu, all parts run on the CPU with tiny sizes, which shows only that they work.
set -u
cd "$(dirname "$0")/.."

device=cuda
if [ "${1:-}" = --cpu ]; then
  device=cpu
  shift
fi
out=${1:-output/gpu_checks}
mkdir -p "$out"
out=$(cd "$out" && pwd)

export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" DETLITE_GPU_TESTS_DEVICE=$device
export PYTHON=${PYTHON:-python3}
failed=

# part LIMIT NAME LINES COMMANDS: run commands for at most LIMIT seconds, and print the last LINES of their output.
# The first command that fails ends the part.
part() {
  local limit=$1 name=$2 lines=$3 commands=$4 begin=$SECONDS status
  timeout -k 5 "$limit" bash -eo pipefail -c "$commands" >"$out/$name.txt" 2>&1
  status=$?
  [ "$status" = 0 ] || failed="$failed $name"
  echo "=== $name: status $status, $((SECONDS - begin)) s of $limit"
  tail -n "$lines" "$out/$name.txt"
}

# The sizes. Those of the CPU are tiny.
wide="MODEL.DEVICE $device MODEL.ROI_HEADS.CLASS_INIT_STD 0.1 MODEL.ROI_HEADS.POOLER.NAME RoIAlign"
wide="$wide MODEL.ROI_HEADS.POOLER.ALIGNED False MODEL.RPN.MIN_SIZE 1e-3"
speed="$PYTHON benchmarks/speed.py --variants torchvision detlite 'detlite bf16'"
train="$PYTHON tools/train_net.py --config-file configs/quickstart.yaml MODEL.DEVICE $device"
if [ "$device" = cuda ]; then
  sizes="--sizes 600x1000 --rounds 10"
  training_batches="2 16" inference_batches="1 16" tf32_batches="2"
  loader="--seconds 2"
  train_opts="" equal_opts="SOLVER.MAX_ITER 30"
else
  sizes="--sizes 64x96 --rounds 1"
  wide="$wide MODEL.BACKBONE.DEPTH 11 MODEL.BACKBONE.WIDTH 0.0625 MODEL.RPN.HEAD.CONV_DIM 32"
  wide="$wide MODEL.ROI_HEADS.BOX_HEAD.FC_DIM 16"
  training_batches="1" inference_batches="1" tf32_batches="1"
  loader="--workers 1 --batches 2 --images 8 --seconds 0.2"
  train_opts="SOLVER.MAX_ITER 4 SOLVER.BATCH_SIZE 2 SOLVER.LR_SCHEDULER.WARMUP_ITERS 1 DATASETS.TEST.NUM_IMAGES 4"
  train_opts="$train_opts MODEL.BACKBONE.WIDTH 0.0625"
  equal_opts="$train_opts"
fi

part 20 versions 6 "
$PYTHON -c 'import sys, torch, torchvision; print(sys.version.split()[0], torch.__version__, torchvision.__version__)'
if [ $device = cuda ]; then nvidia-smi -L; fi"

# A warning of torch about CUDA is printed and fails no test.
part 85 tests 15 "$PYTHON -m pytest -q -W default -p no:cacheprovider tests/gpu"

part 25 operators 8 "$PYTHON benchmarks/count_ops.py"

part 45 loader 10 "$PYTHON benchmarks/loader_speed.py --device $device $loader"

# torch allows TF32 in convolutions. The last command allows it in matrix products as well.
part 125 speed 90 "
$speed $sizes --modes training --batches $training_batches --json '$out/training.json' $wide
$speed $sizes --modes inference --batches $inference_batches --json '$out/inference.json' $wide
echo 'TF32 everywhere'
export TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1
$speed $sizes --modes training --batches $tf32_batches --json '$out/tf32.json' $wide"

part 90 quickstart 12 "time $train OUTPUT_DIR '$out/quickstart' $train_opts"

# The same weights on both devices.
part 40 ap 3 "
for name in $device cpu; do
  $PYTHON tools/test_net.py --weights '$out/quickstart/model_final.pth' MODEL.DEVICE \$name OUTPUT_DIR '$out/test-'\$name
done
$PYTHON - '$out/test-$device' '$out/test-cpu' <<'END'
import json, pathlib, sys
on_device, on_cpu = (json.loads(pathlib.Path(folder, 'evaluation.json').read_text())['bbox'] for folder in sys.argv[1:])
print('AP on the device', on_device['AP'], 'on the CPU', on_cpu['AP'], 'difference', on_device['AP'] - on_cpu['AP'])
END"

# Kernels that add in a changing order make two equal runs differ.
part 50 equal_runs 3 "
for run in first second; do
  $train OUTPUT_DIR '$out/'\$run EVALUATION.PICTURES 0 $equal_opts
done
$PYTHON - '$out/first' '$out/second' <<'END'
import sys, torch
first, second = (torch.load(f'{folder}/model_final.pth', map_location='cpu', weights_only=True)['model'] for folder in sys.argv[1:])
unequal = [name for name in first if not torch.equal(first[name], second[name])]
largest = max((float((first[name].double() - second[name].double()).abs().max()) for name in unequal), default=0.0)
print(f'two equal runs: {len(unequal)} of {len(first)} tensors differ, by {largest:.2g} at most')
END"

echo "=== logs in $out, $SECONDS s in all; failed parts:${failed:- none}"
[ -z "$failed" ]
