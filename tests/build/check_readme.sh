#!/usr/bin/env bash
# What README.md and docs/ say about files is true:
#   a code block below "<!-- file: PATH -->" is that file, one below "<!-- from: PATH -->" is a part of it;
#   every `path` below a top folder and every relative link leads to something that exists.
# Usage: check_readme.sh REPOSITORY
set -euo pipefail
cd "$1"

status=0
complain() {
  echo "$*"
  status=1
}

blocks=0
for page in README.md docs/*.md docs/walkthrough/*.md; do
  kind='' path='' inside=0 number=0
  while IFS= read -r line; do
    number=$((number + 1))
    if ((inside)); then
      if [[ $line != '```' ]]; then
        block+=$line$'\n'
        continue
      fi
      inside=0
      blocks=$((blocks + 1))
      code=$(cat "$path" && echo .)  # the dot keeps the newlines at the end
      code=${code%.}
      if [[ $kind == file && $code != "$block" ]]; then complain "$page:$number: the block is not $path"; fi
      if [[ $kind == from && $code != *"$block"* ]]; then complain "$page:$number: the block is not in $path"; fi
      kind=''
    elif [[ $line =~ ^'<!-- '(file|from)': '([^ ]+)' -->'$ ]]; then
      kind=${BASH_REMATCH[1]} path=${BASH_REMATCH[2]} block=''
    elif [[ $kind != '' && $line == '```'* ]]; then
      inside=1
    fi
  done <"$page"
  if [[ $kind != '' ]]; then complain "$page: no whole code block follows the comment about $path"; fi

  while IFS= read -r name; do
    if [[ ! -e $name ]]; then complain "$page: there is no $name"; fi
  done < <(grep -oE '`(include|tests|examples|docs)/[A-Za-z0-9_./-]+`' "$page" | tr -d '`')
  while IFS= read -r link; do
    if [[ ! -e $(dirname "$page")/$link ]]; then complain "$page: the link to $link leads nowhere"; fi
  done < <(grep -oE '\]\([^)#: ]+\)' "$page" | sed 's/^](//; s/)$//')
done

if ((blocks == 0)); then complain "no quoted code was found: the comments have changed their form"; fi
exit "$status"
