#include <mtpx/mtpx.hpp>

#include <iostream>

int main() {
  const mtpx::Shape shape{2, 3, 4};
  std::cout << shape.str() << " holds " << shape.size() << " numbers\n";
  return shape.size() == 24 ? 0 : 1;
}
