// Golden cases: an independent float64 reference with automatic
// differentiation. `golden_test --golden_dir=DIR` runs every case folder in
// DIR, model cases (config.json, model.safetensors, expected.safetensors) and
// scan cases (scan.safetensors), and fails if there is none.
//
// Every tensor must be within 2e-5 of its largest magnitude, in fp32.

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "framework/io/hf_config.h"
#include "framework/io/safetensors.h"
#include "framework/nn/weights.h"
#include "framework/train/streamed_pass.h"
#include "gtest/gtest.h"
#include "kernels/selective_scan.h"
#include "tests/framework/tiny_model.h"

namespace carry {
namespace {

constexpr double kTolerance = 2e-5;
std::string golden_dir;  // NOLINT: set once in main

std::vector<double> Doubles(const SafetensorsFile& file,
                            const std::string& name) {
  const TensorView* tensor = file.Find(name);
  if (tensor == nullptr) {
    ADD_FAILURE() << file.path() << " has no tensor " << name;
    return {};
  }
  std::vector<double> values(tensor->elements());
  if (tensor->dtype == DType::kF64) {
    std::memcpy(values.data(), tensor->data, tensor->bytes);
  } else {
    std::vector<float> narrow(values.size());
    EXPECT_TRUE(CopyAsFloat(*tensor, absl::MakeSpan(narrow)).ok());
    std::copy(narrow.begin(), narrow.end(), values.begin());
  }
  return values;
}

std::vector<int64_t> Integers(const TensorView& tensor) {
  EXPECT_EQ(tensor.dtype, DType::kI64);
  std::vector<int64_t> values(tensor.elements());
  std::memcpy(values.data(), tensor.data, tensor.bytes);
  return values;
}

void ExpectClose(const std::string& name, const std::vector<float>& got,
                 const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size()) << name;
  EXPECT_LE(RelativeError(got, want), kTolerance) << name;
}

// A model case, run in chunks of `chunk_length` (0: whole).
void RunModelCase(const std::string& folder, int64_t chunk_length) {
  SCOPED_TRACE(folder + ", chunk length " + std::to_string(chunk_length));
  absl::StatusOr<config::Model> config = ReadHfConfig(folder + "/config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_TRUE(ResolveModel(&*config).ok());
  LanguageModel model(*config, DType::kF32);
  model.Allocate(0, true);
  absl::StatusOr<SafetensorsFolder> weights = SafetensorsFolder::Open(folder);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const absl::Status loaded = LoadWeights(*weights, folder, model);
  ASSERT_TRUE(loaded.ok()) << loaded;
  absl::StatusOr<SafetensorsFile> expected =
      SafetensorsFile::Open(folder + "/expected.safetensors");
  ASSERT_TRUE(expected.ok()) << expected.status();

  const TensorView* token_tensor = expected->Find("tokens");
  ASSERT_NE(token_tensor, nullptr);
  const int64_t batch = token_tensor->shape[0], length = token_tensor->shape[1];
  const std::vector<int64_t> wide = Integers(*token_tensor);
  std::vector<int32_t> tokens(wide.begin(), wide.end());
  std::vector<uint8_t> starts(tokens.size(), 0);
  if (const TensorView* packed = expected->Find("document_start")) {
    const std::vector<int64_t> flags = Integers(*packed);
    std::copy(flags.begin(), flags.end(), starts.begin());
  }
  std::vector<int32_t> targets(tokens.size(), -1);
  int64_t count = 0;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = 0; t + 1 < length; ++t) {
      const int64_t i = b * length + t;
      if (starts[i + 1]) continue;
      targets[i] = tokens[i + 1];
      ++count;
    }
  }
  SequenceBatch sequences;
  sequences.batch = batch;
  sequences.length = sequences.stride = length;
  sequences.tokens = tokens.data();
  sequences.targets = targets.data();
  sequences.document_start = starts.data();

