#!/usr/bin/env bash
# The consumers compile one program with one set of flags, each finding the headers its own way. What the preprocessor makes of
# it must be the same text for all, and then so is the object: the first to need it compiles it, the others take it from
# CACHE. What does not compile one file to an object runs as it is.
# Usage: share.sh CACHE COMPILER ARGUMENT...      as a compiler launcher
set -euo pipefail
cache=$1
shift
command=("$@") compiler=$1
shift

flags=() preprocess=() output='' compiles=
while (($#)); do
  case $1 in
    -c) compiles=1 ;;
    -o) output=$2 && shift ;;
    -I | -isystem) preprocess+=("$1" "$2") && shift ;;
    -I*) preprocess+=("$1") ;;
    -MT | -MF) shift ;;
    -MD | -pthread) ;;
    *.cpp) preprocess+=("$1") ;;
    *) flags+=("$1") ;;
  esac
  shift
done
if [[ -z $compiles || -z $output ]]; then exec "${command[@]}"; fi

# Lines that say where the text is from go, but for whether its warnings count: those of system headers do not.
mkdir -p "$cache"
text=$("$compiler" "${flags[@]}" "${preprocess[@]}" -E)
system=$(grep -cE '^# [0-9]+ "[^"]*mtpx/[^"]*".* 3( |$)' <<<"$text" || true)
key=$({
  "$compiler" --version
  printf '%s\n' "${flags[@]}" | LC_ALL=C sort
  echo "$((system > 0))"
  grep -v '^#' <<<"$text"
} | sha256sum)
object=$cache/${key%% *}.o

exec 9>"$object.lock"
flock 9
if [[ ! -f $object ]]; then
  "${command[@]}"
  cp "$output" "$object.new" && mv "$object.new" "$object"
fi
cp "$object" "$output"
