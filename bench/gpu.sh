#!/usr/bin/env bash
# Everything that needs a GPU, in one command and under 8 minutes on an H200:
#
#     bench/gpu.sh [RESULTS.json]
#
# Every kernel compiled for this device on all cores (its static figures are printed, and what runs afterwards finds the machine
# code in Triton's cache), the tests of tests/kernels/gpu, the benchmarks on the device, the roofline, and compute-sanitizer's
# memcheck where it is installed.
# Needs Python with torch, triton, numpy, scipy, h5py, numba, pytest and pytest-benchmark; the project need not be installed.
# Every step has a time limit; a step that fails does not stop the others. Exit code 0: all passed; 1: a step failed; 3: no GPU.
# PYTHON names the interpreter (default: python3). Results are appended to RESULTS.json (default:
# bench/results/<date>-<device>.json), logs are kept beside it in a folder of the same name.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
PYTHON=${PYTHON:-python3}
# Fields that were computed are kept here.
export CHORUS_CACHE=${CHORUS_CACHE:-${TMPDIR:-/tmp}/chorus-cache}
began=$SECONDS

device=$("$PYTHON" - <<'PYTHON'
import sys
try:
    import torch
except ImportError as problem:
    sys.exit(f"bench/gpu.sh: {problem}; name a Python that has it: PYTHON=... bench/gpu.sh")
if not torch.cuda.is_available():
    print(f"bench/gpu.sh: torch {torch.__version__} sees no GPU; nothing was run", file=sys.stderr)
    sys.exit(3)
try:
    from bench.harness.report import slug
    from chorus.kernels.gpu.ahead_of_time import TARGETS
except ImportError as problem:
    sys.exit(f"bench/gpu.sh: {problem}; name a Python that has it: PYTHON=... bench/gpu.sh")
name = torch.cuda.get_device_properties(0).gcnArchName.partition(":")[0] if torch.version.hip else ""
name = name or "sm_{}{}".format(*torch.cuda.get_device_capability(0))
print(slug(torch.cuda.get_device_name(0)), name if name in TARGETS else "-")
PYTHON
)
status=$?
[ $status -eq 0 ] || exit $status
target=${device##* } device=${device% *}

results=${1:-bench/results/$(date +%F)-$device.json}
logs=${results%.json}-logs
mkdir -p "$(dirname "$results")" "$logs"
"$PYTHON" - <<'PYTHON'
import sys
from bench.harness.report import devices, package_versions
print("device", devices())
print("versions", package_versions(), "Python", sys.version.split()[0])
PYTHON

failed=()
summary=()
step() { # step NAME SECONDS COMMAND...
  local name=$1 limit=$2 start=$SECONDS code
  shift 2
  echo
  echo "== $name (at most $limit s)"
  timeout --signal=INT --kill-after=10 "$limit" "$@" 2>&1 | tee "$logs/$name.log"
  code=${PIPESTATUS[0]}
  local line="$name: $([ "$code" -eq 0 ] && echo passed || echo "FAILED ($code)"), $((SECONDS - start)) s"
  case $code in 124 | 137) line+=" (out of time)" ;; esac
  summary+=("$line")
  [ "$code" -eq 0 ] || failed+=("$name")
}

bench=("$PYTHON" -m bench --gpu -o "$results")
if [ "$target" = - ]; then
  summary+=("compile: not run, no figures are kept for this kind of device")
else
  step compile 45 "$PYTHON" -m bench.static --target "$target" --processes "$(nproc)"
fi
step tests 110 "$PYTHON" -m pytest tests/kernels/gpu -q -p no:cacheprovider --durations=8
step votes 90 "${bench[@]}" --only votes --resolution 48 96 128 --deadline 72
step others 70 "${bench[@]}" --only pipeline --only contacts --only posed --only ablations --deadline 54
step votes-192 35 "${bench[@]}" --only votes --resolution 192 --deadline 24
step votes-256 60 "${bench[@]}" --only votes --resolution 256 --deadline 40 # most of it until the field is in bricks
step roofline 45 "$PYTHON" -m bench.roofline -o "$results"
left=$((470 - (SECONDS - began)))
if ! command -v compute-sanitizer >/dev/null; then
  summary+=("memcheck: not run, compute-sanitizer is not installed")
elif [ $left -lt 20 ]; then
  summary+=("memcheck: not run, no time is left")
else
  # Few and small worlds, and no caching allocator, so that every tensor's edge is an edge of what may be read.
  step memcheck $((left > 60 ? 60 : left)) env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
    compute-sanitizer --tool memcheck --error-exitcode 9 \
    "$PYTHON" -m pytest -q -p no:cacheprovider \
    "tests/kernels/gpu/test_votes.py::test_random_worlds_meet_the_contract["{0,1,2}"]" \
    "tests/kernels/gpu/test_rest.py::test_contacts_lie_within_the_bounds[1]" \
    tests/kernels/gpu/test_rest.py::test_weights_around_a_posed_mesh_are_the_cpu_twins
fi

echo
echo "== summary, $((SECONDS - began)) s in all"
printf '%s\n' "${summary[@]}"
echo "results: $results; logs: $logs"
[ ${#failed[@]} -eq 0 ]
