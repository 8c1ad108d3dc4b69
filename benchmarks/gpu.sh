#!/usr/bin/env bash
# Everything that wants a GPU, in one call: the speed of steps and operations, then the published CIFAR-10 recipes.
#
#   benchmarks/gpu.sh DATA OUT MINUTES
#
# DATA holds cifar-10-batches-py, or cifar10/{train,test}/<class>/*.jpg. OUT gets speed.json, recipes.json and the runs.
# After MINUTES it stops where it is, and called again with the same OUT it goes on. Copy the two files to
# benchmarks/results and run benchmarks/readme.py.
# To try it on a CPU, in minutes: SPEED="--networks resnet18 --batch 2 --steps 1 --rounds 1" \
#   RECIPES="--recipes simclr_lightly_cifar10 --epochs 1 -- --model.backbone convnet --knn.every_n_epochs 1
#   --trainer.limit_train_batches 2" benchmarks/gpu.sh DATA OUT 20
set -euo pipefail
cd "$(dirname "$0")/.."
data=$1 out=$2 minutes=$3
mkdir -p "$out"
timeout --signal KILL "${minutes}m" python benchmarks/speed.py --only steps operations wait --output "$out/speed.json" ${SPEED:-} \
  > "$out/speed.log" 2>&1 || [ $? -eq 137 ] || { tail "$out/speed.log"; exit 1; }
left=$((minutes - SECONDS / 60))
[ "$left" -le 0 ] || python benchmarks/recipes.py --data "$data" --runs "$out/runs" --output "$out/recipes.json" \
  --minutes "$left" ${RECIPES:---compile}
