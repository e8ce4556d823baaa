#pragma once
// Dense matrix products: in bf16 by cuBLASLt, with sums in float; in float and double in the host's order.
//
// The same product on the same addresses takes the same algorithm, hence the same bits, in every run. In bf16
// a row's bits may depend on how many rows stand beside it; where they must not, see few_rows.cuh.

#include <cublasLt.h>

#include <map>
#include <tuple>

#include "ordered.cuh"

namespace mtpx::cuda {

inline void cublas_check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(cat("[product] ", what, ": ", cublasLtGetStatusString(status)));
}

/// The library's handle, and which algorithm it chose for each kind of product: asking takes longer than most
/// products do.
class Products {
 public:
  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20;
  static constexpr std::size_t most_plans = 8192;  // every length of a prompt has some of its own

  Products() { cublas_check(cublasLtCreate(&handle_), "cublasLtCreate"); }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;
  ~Products() { (void)cublasLtDestroy(handle_); }

  static Products& of(const Cuda& device) {
    static const char key = 0;
    return *static_cast<Products*>(device.owned(&key, [] { return std::make_shared<Products>(); }));
  }

  /// False where the library has no algorithm.
  template <typename C>
  bool run(const Cuda& device, Index m, Index n, Index k, Matrix<bf16> a, Matrix<bf16> b, C* c, Index stride,
           bool accumulate) {
    const Cuda::Current current(device);
    // The library counts in columns: C^T [n, m] = B^T [n, k] A^T [k, m], column by column.
    const Side left = side(b), right = side(a);
    const Key key{m,
                  n,
                  k,
                  left.stride,
                  right.stride,
                  stride,
                  left.transposed,
                  right.transposed,
                  std::is_same_v<C, float>,
                  accumulate,
                  alignment(b.data, left.stride),
                  alignment(a.data, right.stride),
                  alignment(c, stride)};
    auto found = plans_.find(key);
    if (found == plans_.end()) {
      if (plans_.size() >= most_plans) plans_.clear();
      found = plans_.emplace(key, make(key)).first;
    }
    Plan& plan = *found->second;
    if (!plan.usable) return false;
    const float one = 1, beta = accumulate ? 1.0F : 0.0F;
    const Workspace<char> workspace(device, static_cast<Index>(plan.workspace));
    if (device.planned()) return true;
    cublas_check(cublasLtMatmul(handle_, plan.operation, &one, b.data, plan.left, a.data, plan.right, &beta,
                                c, plan.out, c, plan.out, &plan.algorithm, workspace.data(), plan.workspace,
                                device.stream()),
                 "cublasLtMatmul");
    return true;
  }

 private:
  struct Side {
    Index stride;
    bool transposed;
  };
  /// A row-major operand is a column-major transpose.
  static Side side(Matrix<bf16> x) { return x.column == 1 ? Side{x.row, false} : Side{x.column, true}; }

  /// The largest power of two, at most 256, that every row's address is a multiple of.
  template <typename T>
  static std::uint32_t alignment(const T* data, Index stride) {
    const auto bits =
        reinterpret_cast<std::uintptr_t>(data) | (static_cast<std::size_t>(stride) * sizeof(T)) | 256;
    return static_cast<std::uint32_t>(bits & (~bits + 1));
  }

  using Key = std::tuple<Index, Index, Index, Index, Index, Index, bool, bool, bool, bool, std::uint32_t,
                         std::uint32_t, std::uint32_t>;

  struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t left = nullptr, right = nullptr, out = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
    std::size_t workspace = 0;
    bool usable = false;

    Plan() = default;
    Plan(const Plan&) = delete;
    Plan& operator=(const Plan&) = delete;
    ~Plan() {
      for (const cublasLtMatrixLayout_t layout : {left, right, out})
        (void)cublasLtMatrixLayoutDestroy(layout);
      (void)cublasLtMatmulDescDestroy(operation);
    }
  };

  std::unique_ptr<Plan> make(const Key& key) const {
    const auto& [m, n, k, left_stride, right_stride, stride, left_transposed, right_transposed, to_float,
                 accumulate, left_alignment, right_alignment, out_alignment] = key;
    auto plan = std::make_unique<Plan>();
    cublas_check(cublasLtMatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                 "cublasLtMatmulDescCreate");
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, bool transpose) {
      const cublasOperation_t operation = transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
      cublas_check(cublasLtMatmulDescSetAttribute(plan->operation, attribute, &operation, sizeof operation),
                   "cublasLtMatmulDescSetAttribute");
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, left_transposed);
    set(CUBLASLT_MATMUL_DESC_TRANSB, right_transposed);
    const auto layout = [](cublasLtMatrixLayout_t* out, cudaDataType_t of, Index rows, Index columns,
                           Index ld) {
      cublas_check(cublasLtMatrixLayoutCreate(out, of, static_cast<std::uint64_t>(rows),
                                              static_cast<std::uint64_t>(columns), ld),
                   "cublasLtMatrixLayoutCreate");
    };
    layout(&plan->left, CUDA_R_16BF, left_transposed ? k : n, left_transposed ? n : k, left_stride);
    layout(&plan->right, CUDA_R_16BF, right_transposed ? m : k, right_transposed ? k : m, right_stride);
    layout(&plan->out, to_float ? CUDA_R_32F : CUDA_R_16BF, n, m, stride);

    cublasLtMatmulPreference_t preference = nullptr;
    cublas_check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      (void)cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, left_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, right_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out_alignment);
    cublasLtMatmulHeuristicResult_t best{};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_, plan->operation, plan->left, plan->right, plan->out,
                                       plan->out, preference, 1, &best, &count);
    (void)cublasLtMatmulPreferenceDestroy(preference);
    plan->usable = status == CUBLAS_STATUS_SUCCESS && count > 0 && best.state == CUBLAS_STATUS_SUCCESS;
    plan->algorithm = best.algo;
    plan->workspace = best.workspaceSize;
    return plan;
  }

  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

/// C [m, n] (+)= A [m, k] B [k, n], C row-major with `stride`. A and B are of one type T, C of T or acc_t<T>.
///
///   for i < m, j < n:  c[i][j] = (accumulate ? c[i][j] : 0) + sum_l a[i][l] * b[l][j]
template <typename T, typename C>
void multiply(const Cuda& device, Index m, Index n, Index k, Matrix<T> a, Matrix<T> b, C* c, Index stride,
              bool accumulate) {
  if (m == 0 || n == 0) return;
  if constexpr (!in_order<T>) {
    if (k > 0 && Products::of(device).run(device, m, n, k, a, b, c, stride, accumulate)) return;
  }
  multiply_in_order(device, m, n, k, a, b, c, stride, accumulate);
}

}  // namespace mtpx::cuda
