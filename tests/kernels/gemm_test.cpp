#include <mtpx/core/rng.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/kernels/cpu.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

using namespace mtpx;
using cpu::Matrix;
using cpu::multiply;
using cpu::multiply_here;
using cpu::Product;

namespace {

/// Which operand lies transposed in memory. NN: dx = dy W, NT: y = x W^T, TN: dW = dy^T x.
enum class Operands { nn, nt, tn, tt };
constexpr Operands layouts[] = {Operands::nn, Operands::nt, Operands::tn, Operands::tt};

std::uint32_t random(Index stream, Index at) {
  return Philox::block(1, static_cast<std::uint64_t>(stream), static_cast<std::uint64_t>(at))[0];
}
/// -2, -1, 0, 1 or 2: sums of up to 60 products of them are exact in every type, bf16 included.
double small_integer(Index stream, Index at) { return static_cast<double>(random(stream, at) % 5) - 2; }
double real(Index stream, Index at) { return static_cast<double>(random(stream, at)) / 2147483648.0 - 1; }

/// A matrix somewhere in memory: rows further apart than they are long, NaN in the gaps and at both ends, so
/// that a kernel that reads too much is found out.
template <typename T>
struct Stored {
  Index rows, columns, stride;
  bool transposed;
  std::vector<T> memory;

  template <typename Value>
  Stored(Index rows_, Index columns_, bool transposed_, Index gap, const Value& value)
      : rows(rows_),
        columns(columns_),
        stride((transposed_ ? rows_ : columns_) + gap),
        transposed(transposed_),
        memory(static_cast<std::size_t>((transposed_ ? columns_ : rows_) * stride + 2), guard()) {
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < columns; ++j) *at(i, j) = T(value(i * columns + j));
    }
  }

  static T guard() { return T(std::numeric_limits<float>::quiet_NaN()); }
  T* data() { return memory.data() + 1; }
  const T* data() const { return memory.data() + 1; }
  T* at(Index i, Index j) { return data() + (transposed ? j * stride + i : i * stride + j); }
  double get(Index i, Index j) const { return static_cast<double>(*const_cast<Stored*>(this)->at(i, j)); }
  Matrix<T> matrix() const {
    return transposed ? cpu::transposed(data(), stride) : cpu::row_major(data(), stride);
  }
  /// How many of the numbers that are no element are still the guard.
  bool guards_intact() const {
    Index intact = 0;
    for (T value : memory) intact += std::isnan(static_cast<double>(value));
    return intact == static_cast<Index>(memory.size()) - rows * columns;
  }
};

template <typename A, typename B, typename C>
struct Case {
  Stored<A> a;
  Stored<B> b;
  Stored<C> c;
  Index m, n, k;
  bool accumulate;

  template <typename Value>
  Case(Index m_, Index n_, Index k_, Operands layout, bool accumulate_, Index gap, const Value& value)
      : a(m_, k_, layout == Operands::tn || layout == Operands::tt, gap,
          [&](Index i) { return value(0, i); }),
        b(k_, n_, layout == Operands::nt || layout == Operands::tt, gap,
          [&](Index i) { return value(1, i); }),
        c(m_, n_, false, gap, [&](Index i) { return value(2, i); }),
        m(m_),
        n(n_),
        k(k_),
        accumulate(accumulate_) {}

  Product<A, B, C> product() { return {m, n, k, a.matrix(), b.matrix(), c.data(), c.stride, accumulate}; }

  /// The loop that the kernel replaces.
  std::vector<double> naive() const {
    std::vector<double> result;
    for (Index i = 0; i < m; ++i) {
      for (Index j = 0; j < n; ++j) {
        double total = accumulate ? c.get(i, j) : 0;
        for (Index kk = 0; kk < k; ++kk) total += a.get(i, kk) * b.get(kk, j);
        result.push_back(total);
      }
    }
    return result;
  }
  std::vector<double> result() const {
    std::vector<double> values;
    for (Index i = 0; i < m; ++i) {
      for (Index j = 0; j < n; ++j) values.push_back(c.get(i, j));
    }
    return values;
  }
};

template <typename A_, typename B_, typename C_>
struct Types {
  using A = A_;
  using B = B_;
  using C = C_;
};

/// Whether cpu::fma rounds once in this build (it depends on the processor and on the optimisation level).
template <typename T>
bool fused() {
  volatile T x = 1 + std::numeric_limits<T>::epsilon();
  volatile T y = 1 - std::numeric_limits<T>::epsilon();
  volatile T z = -1;
  return cpu::fma(cpu::broadcast<T>(x), cpu::broadcast<T>(y), cpu::broadcast<T>(z))[0] != 0;
}

}  // namespace

