// oneDNN's matrix products, versions 2 and 3: primitives kept by shape.
//
// A primitive is built for one shape, layout and number of threads, and is
// executed by the thread that built it, so each thread keeps its own.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>

#include "dnnl.hpp"
#include "kernels/cpu/pack_weight.h"
#include "kernels/matmul.h"

namespace carry {

// Whether the library may die of an illegal instruction in a product of k
// terms: version 2.6 does with AMX, for some numbers of rows, where a step of
// 32 terms lacks one. Below, it has no such products then.
bool DnnlDies(DType dtype, int64_t k);

dnnl::engine& DnnlEngine();
// The calling thread's.
dnnl::stream& DnnlStream();

// [rows, cols] of op(view).
dnnl::memory::desc DescribeMatrix(const ConstMatView& v, bool transpose);

// The layout of B [k, n] that the library likes best for products of `rows`
// rows, if it has products of that type on this CPU.
std::optional<dnnl::memory::desc> BestLayout(int64_t rows, int64_t n, int64_t k,
                                             DType dtype);
// One number for each such layout; at least 1.
int64_t LayoutId(const dnnl::memory::desc& desc);
// Whether it is one of the blocked layouts that PackTiles knows.
bool DescribeTiles(const dnnl::memory::desc& desc, TileLayout* tiles);

// Copies that a thread keeps of operands which the library wants in another
// layout; `which` of kCopies. Valid until the next call for the same one.
enum WorkingCopyOf {
  kCopyOfA,
  kCopyOfB,
  kDenseA,
  kDenseC,
  kSliceOfA,
  kPaddedA,
  kSumC,
  kCopies
};
void* WorkingCopy(WorkingCopyOf which, int64_t bytes);

// One operand: where it comes as the library takes it, its memory, else a copy
// in that layout.
class DnnlOperand {
 public:
  DnnlOperand() = default;
  // `transpose`: op of the views that Bind gets.
  DnnlOperand(const dnnl::memory::desc& given, const dnnl::memory::desc& taken,
              bool transpose, WorkingCopyOf which);

  void Bind(const ConstMatView& v, dnnl::stream& stream);
  const dnnl::memory& taken() const { return taken_; }

 private:
  enum class How { kAsItIs, kTiles, kTranspose, kReorder };
  dnnl::memory given_, taken_;
  bool transpose_ = false;
  WorkingCopyOf which_ = kCopyOfA;
  How how_ = How::kAsItIs;
  TileLayout tiles_;
  dnnl::reorder reorder_;
};

// A primitive with its arguments; not usable where the library has none.
class DnnlProduct {
 public:
  // a and b as they come, which need not be as `pd` takes them.
  DnnlProduct(const dnnl::matmul::primitive_desc& pd,
              const dnnl::memory::desc& a, bool transpose_a,
              const dnnl::memory::desc& b, bool transpose_b, bool bias);

  bool usable() const { return usable_; }
  // The library's unoptimised loops, which any layout falls back to.
  bool reference() const { return reference_; }

  void Run(const ConstMatView& a, const ConstMatView& b, const float* bias,
           void* c);

 private:
  bool usable_ = false;
  bool reference_ = false;
  dnnl::matmul primitive_;
  DnnlOperand a_, b_;
  dnnl::memory c_, bias_;
  std::unordered_map<int, dnnl::memory> args_;
};

// The calling thread's for C = op(A) B, B as described; layout: LayoutId of b,
// or 0 if that is plain.
DnnlProduct& FindProduct(const MatMulArgs& args, const dnnl::memory::desc& b,
                         int64_t layout);

}  // namespace carry
