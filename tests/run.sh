#!/usr/bin/env bash
# Installs what is missing (apt), configures, builds and runs all tests.
# Usage: tests/run.sh [PRESET [TESTS]]   PRESET: release (default), asan, debug, clang or tsan; the last two install
# clang-14   TESTS: an expression; those whose names match it are run
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=examples/install.sh
source examples/install.sh

preset=${1:-release} tests=${2:-.}
packages=("${build_packages[@]}" "${test_packages[@]}")
if [[ $preset == clang || $preset == tsan ]]; then packages+=("${clang_packages[@]}"); fi
install_missing "${packages[@]}"

build_start=$SECONDS
configure "$preset" -DMTPX_BUILD_TESTS=ON -DMTPX_WERROR=ON
cmake --build "build/$preset" --parallel "$(nproc)"
build_end=$SECONDS

# Where nvcc is, the GPU's kernels and their tests are compiled, too; where no GPU is, ctest skips what needs one.
cuda=
if [[ $preset == release ]] && command -v nvcc >/dev/null; then
  cuda_start=$SECONDS
  configure cuda -DMTPX_BUILD_TESTS=ON -DMTPX_BUILD_EXAMPLES=OFF -DMTPX_BUILD_BENCH=OFF -DMTPX_WERROR=ON
  cmake --build build/cuda --parallel "$(nproc)" --target mtpx_cuda_tests
  ctest --preset cuda --parallel "$(nproc)" --tests-regex '^cuda/' </dev/null
  cuda="; CUDA: built and run in $((SECONDS - cuda_start)) s"
fi
run_start=$SECONDS

# The summary is printed again at the very end, after the times and after ctest's list of skipped tests.
log=build/$preset/ctest.log
status=0
ctest --preset "$preset" --parallel "$(nproc)" --tests-regex "$tests" </dev/null | tee "$log" || status=$?

echo
echo "$preset: built in $((build_end - build_start)) s, tests ran in $((SECONDS - run_start)) s$cuda"
cat "build/$preset/tests/build/same_bits/report.txt" 2>/dev/null || true
grep -E '^[0-9]+% tests passed' "$log" || echo "no test ran"
exit "$status"
