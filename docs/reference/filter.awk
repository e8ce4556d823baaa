# What doxygen is given of a header: this project's docstrings in doxygen's words. Lines stay where they are, so that
# the reference tells the sources' own line numbers.
#
#   an indented block           stands as it is, as code
#   "x: [B, T]   returns [B]"   a line each
#   "Eq. 3", "sec. 2"           no end of a sentence, and so none of the short description
#   "int a, b;  ///< both"      b is told it, too
#   a comment at a file's top   the file's description
#   a folder                    a group, see groups.dox
#   a macro                     nothing: those of the library are not for its users

function starts_line(text) {
  return text ~ /^(returns |Saves for backward:|Throws )/ || text ~ /^[a-z_]+(, [a-z_]+)*: /
}
# Text for doxygen, which would take < for a tag and a sentence's first word for a class of that name. What stands
# between backquotes is code already.
function prose(text, pieces, n, i, piece, out) {
  n = split(text, pieces, "`")
  for (i = 1; i <= n; ++i) {
    piece = pieces[i]
    if (i % 2) {
      gsub(/&/, "\\&amp;", piece)
      gsub(/</, "\\&lt;", piece)
      while (match(piece, /(^|[ (])(sec|eq|Eq|fig|al)\. /))
        piece = substr(piece, 1, RSTART + RLENGTH - 2) "\\ " substr(piece, RSTART + RLENGTH)
      while (match(piece, /\. [A-Z]/)) piece = substr(piece, 1, RSTART + 1) "%" substr(piece, RSTART + 2)
      if (ended && i == 1 && piece ~ /^[A-Z]/) piece = "%" piece
      sub(/ \.\.$/, " \\&hellip;", piece)
      gsub(/ %?Saves for backward: /, " <br>Saves for backward: ", piece)
      while (match(piece, /   +/)) piece = substr(piece, 1, RSTART - 1) " <br>" substr(piece, RSTART + RLENGTH)
    }
    out = out (i > 1 ? "`" : "") piece
  }
  ended = text ~ /[.:]$/ || text == ""
  return out
}

BEGIN { type = "^ *(inline |static |constexpr |const )*[A-Za-z_:]+(<[^;()]*>)?[*&]? " }

FNR == 1 {
  group = FILENAME
  if (!sub(/.*\/include\/mtpx\//, "", group)) sub(/.*\/kernels\//, "kernels/", group)
  if (!sub(/\/.*/, "", group)) group = "mtpx"
  in_text = in_macro = opening = 0
  heading = ended = 1
  shared = ""
  print "/// @file"
  next
}

# Macros are not names of the library.
/^#define / || in_macro { in_macro = /\\$/; print ""; next }

# The top of the file.
heading && /^\/\/( |$)/ { print "/" $0; next }
heading && $0 != "" { heading = 0 }

group != "mtpx" && $0 == "namespace mtpx {" { print $0 " /** @addtogroup " group; opening = 1; next }
opening { print "@{ */" $0; opening = 0; next }
group != "mtpx" && $0 == "}  // namespace mtpx" { print "/** @} */" $0; next }

# A docstring.
match($0, /^ *\/\/\/( |$)/) {
  text = substr($0, RLENGTH + 1)
  lead = substr($0, 1, RLENGTH)
  if (text ~ /^  /) {
    print lead (in_text ? prose(text) : "    " text)
  } else {
    print lead (in_text && starts_line(text) ? "<br>" : "") prose(text)
    in_text = text != ""
    shared = shared " " text
  }
  next
}
{
  in_text = 0
  ended = 1
}

# A declaration of several members, with its docstring above or behind.
match($0, type "[a-z_0-9]+( = [^,;(){}]+)?(, [a-z_0-9]+( = [^,;(){}]+)?)+;") {
  declaration = substr($0, 1, RLENGTH)
  text = substr($0, RLENGTH + 1)
  above = !sub(/^ *\/\/\/< /, "", text)
  if (!above) shared = text
  if (shared != "") {
    match(declaration, type)
    names = substr(declaration, RLENGTH + 1)
    declaration = substr(declaration, 1, RLENGTH)
    sub(/;$/, "", names)
    n = split(names, each, ", ")
    for (i = 1; i <= n; ++i) printf "%s%s;%s", declaration, each[i], i == 1 && above ? "" : " /**< " prose(shared) " */"
    print ""
    shared = ""
    next
  }
}
{ shared = "" }

match($0, /\/\/\/< /) {
  print substr($0, 1, RSTART + RLENGTH - 1) prose(substr($0, RSTART + RLENGTH))
  next
}
{ print }