  // Logits, chunk by chunk from the carry.
  const std::vector<ChunkSpan> spans = CutIntoChunks(length, chunk_length);
  const int64_t vocab = config->vocab_size();
  std::vector<float> logits(batch * length * vocab);
  std::vector<Carry> carries;
  for (const ChunkSpan& span : spans) {
    const int64_t time = span.end - span.begin;
    const LanguageModel::Hidden hidden =
        ForwardTokens(model, ChunkData(sequences, span), carries);
    const std::vector<float> part = Values(model.Logits(hidden, false));
    for (int64_t b = 0; b < batch; ++b) {
      std::copy_n(part.data() + b * time * vocab, time * vocab,
                  logits.data() + (b * length + span.begin) * vocab);
    }
  }
  ExpectClose("logits", logits, Doubles(*expected, "logits"));
  for (int64_t l = 0; l < model.layers(); ++l) {
    const std::string prefix = "carry." + std::to_string(l) + ".";
    for (size_t f = 0; f < carries[l].fields(); ++f) {
      const std::string name = prefix + model.carry_spec(l)[f].name;
      ExpectClose(name, Values(carries[l].field(f)), Doubles(*expected, name));
    }
  }

  model.parameters().ZeroGrads();
  LocalCarryExchange exchange(model.layers(), spans.size());
  StreamedPassOptions options;
  options.loss_weight = static_cast<float>(1.0 / count);
  absl::StatusOr<std::vector<double>> nll =
      RunStreamedPass(model, sequences, spans, exchange, options);
  ASSERT_TRUE(nll.ok()) << nll.status();
  double loss = 0;
  for (double chunk : *nll) loss += chunk / count;
  const double want = Doubles(*expected, "loss")[0];
  EXPECT_NEAR(loss, want, kTolerance * std::abs(want));
  for (const auto& p : model.parameters().parameters()) {
    const std::string name = "grad." + p->name();
    ExpectClose(name, Values(p->grad()), Doubles(*expected, name));
  }
  for (int64_t l = 0; l < model.layers(); ++l) {
    ExpectClose("final carry", Values(exchange.final()[l].flat()), [&] {
      std::vector<double> all;
      for (const CarryField& field : model.carry_spec(l)) {
        const std::vector<double> part =
            Doubles(*expected, "carry." + std::to_string(l) + "." + field.name);
        all.insert(all.end(), part.begin(), part.end());
      }
      return all;
    }());
  }
}

// Tensors of a scan case as fp32 on the default device, with views.
class ScanCase {
 public:
  explicit ScanCase(const SafetensorsFile& file) : file_(file) {}

  bool Has(const std::string& name) const {
    return file_.Find(name) != nullptr;
  }
  float* Floats(const std::string& name) {
    const std::vector<double> wide = Doubles(file_, name);
    const std::vector<float> narrow(wide.begin(), wide.end());
    held_.push_back(Tensor::FromHost(narrow.data(),
                                     {static_cast<int64_t>(narrow.size())},
                                     DType::kF32, MemoryPart::kActivations));
    return held_.back().f32();
  }
  MatView Rows(const std::string& name, int64_t cols) {
    const int64_t elements = file_.Find(name)->elements();
    return {Floats(name), DType::kF32, elements / cols, cols, cols};
  }
  float* Fresh(int64_t n) {
    held_.push_back(Tensor::Zeros({n}, DType::kF32));
    return held_.back().f32();
  }
  MatView FreshRows(int64_t rows, int64_t cols) {
    return {Fresh(rows * cols), DType::kF32, rows, cols, cols};
  }

 private:
  const SafetensorsFile& file_;
  std::vector<Tensor> held_;
};

