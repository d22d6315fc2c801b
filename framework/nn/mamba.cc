#include "framework/nn/mamba.h"

#include <algorithm>
#include <cmath>

#include "framework/ops/causal_conv1d.h"
#include "framework/ops/linear.h"
#include "framework/ops/selective_scan.h"
#include "framework/random.h"

namespace carry {
namespace {

// S4D-real: A_en = -(n + 1).
Initializer ALogInit(int64_t states) {
  return [states](uint64_t, uint64_t, float* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      x[i] = static_cast<float>(std::log(1.0 + i % states));
    }
  };
}

// softplus(bias) is log-uniform in [min, max] and at least `floor`:
// bias = dt + log(1 - exp(-dt)).
Initializer DtBiasInit(double min, double max, double floor) {
  return [=](uint64_t seed, uint64_t stream, float* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      const double u = Uniform(seed, stream, static_cast<uint64_t>(i));
      const double log_dt = std::log(min) + u * (std::log(max) - std::log(min));
      const double dt = std::max(std::exp(log_dt), floor);
      x[i] = static_cast<float>(dt + std::log(-std::expm1(-dt)));
    }
  };
}

// The default of the reference's Linear and Conv1d: uniform within
// 1 / sqrt(fan_in).
Initializer FanInInit(int64_t fan_in, double scale = 1.0) {
  const double bound = scale / std::sqrt(static_cast<double>(fan_in));
  return UniformInit(-bound, bound);
}

struct MambaRun : LinearCarry::Run {
  const uint8_t* document_start;
  Var xz;
  SelectiveScanIn scan;
  Var y;  // of the scan
};

MambaRun& Cast(LinearCarry::Run& run) { return static_cast<MambaRun&>(run); }
const MambaRun& Cast(const LinearCarry::Run& run) {
  return static_cast<const MambaRun&>(run);
}

}  // namespace

MambaMixer::MambaMixer(const config::Model& model, const std::string& prefix,
                       ParameterStore& store) {
  const config::Mamba& mamba = model.mamba();
  hidden_ = model.hidden_size();
  inner_ = mamba.expand() * hidden_;
  states_ = mamba.state_size();
  taps_ = mamba.conv_kernel();
  rank_ = mamba.time_step_rank();
  spec_ = {{"conv", {inner_, taps_ - 1}}, {"state", {inner_, states_}}};

  in_proj_ = store.Add(prefix + "in_proj.weight", {2 * inner_, hidden_}, true,
                       FanInInit(hidden_));
  if (mamba.use_bias()) {
    in_proj_bias_ = store.Add(prefix + "in_proj.bias", {2 * inner_}, false,
                              ConstantInit(0));
  }
  conv_ = store.Add(prefix + "conv1d.weight", {inner_, 1, taps_}, true,
                    FanInInit(taps_));
  if (mamba.use_conv_bias()) {
    conv_bias_ =
        store.Add(prefix + "conv1d.bias", {inner_}, false, FanInInit(taps_));
  }
  x_proj_ = store.Add(prefix + "x_proj.weight", {rank_ + 2 * states_, inner_},
                      true, FanInInit(inner_));
  dt_proj_ = store.Add(prefix + "dt_proj.weight", {inner_, rank_}, true,
                       FanInInit(rank_, mamba.time_step_scale()));
  dt_bias_ = store.Add(prefix + "dt_proj.bias", {inner_}, false,
                       DtBiasInit(mamba.time_step_min(), mamba.time_step_max(),
                                  mamba.time_step_floor()));
  a_log_ =
      store.Add(prefix + "A_log", {inner_, states_}, false, ALogInit(states_));
  d_ = store.Add(prefix + "D", {inner_}, false, ConstantInit(1));
  const double rescale =
      model.rescale_prenorm_residual()
          ? 1 / std::sqrt(static_cast<double>(model.num_layers()))
          : 1;
  out_proj_ = store.Add(prefix + "out_proj.weight", {hidden_, inner_}, true,
                        FanInInit(inner_, rescale));
  if (mamba.use_bias()) {
    out_proj_bias_ =
        store.Add(prefix + "out_proj.bias", {hidden_}, false, ConstantInit(0));
  }
}

