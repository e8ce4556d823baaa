#pragma once

#include <type_traits>
#include <utility>

namespace mtpx::detail {

/// Whether a caller's function wants more: what it returns or, where it returns nothing, yes.
template <typename Function, typename... Args>
bool goes_on(const Function& function, Args&&... args) {
  if constexpr (std::is_void_v<std::invoke_result_t<const Function&, Args...>>) {
    function(std::forward<Args>(args)...);
    return true;
  } else {
    return static_cast<bool>(function(std::forward<Args>(args)...));
  }
}

}  // namespace mtpx::detail