// Small integers have exact products and sums, in whatever order: any difference is a wrong element.
TEST_CASE_TEMPLATE("multiply: small integers give the exact product, at all sizes to 40", Case_,
                   Types<float, float, float>, Types<double, double, double>, Types<bf16, bf16, bf16>,
                   Types<bf16, bf16, float>, Types<bf16, float, float>, Types<float, bf16, float>,
                   Types<float, float, bf16>) {
  using A = typename Case_::A;
  using B = typename Case_::B;
  using C = typename Case_::C;
  const Cpu cpu(1);
  int cases = 0;
  for (Index m = 1; m <= 40; ++m) {
    for (Index n = 1; n <= 40; ++n) {
      const auto dice = static_cast<Index>(random(m, n));
      const Index k = 1 + dice % 40;
      const Operands layout = layouts[dice / 40 % 4];
      const bool accumulate = dice / 160 % 2 == 1;
      const Index gap = dice / 320 % 2 * 5;
      Case<A, B, C> it(m, n, k, layout, accumulate, gap, small_integer);
      const std::vector<double> expected = it.naive();
      if (dice / 640 % 2 == 0) {
        multiply(cpu, it.product());
      } else {
        multiply_here(it.product());
      }
      const bool equal = it.result() == expected;
      const bool intact = it.a.guards_intact() && it.b.guards_intact() && it.c.guards_intact();
      ++cases;
      if (equal && intact) continue;
      FAIL_CHECK("m ", m, ", n ", n, ", k ", k, ", layout ", static_cast<int>(layout), ", accumulate ",
                 accumulate, ", gap ", gap, equal ? ": a guard was overwritten" : ": wrong product");
    }
  }
  CHECK(cases == 1600);
}

TEST_CASE_TEMPLATE("multiply: larger than every tile", T, float, double, bf16) {
  for (Operands layout : layouts) {
    for (int threads : {1, 2}) {
      CAPTURE(static_cast<int>(layout));
      Case<T, T, T> it(151, 83, 60, layout, true, 3, small_integer);
      const std::vector<double> expected = it.naive();
      multiply(Cpu(threads), it.product());
      CHECK(it.result() == expected);
      CHECK(it.c.guards_intact());
    }
  }
}

TEST_CASE_TEMPLATE("multiply: an inner size of 0 is an empty sum", T, float, double, bf16) {
  for (Operands layout : layouts) {
    for (bool here : {false, true}) {
      const auto run = [&](Case<T, T, T> it) {
        if (here) {
          multiply_here(it.product());
        } else {
          multiply(Cpu(1), it.product());
        }
        CHECK(it.c.guards_intact());
        return it.result();
      };
      const Case<T, T, T> before(15, 37, 0, layout, true, 2, small_integer);
      CHECK(run(Case<T, T, T>(15, 37, 0, layout, false, 2, small_integer)) ==
            std::vector<double>(15 * 37, 0.0));
      CHECK(run(before) == before.result());
    }
  }
}

TEST_CASE("multiply: without rows or columns nothing is touched") {
  const Cpu cpu(2);
  for (Operands layout : layouts) {
    for (bool rows : {false, true}) {
      Case<float, float, float> it(rows ? 5 : 0, rows ? 0 : 5, 7, layout, false, 3, small_integer);
      multiply(cpu, it.product());
      multiply_here(it.product());
      CHECK(it.c.guards_intact());
    }
  }
  multiply(cpu, Product<float, float, float>{});
  multiply(cpu, std::span<const Product<float, float, float>>());
  CHECK(cpu.pool().bytes_in_use() == 0);
}

TEST_CASE_TEMPLATE("multiply: every element is one running sum by fused multiply-add", T, float, double) {
  if (!fused<T>()) return;  // the same order, but each product is rounded: nothing to compare with portably
  for (Operands layout : layouts) {
    for (bool accumulate : {false, true}) {
      Case<T, T, T> it(29, 41, 173, layout, accumulate, 1, real);
      const Case<T, T, T> before = it;
      multiply(Cpu(1), it.product());
      Index different = 0;
      for (Index i = 0; i < it.m; ++i) {
        for (Index j = 0; j < it.n; ++j) {
          T total = accumulate ? static_cast<T>(before.c.get(i, j)) : T(0);
          for (Index kk = 0; kk < it.k; ++kk) {
            total = std::fma(static_cast<T>(it.a.get(i, kk)), static_cast<T>(it.b.get(kk, j)), total);
          }
          different += static_cast<T>(it.c.get(i, j)) != total;
        }
      }
      CHECK(different == 0);
    }
  }
}

