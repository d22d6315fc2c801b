// What the tests of every backend share: random data, typed matrices with
// guarded margins, comparison with an oracle, finite differences.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/types.h"

namespace carry::testing {

using Doubles = std::vector<double>;

inline double Round(double x, DType dtype) {
  const float f = static_cast<float>(x);
  return dtype == DType::kBF16 ? ToFloat(ToBFloat16(f)) : f;
}

// Uniform numbers that `dtype` holds exactly.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  double operator()(double low, double high) {
    return low + (high - low) * (engine_() >> 11) * 0x1p-53;
  }
  Doubles Vector(int64_t n, double low, double high,
                 DType dtype = DType::kF32) {
    Doubles v(n);
    for (double& x : v) x = Round((*this)(low, high), dtype);
    return v;
  }

 private:
  std::mt19937_64 engine_;
};

inline std::vector<float> Floats(const Doubles& v) {
  return {v.begin(), v.end()};
}
inline const float* DataOrNull(const std::vector<float>& v) {
  return v.empty() ? nullptr : v.data();
}
inline float* DataOrNull(std::vector<float>& v) {
  return v.empty() ? nullptr : v.data();
}

inline Doubles Values(const ConstMatView& v) {
  Doubles values;
  for (int64_t r = 0; r < v.rows; ++r) {
    for (int64_t c = 0; c < v.cols; ++c) {
      const int64_t at = r * v.stride + c;
      values.push_back(v.dtype == DType::kF32
                           ? static_cast<const float*>(v.data)[at]
                           : ToFloat(static_cast<const BFloat16*>(v.data)[at]));
    }
  }
  return values;
}

// Memory that begins with a cache line, as a tensor's does: without a margin,
// kernels may write such rows past the caches.
template <class T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};

  LineAllocator() = default;
  template <class U>
  explicit LineAllocator(const LineAllocator<U>&) {}
  T* allocate(size_t n) {
    return static_cast<T*>(::operator new(n * sizeof(T), kLine));
  }
  void deallocate(T* p, size_t) { ::operator delete(p, kLine); }
  bool operator==(const LineAllocator&) const { return true; }
};

// A matrix [rows, cols] of fp32 or bf16 inside a wider one, whose other
// elements must not change. `margin` columns lie on either side.
class Matrix {
 public:
  Matrix(int64_t rows, int64_t cols, DType dtype, int64_t margin = 0)
      : rows_(rows),
        cols_(cols),
        margin_(margin),
        dtype_(dtype),
        floats_(rows * (cols + 2 * margin), kGuard),
        halves_(floats_.size(), ToBFloat16(kGuard)) {}
  Matrix(const Doubles& values, int64_t rows, int64_t cols, DType dtype,
         int64_t margin = 0)
      : Matrix(rows, cols, dtype, margin) {
    for (int64_t i = 0; i < rows * cols; ++i) {
      const int64_t at = At(i / cols, i % cols);
      floats_[at] = static_cast<float>(values[i]);
      halves_[at] = ToBFloat16(floats_[at]);
    }
  }

  MatView view() {
    void* data = dtype_ == DType::kF32
                     ? static_cast<void*>(floats_.data() + margin_)
                     : static_cast<void*>(halves_.data() + margin_);
    return {data, dtype_, rows_, cols_, cols_ + 2 * margin_};
  }

  Doubles values() const {
    Doubles v;
    for (int64_t i = 0; i < rows_ * cols_; ++i) {
      v.push_back(Get(At(i / cols_, i % cols_)));
    }
    return v;
  }

  bool MarginsUntouched() const {
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < margin_; ++c) {
        if (Get(At(r, c) - margin_) != kGuard) return false;
        if (Get(At(r, cols_ + c)) != kGuard) return false;
      }
    }
    return true;
  }

 private:
  static constexpr float kGuard = -77.0f;  // Exact in bf16.

  int64_t At(int64_t r, int64_t c) const {
    return r * (cols_ + 2 * margin_) + margin_ + c;
  }
  double Get(int64_t at) const {
    return dtype_ == DType::kF32 ? floats_[at] : ToFloat(halves_[at]);
  }

  int64_t rows_, cols_, margin_;
  DType dtype_;
  std::vector<float, LineAllocator<float>> floats_;
  std::vector<BFloat16, LineAllocator<BFloat16>> halves_;
};

inline double Rms(const Doubles& v) {
  double sum = 0;
  for (double x : v) sum += x * x;
  return v.empty() ? 0 : std::sqrt(sum / v.size());
}

// The largest |got - want| / (|want| + rms(want)), and the relative error in
// the L2 norm.
struct Error {
  double max = 0;
  double l2 = 0;
};
inline Error Compare(const Doubles& got, const Doubles& want) {
  const double rms = Rms(want);
  Error error;
  double squares = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double e = std::fabs(got[i] - want[i]);
    if (!(e <= std::numeric_limits<double>::max())) return {INFINITY, INFINITY};
    error.max = std::max(error.max, e / (std::fabs(want[i]) + rms + 1e-300));
    squares += e * e;
  }
  error.l2 =
      std::sqrt(squares / std::max<size_t>(1, want.size())) / (rms + 1e-300);
  return error;
}

// Rounding to bf16 (8 significant bits) adds half a unit to an error.
inline double WithRounding(double tolerance, DType dtype) {
  return dtype == DType::kBF16 ? tolerance + 0x1p-8 : tolerance;
}

inline void ExpectClose(const std::string& what, const Doubles& got,
                        const Doubles& want, double tolerance) {
  ASSERT_EQ(got.size(), want.size()) << what;
  const Error error = Compare(got, want);
  EXPECT_LE(error.max, tolerance) << what << " (L2 " << error.l2 << ")";
}
inline void ExpectClose(const std::string& what, const std::vector<float>& got,
                        const Doubles& want, double tolerance) {
  ExpectClose(what, Doubles(got.begin(), got.end()), want, tolerance);
}

// Of an accumulated gradient that started from `start`.
inline void ExpectAdded(const std::string& what, const std::vector<float>& got,
                        double start, const Doubles& want, double tolerance) {
  Doubles added(got.begin(), got.end());
  for (double& x : added) x -= start;
  ExpectClose(what, added, want, tolerance);
}

// Compares `gradient` of `loss` at some places of *x with central differences.
inline void ExpectGradient(const std::string& what,
                           const std::function<double()>& loss, Doubles* x,
                           const Doubles& gradient) {
  ASSERT_EQ(x->size(), gradient.size()) << what;
  constexpr double kStep = 1e-4;
  // Error of the difference: step^2 times a third derivative, and 1e-16 / step
  // of the loss.
  const double tolerance = 1e-6 * (Rms(gradient) + 1e-3);
  const size_t stride = std::max<size_t>(1, x->size() / 23);
  for (size_t i = 0; i < x->size(); i += stride) {
    const double value = (*x)[i];
    const auto at = [&](double step) {
      (*x)[i] = value + step;
      return loss();
    };
    // Fourth order.
    const double slope =
        (8 * (at(kStep) - at(-kStep)) - (at(2 * kStep) - at(-2 * kStep))) /
        (12 * kStep);
    (*x)[i] = value;
    EXPECT_NEAR(slope, gradient[i], tolerance + 1e-6 * std::fabs(gradient[i]))
        << what << "[" << i << "]";
  }
}

inline double Dot(const Doubles& a, const Doubles& b) {
  double sum = 0;
  for (size_t i = 0; i < b.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace carry::testing
