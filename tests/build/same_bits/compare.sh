#!/usr/bin/env bash
# Runs the builds of train.cpp that this processor can run and compares what they write, byte by byte. The last line
# of the report says what ran; tests/run.sh prints it.
# Usage: compare.sh FOLDER COMPILER/INSTRUCTION_SET=PROGRAM...     FOLDER: for the files written and the report
set -euo pipefail
folder=$1
mkdir -p "$folder"
rm -f "$folder/report.txt"

flags=" $(grep -m1 '^flags' /proc/cpuinfo 2>/dev/null || true) "
v3='avx avx2 bmi1 bmi2 f16c fma abm movbe'
v4="$v3 avx512f avx512bw avx512cd avx512dq avx512vl"
# What this processor lacks for an instruction set: nothing, or the first such flag.
lacks() {
  local needed='' flag
  case $1 in
    x86-64-v3 | software) needed=$v3 ;;  # without fused multiply-add there is nothing that software must equal
    x86-64-v4) needed=$v4 ;;
  esac
  for flag in $needed; do
    if [[ $flags != *" $flag "* ]]; then
      echo "$flag"
      return
    fi
  done
}

first='' status=0 ran=0
declare -A state
sets=() compilers=()
for build in "${@:2}"; do
  name=${build%%=*} program=${build#*=}
  compiler=${name%%/*} set=${name#*/}
  if [[ " ${sets[*]} " != *" $set "* ]]; then sets+=("$set"); fi
  if [[ " ${compilers[*]} " != *" $compiler "* ]]; then compilers+=("$compiler"); fi
  lacking=$(lacks "$set")
  if [[ $lacking != '' ]]; then
    echo "$name: compiled, not run: this processor has no $lacking"
    state[$set]=${state[$set]:-compiled}
    continue
  fi
  file=$folder/${name//\//_}.bin
  rm -f "$file"
  if ! "$program" "$file"; then
    echo "$name: the program failed"
    state[$set]=FAILED status=1
    continue
  fi
  ran=$((ran + 1))
  if [[ $first == '' ]]; then first=$file; fi
  if cmp "$first" "$file"; then
    echo "$name: ran, $(stat -c %s "$file") bytes, $(sha256sum "$file" | cut -c 1-16)"
    if [[ ${state[$set]:-} != FAILED ]]; then state[$set]=ok; fi
  else
    echo "$name: trains other weights than $(basename "$first" .bin)"
    state[$set]=FAILED status=1
  fi
done
if ((ran < 2)); then
  echo "there is nothing to compare"
  status=1
fi

line=
for set in "${sets[@]}"; do line+="${line:+, }$set ${state[$set]}"; done
printf -v names '%s, ' "${compilers[@]}"
echo "instruction sets: $line; ${names%, }" | tee "$folder/report.txt"
exit "$status"
