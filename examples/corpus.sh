#!/usr/bin/env bash
# Makes 4 MB of public-domain English text from the Debian package bible-kjv: the King James Version,
# one file a book, so that every book is a document of its own.
# Usage: examples/corpus.sh FOLDER      then: mtpx train --data FOLDER ...
set -euo pipefail
if (($# != 1)); then
  echo "usage: examples/corpus.sh FOLDER" >&2
  exit 2
fi
# shellcheck source=examples/install.sh
source "$(dirname "$0")/install.sh"

install_missing "${corpus_packages[@]}" || true
if ! command -v bible >/dev/null; then
  echo "The program 'bible' is missing (Debian package: ${corpus_packages[*]}); mtpx train --data takes any text." >&2
  exit 1
fi

mkdir -p "$1"
# With -f every verse is one line, "Ge1:1 In the beginning ...". The place is dropped, the text kept.
bible -f 'gen1:1-rev22:21' | awk -v folder="$1" '
  {
    book = $1
    sub(/[0-9]+:[0-9]+$/, "", book)
    if (book != last) {
      if (last != "") close(file)
      file = sprintf("%s/%02d_%s.txt", folder, ++books, book)
      last = book
      printf "" > file
    }
    sub(/^[^ ]+ /, "")
    print > file
  }
'
echo "$(find "$1" -name '*.txt' | wc -l) books, $(du -sh "$1" | cut -f1) in $1"