TEST_CASE("multiply: bf16 is summed in float and rounded once") {
  Case<bf16, bf16, bf16> half(9, 21, 300, Operands::nt, false, 1, real);
  Case<bf16, bf16, float> full(9, 21, 300, Operands::nt, false, 1, real);
  multiply(Cpu(1), half.product());
  multiply(Cpu(1), full.product());
  Index different = 0;
  for (Index i = 0; i < 9; ++i) {
    for (Index j = 0; j < 21; ++j) {
      different += half.c.at(i, j)->bits != bf16(*full.c.at(i, j)).bits;
    }
  }
  CHECK(different == 0);
}

// What makes greedy speculative decoding equal to plain decoding, to the byte.
TEST_CASE_TEMPLATE("multiply: a row has the same bits alone, among a few, and among many", T, float, double,
                   bf16) {
  const Cpu cpu(1);
  for (Operands layout : {Operands::nn, Operands::nt}) {
    Case<T, T, T> all(101, 71, 131, layout, false, 1, real);
    multiply(cpu, all.product());
    const std::vector<double> expected = all.result();
    for (Index count : {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 16, 31, 64, 65}) {
      Case<T, T, T> few = all;
      std::fill(few.c.memory.begin(), few.c.memory.end(), few.c.guard());
      for (Index first = 0; first < few.m; first += count) {
        Product<T, T, T> part = few.product();
        part.m = std::min(count, few.m - first);
        part.a.data = part.a.at(first, 0);
        part.c += first * part.stride;
        multiply(cpu, part);
      }
      CAPTURE(count);
      CHECK(few.result() == expected);
    }
  }
}

TEST_CASE_TEMPLATE("multiply: the same bits at 1, 2 and 3 threads and on the calling thread", T, float,
                   double, bf16) {
  for (Operands layout : layouts) {
    for (Index m : {1, 3, 200}) {
      const Case<T, T, T> fresh(m, 150, 97, layout, true, 1, real);
      Case<T, T, T> one = fresh;
      multiply_here(one.product());
      for (int threads : {1, 2, 3}) {
        Case<T, T, T> many = fresh;
        multiply(Cpu(threads), many.product());
        CAPTURE(threads);
        CHECK(many.result() == one.result());
      }
    }
  }
}

TEST_CASE_TEMPLATE("multiply: many products at once, some of them empty", T, float, double, bf16) {
  for (int threads : {1, 2, 3}) {
    for (Operands layout : layouts) {
      std::vector<Case<T, T, T>> cases;
      const Index sizes[][3] = {{0, 9, 4}, {3, 70, 11}, {130, 17, 23}, {5, 0, 8},
                                {6, 6, 0}, {1, 1, 1},   {0, 0, 0},     {64, 33, 40}};
      for (const auto& [m, n, k] : sizes) cases.emplace_back(m, n, k, layout, m % 2 == 1, 2, small_integer);
      std::vector<std::vector<double>> expected;
      std::vector<Product<T, T, T>> products;
      for (auto& it : cases) {
        expected.push_back(it.naive());
        products.push_back(it.product());
      }
      multiply(Cpu(threads), std::span<const Product<T, T, T>>(products));
      for (std::size_t i = 0; i < cases.size(); ++i) {
        CAPTURE(i);
        CHECK(cases[i].result() == expected[i]);
        CHECK(cases[i].c.guards_intact());
      }
    }
  }
}

TEST_CASE("multiply: a warm loop allocates nothing") {
  const Cpu cpu(2);
  Case<float, float, float> it(70, 50, 33, Operands::nt, false, 0, real);
  multiply(cpu, it.product());
  const std::size_t warm = cpu.pool().allocations();
  for (int i = 0; i < 5; ++i) multiply(cpu, it.product());
  CHECK(cpu.pool().allocations() == warm);
  CHECK(cpu.pool().bytes_in_use() == 0);
}

TEST_CASE("multiply: NaN and infinity reach their own row and column only") {
  Case<float, float, float> it(20, 20, 20, Operands::nt, false, 1, small_integer);
  const std::vector<double> clean = it.naive();
  *it.a.at(3, 7) = std::numeric_limits<float>::quiet_NaN();
  multiply(Cpu(1), it.product());
  for (Index i = 0; i < 20; ++i) {
    for (Index j = 0; j < 20; ++j) {
      CHECK(std::isnan(it.c.get(i, j)) == (i == 3));
      if (i != 3) CHECK(it.c.get(i, j) == clean[static_cast<std::size_t>(i * 20 + j)]);
    }
  }
}
