// The main function of mtpx_tests. `mtpx_tests --help` lists the filters; `-tc=NAME` runs one test case.

#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
