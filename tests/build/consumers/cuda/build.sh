#!/usr/bin/env bash
# No build system and no library: nvcc with one include folder compiles a .cu file that uses everything.
# Usage: build.sh NVCC MTPX_SOURCE OUT_FOLDER
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$3"
"$1" -std=c++20 --expt-relaxed-constexpr -DMTPX_CUDA -gencode arch=compute_90,code=sm_90 -I "$2/include" \
  "$here/main.cu" -lcublasLt -o "$3/consumer"
"$3/consumer"
