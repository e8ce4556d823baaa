# shellcheck shell=bash
# Sourced by tests/run.sh, examples/quickstart.sh and examples/corpus.sh: the one place with package names
# and the one way to configure.

# Arrays are for the scripts that source this file.
# shellcheck disable=SC2034
build_packages=(g++ cmake ninja-build libeigen3-dev libcli11-dev nlohmann-json3-dev libpcre2-dev)
# shellcheck disable=SC2034
test_packages=(doctest-dev doxygen libopenmpi-dev openmpi-bin)
# The second compiler, for tests/run.sh clang and tsan.
# shellcheck disable=SC2034
clang_packages=(clang-14)
# shellcheck disable=SC2034
corpus_packages=(bible-kjv)

# install_missing PACKAGE...   Installs those that are not there yet, as root or through sudo, asking nothing.
install_missing() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "Not a Debian system, nothing installed. Needed, by their Debian names: $*"
    return
  fi

  local package missing=()
  for package in "$@"; do
    if ! dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed; then
      missing+=("$package")
    fi
  done
  if ((${#missing[@]} == 0)); then return; fi

  local root=()
  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
      echo "Not root and no sudo. Please run as root: apt-get install ${missing[*]}" >&2
      return 1
    fi
    root=(sudo)
  fi

  echo "Installing ${missing[*]}"
  # Another apt may hold the lock for a while, and a question would hang a run without a terminal.
  local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get --quiet --quiet --yes
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  local install=("${apt[@]}" install --no-install-recommends "${missing[@]}")
  # A fresh machine has no package lists and an old one has stale lists: both show when the install fails.
  if ! "${install[@]}" </dev/null >/dev/null 2>&1; then
    "${apt[@]}" update </dev/null >/dev/null
    "${install[@]}" </dev/null >/dev/null
  fi
}

# configure PRESET [OPTION...]   A build folder keeps the generator that it was born with.
configure() {
  local preset=$1 generator=()
  if [[ ! -f build/$preset/CMakeCache.txt ]] && command -v ninja >/dev/null; then generator=(-G Ninja); fi
  cmake --preset "$preset" "${generator[@]}" "${@:2}"
}
