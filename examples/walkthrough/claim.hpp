#pragma once
// A walkthrough says what holds, shows that it does, and fails as a test if it does not.

#include <iostream>
#include <string>

inline bool all_hold = true;

inline void claim(const std::string& what, bool holds) {
  std::cout << (holds ? "  holds: " : "  FAILS: ") << what << '\n';
  all_hold = all_hold && holds;
}