void RunScanCase(const std::string& path) {
  SCOPED_TRACE(path);
  absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  ScanCase in(*file);
  const std::vector<int64_t> shape = file->Find("in.u")->shape;
  const int64_t batch = shape[0], time = shape[1], channels = shape[2];
  const int64_t states = file->Find("in.A")->shape[1], rows = batch * time;

  SelectiveScanArgs args{};
  args.batch = batch;
  args.time = time;
  args.channels = channels;
  args.states = states;
  args.u = in.Rows("in.u", channels);
  args.dt_raw = in.Rows("in.dt", channels);
  if (in.Has("in.z")) args.z = in.Rows("in.z", channels);
  args.b = in.Rows("in.B", states);
  args.c = in.Rows("in.C", states);
  args.a = in.Floats("in.A");
  args.d = in.Floats("in.D");
  args.dt_bias = in.Floats("in.dt_bias");
  args.state_in = in.Floats("in.h0");
  Tensor starts;
  if (const TensorView* flags = file->Find("in.document_start")) {
    const std::vector<int64_t> wide = Integers(*flags);
    const std::vector<uint8_t> narrow(wide.begin(), wide.end());
    starts =
        Tensor::FromHost(narrow.data(), {rows}, DType::kU8, MemoryPart::kData);
    args.document_start = starts.as<uint8_t>();
  }
  const MatView y = in.FreshRows(rows, channels);
  float* state_out = in.Fresh(batch * channels * states);
  Backend& backend = BackendOf(DefaultDevice());
  float* saved =
      in.Fresh(backend.SelectiveScanSavedSize(batch, time, channels, states));
  backend.SelectiveScanForward(args, {y, state_out, saved});

  const auto expect = [&](const std::string& name, const void* got) {
    const std::vector<double> want = Doubles(*file, name);
    std::vector<float> values(want.size());
    const absl::Status status =
        backend.ToHost(values.data(), got,
                       static_cast<int64_t>(values.size() * sizeof(float)));
    ASSERT_TRUE(status.ok()) << status;
    ExpectClose(name, values, want);
  };
  expect("out.y", y.data);
  expect("out.h", state_out);

  SelectiveScanBackwardArgs grad{};
  grad.dout = in.Rows("grad_in.y", channels);
  grad.dstate_out = in.Floats("grad_in.h");
  grad.saved = saved;
  grad.du = in.FreshRows(rows, channels);
  grad.ddt_raw = in.FreshRows(rows, channels);
  if (args.z.data != nullptr) grad.dz = in.FreshRows(rows, channels);
  grad.db = in.FreshRows(rows, states);
  grad.dc = in.FreshRows(rows, states);
  grad.da = in.Fresh(channels * states);
  grad.dd = in.Fresh(channels);
  grad.ddt_bias = in.Fresh(channels);
  grad.dstate_in = in.Fresh(batch * channels * states);
  backend.SelectiveScanBackward(args, grad);
  expect("grad.u", grad.du.data);
  expect("grad.dt", grad.ddt_raw.data);
  if (args.z.data != nullptr) expect("grad.z", grad.dz.data);
  expect("grad.B", grad.db.data);
  expect("grad.C", grad.dc.data);
  expect("grad.A", grad.da);
  expect("grad.D", grad.dd);
  expect("grad.dt_bias", grad.ddt_bias);
  expect("grad.h0", grad.dstate_in);
}

TEST(Golden, EveryCaseInTheFolder) {
  int cases = 0;
  ASSERT_TRUE(std::filesystem::is_directory(golden_dir))
      << golden_dir << " is no folder";
  for (const auto& entry : std::filesystem::directory_iterator(golden_dir)) {
    const std::string folder = entry.path().string();
    if (std::filesystem::exists(folder + "/scan.safetensors")) {
      RunScanCase(folder + "/scan.safetensors");
      ++cases;
    }
    if (std::filesystem::exists(folder + "/expected.safetensors")) {
      for (int64_t chunk : {0, 1, 7, 16}) RunModelCase(folder, chunk);
      ++cases;
    }
  }
  EXPECT_GT(cases, 0) << "no golden case in " << golden_dir;
  std::printf("%d golden cases in %s\n", cases, golden_dir.c_str());
}

}  // namespace
}  // namespace carry

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  carry::golden_dir = CARRY_SOURCE_DIR "/tests/golden";
  const std::string flag = "--golden_dir=";
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--device=CUDA") {
      const absl::Status opened = carry::UseCuda({});
      if (absl::IsUnavailable(opened)) {
        std::printf("SKIPPED: %s\n", std::string(opened.message()).c_str());
        return 77;
      }
      if (!opened.ok()) {
        std::fprintf(stderr, "%s\n", std::string(opened.message()).c_str());
        return 1;
      }
    } else if (arg.rfind(flag, 0) == 0) {
      carry::golden_dir = arg.substr(flag.size());
    } else {
      std::fprintf(stderr,
                   "unknown argument %s; usage: golden_test [%sDIR] "
                   "[--device=CUDA]\n",
                   argv[i], flag.c_str());
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
