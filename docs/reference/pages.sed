# What doxygen is given of a page: headings without backquotes, which it prints as tags; links to headers as links to
# their pages; of links to other files the text alone.
/^#/s/`//g
s#\]\(\.\./include/([^)]*)\)#](@ref \1)#g
s#\[([^]]*)\]\(\.\./[^)]*\)#\1#g
