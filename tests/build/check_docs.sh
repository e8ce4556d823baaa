#!/usr/bin/env bash
# Every public name has a docstring, doxygen finds nothing wrong in any or in a page, and what a row of docs/where.md names
# beside a header stands in that header. A public name stands in namespace mtpx outside
# of detail, in a header that the reference shows: functions, types, concepts, variables, and what classes have that is not
# private. Told by their class: constructors, assignments, ==, and members(), which include/mtpx/nn/module.hpp explains.
# Told by their enumeration: enumerators.
# Ends with 77, which CTest shows as "Skipped", where doxygen is not installed.
# Usage: check_docs.sh REPOSITORY OUT_FOLDER DOXYFILE      DOXYFILE: as docs/reference/CMakeLists.txt makes it
set -euo pipefail
cd "$1"
out=$2 doxyfile=$3

if ! command -v doxygen >/dev/null; then
  echo "skipped: doxygen is not installed (Debian: apt-get install doxygen)"
  exit 77
fi

# names FOLDER [SETTING...]   Leaves doxygen's warnings in FOLDER/warnings and a line for every public name in FOLDER/names:
# whether it has a docstring, the name, where it stands.
names() {
  local folder=$1
  rm -rf "$folder/xml" && mkdir -p "$folder"
  # All that there is, not only what has a docstring.
  { cat "$doxyfile" && printf '%s\n' GENERATE_HTML=NO GENERATE_XML=YES XML_PROGRAMLISTING=NO SOURCE_BROWSER=NO \
    EXTRACT_ALL=YES "OUTPUT_DIRECTORY=$folder" "${@:2}"; } | doxygen - 2>"$folder/warnings" >/dev/null
  find "$folder/xml" -regex '.*/\(class\|struct\|union\|concept\|namespace\)[^/]*' -exec awk -v OFS='\t' '
    function text(line) { gsub(/^ *<[^>]*>|<\/[a-z]*>$/, "", line); return line }
    function attribute(key) {
      return match($0, " " key "=\"[^\"]*\"") ? substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 4) : ""
    }
    function place() { return attribute("file") ":" attribute("line") }
    function told_by_class(name) { return name ~ /^(members|operator=|operator==)$/ || name ~ /^~/ || name == class }
    /^  <compounddef / { skip = attribute("prot") == "private"; kind = attribute("kind"); said = 0 }
    /^    <compoundname>/ {
      whole = class = text($0)
      sub(/&lt;.*/, "", class); sub(/ +$/, "", class); sub(/.*::/, "", class)
      if (whole !~ /^mtpx/) skip = 1
    }
    # A class is described after its members.
    /^    <(brief|detailed)description>/ { getline; if ($0 !~ /<\/(brief|detailed)description>/) said = 1 }
    /^    <location / && !skip { print said ? "documented" : "undocumented", whole, place() }
    /^      <memberdef / { member_kind = attribute("kind"); member_said = 0; inner = attribute("prot") == "private" }
    /^        <name>/ { member = text($0) }
    /^        <(brief|detailed)description>/ { getline; if ($0 !~ /<\/(brief|detailed)description>/) member_said = 1 }
    /^        <location / && !skip && !inner && member_kind != "friend" && !told_by_class(member) {
      print member_said ? "documented" : "undocumented", whole "::" member, place()
    }
  ' {} + >"$folder/names"
}

# Known names first: a rule that finds nothing would please everybody.
mkdir -p "$out/sample/include/mtpx/ops"
cat >"$out/sample/include/mtpx/ops/sample.hpp" <<'END'
#pragma once

namespace mtpx {

int missing_function();
struct MissingStruct {};
enum class MissingEnum { a };
using MissingAlias = int;
inline constexpr int missing_variable = 1;
template <typename T>
concept MissingConcept = true;
/// There.
struct There {
  There(int);
  There& operator=(const There&);
  static void members(auto& self, auto&& visit);
  int missing_member = 0, missing_too = 0;
  int there = 0, also = 0;  ///< there
  int missing_method();
  explicit operator bool() const;
  using missing_type = int;

 protected:
  int missing_protected = 0;

 private:
  struct Hidden {};
  int hidden = 0;
};
namespace detail {
int hidden_function();
}

}  // namespace mtpx
END
names "$out/sample" "INPUT=$out/sample/include"
found=$(awk -F'\t' '$1 == "undocumented" { sub(/.*::/, "", $2); print $2 }' "$out/sample/names" | LC_ALL=C sort | tr '\n' ',')
expected=MissingAlias,MissingConcept,MissingEnum,MissingStruct,missing_function,missing_member,missing_method,
expected+='missing_protected,missing_too,missing_type,missing_variable,mtpx,operator bool,'
if [[ $found != "$expected" ]]; then
  printf 'of names that are known to have no docstring these were found:\n%s\ninstead of\n%s\n' "$found" "$expected"
  exit 1
fi

names "$out/all"
missing=$(awk -F'\t' '$1 == "undocumented" { print $3 ": " $2 " has no docstring" }' "$out/all/names")
echo "$(wc -l <"$out/all/names") public names, $(grep -c . <<<"$missing" || true) of them without a docstring"
if [[ -n $missing || -s $out/all/warnings ]]; then
  printf '%s\n' "$missing"
  cat "$out/all/warnings"
  exit 1
fi

awk -F'\t' '
  FNR == NR {
    name = $2
    sub(/.*::/, "", name)
    sub(/:[0-9]*$/, "", $3)
    stands[name, $3] = stands[$2, $3] = 1
    next
  }
  /^\|.*\(\.\.\/include\// {
    headers = 0
    for (rest = $0; match(rest, /\.\.\/include\/[^)]*/); rest = substr(rest, RSTART + RLENGTH))
      header[++headers] = substr(rest, RSTART + 11, RLENGTH - 11)
    for (rest = $0; match(rest, /`[A-Za-z_:]+`/); rest = substr(rest, RSTART + RLENGTH)) {
      name = substr(rest, RSTART + 1, RLENGTH - 2)
      found = 0
      for (i = 1; i <= headers; ++i) found += ((name, header[i]) in stands) + (("mtpx::" name, header[i]) in stands)
      if (!found) { print FILENAME ":" FNR ": " name " does not stand in the headers of its row"; broken = 1 }
      ++names
    }
  }
  END { exit broken || !names }
' "$out/all/names" docs/where.md