Var MambaMixer::Forward(Tape& tape, const Var& x, const ChunkInfo& chunk,
                        const CarryVars& carry_in, const Carry& out,
                        CarryVars* carry_out) {
  const bool has_carry = !carry_in.empty();
  const std::unique_ptr<Run> run = Begin(tape, x, chunk);
  Enter(tape, *run, has_carry ? carry_in[0] : Var(), out.field(0));
  Scan(tape, *run, has_carry ? carry_in[1] : Var(), out.field(1));
  *carry_out = {run->halo_out, run->state_out};
  return Finish(tape, *run);
}

std::unique_ptr<LinearCarry::Run> MambaMixer::Begin(Tape& tape, const Var& x,
                                                    const ChunkInfo& chunk) {
  auto run = std::make_unique<MambaRun>();
  run->document_start = chunk.document_start;
  run->xz = Linear(tape, x, *in_proj_, in_proj_bias_);
  tape.Observe("mixer.in_proj", run->xz);
  run->halo_source = run->xz.Columns(0, inner_);
  return run;
}

void MambaMixer::Enter(Tape& tape, Run& base, const Var& halo, Tensor out) {
  MambaRun& run = Cast(base);
  const CausalConv1dOut conv =
      CausalConv1d(tape, run.halo_source, *conv_, conv_bias_, halo,
                   run.document_start, std::move(out));
  tape.Observe("mixer.conv1d", conv.y);
  run.halo_out = conv.carry_out;

  const Var dbc = Linear(tape, conv.y, *x_proj_, nullptr);
  tape.Observe("mixer.x_proj", dbc);

  SelectiveScanIn& scan = run.scan;
  scan.u = conv.y;
  scan.dt_raw = Linear(tape, dbc.Columns(0, rank_), *dt_proj_, nullptr);
  tape.Observe("mixer.dt_proj", scan.dt_raw);
  scan.b = dbc.Columns(rank_, states_);
  scan.c = dbc.Columns(rank_ + states_, states_);
  scan.z = run.xz.Columns(inner_, inner_);
  scan.a_log = a_log_;
  scan.d = d_;
  scan.dt_bias = dt_bias_;
  scan.document_start = run.document_start;
}

void MambaMixer::Scan(Tape& tape, Run& base, const Var& state, Tensor out) {
  MambaRun& run = Cast(base);
  run.scan.state = state;
  const SelectiveScanOut scanned =
      SelectiveScan(tape, run.scan, std::move(out));
  tape.Observe("mixer.selective_scan", scanned.y);
  tape.Observe("mixer.state", scanned.state);
  run.y = scanned.y;
  run.state_out = scanned.state;
}

Var MambaMixer::Finish(Tape& tape, Run& run) {
  Var y = Linear(tape, Cast(run).y, *out_proj_, out_proj_bias_);
  tape.Observe("mixer.out_proj", y);
  return y;
}

void MambaMixer::Summarize(const Run& run, float* summary) {
  const SelectiveScanIn& scan = Cast(run).scan;
  float* dt_sum = summary + scan.u.value().dim(0) * inner_ * states_;
  SummarizeScan(scan, {summary, dt_sum});
}

void MambaMixer::SummarizeGrad(const Run& run, float* summary) {
  const MambaRun& mamba = Cast(run);
  float* dt_sum = summary + mamba.y.value().dim(0) * inner_ * states_;
  SummarizeScanGrad(mamba.scan, mamba.y, {summary, dt_sum});
}

void MambaMixer::Apply(const float* summary, const Tensor& state) {
  const int64_t batch = state.dim(0);
  const Tensor a = ScanRates(*a_log_);
  a.backend().ApplyScanSummary(batch, inner_, states_, a.f32(), summary,
                               summary + batch * inner_ * states_, state.f32());
}

int64_t MambaMixer::TapeBytesPerToken(DType activations) const {
  // xz, u, dt, y, out_proj's output; x_proj's output; states at tile edges.
  const int64_t elements =
      2 * inner_ + 3 * inner_ + hidden_ + rank_ + 2 * states_;
  constexpr int64_t kTokens = 1024;
  const int64_t saved =
      BackendOf(DefaultDevice())
          .SelectiveScanSavedSize(1, kTokens, inner_, states_) *
      4 / kTokens;
  return elements * SizeOf(activations) + saved;
}

int64_t MambaMixer::MatMulFlopsPerToken() const {
  return 2 * (2 * inner_ * hidden_ + inner_ * (rank_ + 2 * states_) +
              rank_ * inner_ + inner_ * hidden_);
}

}  // namespace carry
