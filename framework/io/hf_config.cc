#include "framework/io/hf_config.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "framework/io/file.h"
#include "framework/io/json.h"
#include "kernels/check.h"

namespace carry {
namespace {

constexpr int64_t kMaxConfig = 10'000'000;
constexpr char kArchitecture[] = "MambaForCausalLM";

// Python writes Infinity and NaN, which JSON has not. They occur in fields of
// other architectures, whose name is of more use than a syntax error: outside
// of strings, replaces them by null.
std::string WithoutNonFinite(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool in_string = false;
  while (!text.empty()) {
    size_t taken = 1;
    if (in_string && text[0] == '\\') {
      taken = std::min<size_t>(2, text.size());
    } else if (text[0] == '"') {
      in_string = !in_string;
    } else if (!in_string) {
      bool found = false;
      for (const absl::string_view word : {"-Infinity", "Infinity", "NaN"}) {
        found = found || absl::ConsumePrefix(&text, word);
      }
      if (found) {
        out += "null";
        continue;
      }
    }
    out.append(text.data(), taken);
    text.remove_prefix(taken);
  }
  return out;
}

// Reads fields of one object and keeps the first error.
class Fields {
 public:
  Fields(const Json& json, std::string path)
      : json_(json), path_(std::move(path)) {}

  const absl::Status& status() const { return status_; }
  bool Has(const char* key) const {
    return json_.contains(key) && !json_[key].is_null();
  }

  void Fail(absl::string_view what) {
    if (status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(path_, ": ", what));
    }
  }
  void Unsupported(absl::string_view what) {
    if (status_.ok()) {
      status_ = absl::UnimplementedError(
          absl::StrCat(path_, ": ", what, "; Carry reads ", kArchitecture,
                       " (model_type \"mamba\") and mamba-ssm's Mamba"));
    }
  }

  // Takes over the error of an inner object.
  void Adopt(const absl::Status& inner) { status_.Update(inner); }

  // A whole number in [1, max]; `missing` where the key is absent or null, an
  // error if that is 0.
  int64_t Size(const char* key, int64_t max, int64_t missing) {
    if (!Has(key)) {
      if (missing == 0) Fail(absl::StrCat("has no \"", key, "\""));
      return missing;
    }
    const Json& value = json_[key];
    if (!value.is_number_unsigned() || value.get<uint64_t>() < 1 ||
        value.get<uint64_t>() > static_cast<uint64_t>(max)) {
      Fail(absl::StrCat("\"", key, "\" must be a whole number from 1 to ", max,
                        ", not ", Shown(value)));
      return 1;
    }
    return value.get<int64_t>();
  }

  // The same, or "auto", which gives 0.
  int64_t SizeOrAuto(const char* key, int64_t max) {
    if (!Has(key) || json_[key] == "auto") return 0;
    return Size(key, max, 0);
  }

  double Positive(const char* key, double missing) {
    const double value = NotNegative(key, missing);
    if (value > 0) return value;
    Fail(absl::StrCat("\"", key, "\" must be above 0"));
    return missing;
  }

  double NotNegative(const char* key, double missing) {
    if (!Has(key)) return missing;
    const Json& value = json_[key];
    if (!value.is_number() || !std::isfinite(value.get<double>()) ||
        value.get<double>() < 0) {
      Fail(absl::StrCat("\"", key, "\" must be a number, not negative, not ",
                        Shown(value)));
      return missing;
    }
    return value.get<double>();
  }

  bool Bool(const char* key, bool missing) {
    if (!Has(key)) return missing;
    const Json& value = json_[key];
    if (!value.is_boolean()) {
      Fail(absl::StrCat("\"", key, "\" must be true or false, not ",
                        Shown(value)));
      return missing;
    }
    return value.get<bool>();
  }

  // "" where the key is absent or null.
  std::string Text(const char* key) {
    if (!Has(key)) return "";
    const Json& value = json_[key];
    if (!value.is_string()) {
      Fail(absl::StrCat("\"", key, "\" must be a string, not ", Shown(value)));
      return "";
    }
    return value.get<std::string>();
  }

 private:
  static std::string Shown(const Json& value) {
    return Quoted(value.dump(-1, ' ', true, Json::error_handler_t::replace));
  }

  const Json& json_;
  std::string path_;
  absl::Status status_;
};

constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxLayers = 1 << 16;
constexpr int64_t kMaxVocabulary = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxStates = 1 << 12;
constexpr int64_t kMaxExpand = 1 << 10;
constexpr int64_t kMaxTaps = 1 << 10;

void CheckActivation(Fields& fields) {
  const std::string activation = fields.Text("hidden_act");
  if (!activation.empty() && activation != "silu" && activation != "swish") {
    fields.Unsupported(
        absl::StrCat("\"hidden_act\" is ", Quoted(activation), ", not silu"));
  }
}

int64_t DefaultRank(int64_t hidden_size) { return (hidden_size + 15) / 16; }

void ReadTransformers(Fields& fields, config::Model* model) {
  CheckActivation(fields);
  const int64_t hidden = fields.Size("hidden_size", kMaxWidth, 0);
  model->set_hidden_size(hidden);
  model->set_num_layers(fields.Size("num_hidden_layers", kMaxLayers, 0));
  model->set_vocab_size(fields.Size("vocab_size", kMaxVocabulary, 0));
  model->set_tie_embeddings(fields.Bool("tie_word_embeddings", true));
  model->set_norm_epsilon(fields.Positive("layer_norm_epsilon", 1e-5));
  model->set_initializer_range(fields.NotNegative("initializer_range", 0.1));
  model->set_rescale_prenorm_residual(
      fields.Bool("rescale_prenorm_residual", false));
  config::Mamba& mamba = *model->mutable_mamba();
  mamba.set_state_size(fields.Size("state_size", kMaxStates, 16));
  mamba.set_expand(fields.Size("expand", kMaxExpand, 2));
  mamba.set_conv_kernel(fields.Size("conv_kernel", kMaxTaps, 4));
  const int64_t rank = fields.SizeOrAuto("time_step_rank", kMaxWidth);
  mamba.set_time_step_rank(rank == 0 ? DefaultRank(hidden) : rank);
  mamba.set_use_bias(fields.Bool("use_bias", false));
  mamba.set_use_conv_bias(fields.Bool("use_conv_bias", true));
  mamba.set_time_step_min(fields.Positive("time_step_min", 1e-3));
  mamba.set_time_step_max(fields.Positive("time_step_max", 0.1));
  mamba.set_time_step_floor(fields.Positive("time_step_floor", 1e-4));
  mamba.set_time_step_scale(fields.Positive("time_step_scale", 1));
  // d_inner, d_model and n_layer, which published files also have, are wrong
  // in some of them; transformers does not look at them either.
  const int64_t inner = mamba.expand() * hidden;
  const int64_t stated =
      fields.Size("intermediate_size", kMaxExpand * kMaxWidth, inner);
  if (stated != inner) {
    fields.Fail(absl::StrCat("\"intermediate_size\" is ", stated,
                             ", but expand * hidden_size is ", mamba.expand(),
                             " * ", hidden, " = ", inner,
                             "; correct the one that is wrong"));
  }
}

// The arguments of mamba-ssm's Mamba layer, under "ssm_cfg".
void ReadMambaSsmLayer(Fields& layer, int64_t hidden, config::Mamba* mamba) {
  const std::string kind = layer.Text("layer");
  if (!kind.empty() && kind != "Mamba1") {
    layer.Unsupported(absl::StrCat("\"layer\" is ", Quoted(kind)));
  }
  mamba->set_state_size(layer.Size("d_state", kMaxStates, 16));
  mamba->set_expand(layer.Size("expand", kMaxExpand, 2));
  mamba->set_conv_kernel(layer.Size("d_conv", kMaxTaps, 4));
  const int64_t rank = layer.SizeOrAuto("dt_rank", kMaxWidth);
  mamba->set_time_step_rank(rank == 0 ? DefaultRank(hidden) : rank);
  mamba->set_use_bias(layer.Bool("bias", false));
  mamba->set_use_conv_bias(layer.Bool("conv_bias", true));
  mamba->set_time_step_min(layer.Positive("dt_min", 1e-3));
  mamba->set_time_step_max(layer.Positive("dt_max", 0.1));
  mamba->set_time_step_floor(layer.Positive("dt_init_floor", 1e-4));
  mamba->set_time_step_scale(layer.Positive("dt_scale", 1));
}

void ReadMambaSsm(const Json& json, const std::string& path, Fields& fields,
                  config::Model* model) {
  if (fields.Has("d_intermediate") && json["d_intermediate"] != 0) {
    fields.Unsupported("\"d_intermediate\" adds an MLP to each block");
  }
  if (fields.Has("attn_layer_idx") && !json["attn_layer_idx"].empty()) {
    fields.Unsupported("\"attn_layer_idx\" makes some layers attention");
  }
  if (!fields.Bool("rms_norm", true)) {
    fields.Unsupported("\"rms_norm\" is false: LayerNorm");
  }
  const int64_t hidden = fields.Size("d_model", kMaxWidth, 0);
  model->set_hidden_size(hidden);
  model->set_num_layers(fields.Size("n_layer", kMaxLayers, 0));
  const int64_t multiple = fields.Size("pad_vocab_size_multiple", kMaxWidth, 8);
  const int64_t vocab = fields.Size("vocab_size", kMaxVocabulary, 0);
  const int64_t padded = (vocab + multiple - 1) / multiple * multiple;
  if (padded > kMaxVocabulary) fields.Fail("\"vocab_size\" is too large");
  model->set_vocab_size(padded);
  model->set_tie_embeddings(fields.Bool("tie_embeddings", true));
  model->set_norm_epsilon(1e-5);
  model->set_initializer_range(0.02);
  model->set_rescale_prenorm_residual(true);
  const Json none = Json::object();
  const bool has_layer = fields.Has("ssm_cfg");
  if (has_layer && !json["ssm_cfg"].is_object()) {
    fields.Fail("\"ssm_cfg\" must be an object");
    return;
  }
  Fields layer(has_layer ? json["ssm_cfg"] : none,
               absl::StrCat(path, ": ssm_cfg"));
  ReadMambaSsmLayer(layer, hidden, model->mutable_mamba());
  fields.Adopt(layer.status());
}

// What the file says it is, for messages: "" for nothing.
std::string StatedArchitecture(const Json& json) {
  if (json.contains("architectures") && json["architectures"].is_array() &&
      !json["architectures"].empty() && json["architectures"][0].is_string()) {
    return json["architectures"][0].get<std::string>();
  }
  return "";
}

}  // namespace

absl::StatusOr<config::Model> ParseHfConfig(absl::string_view text,
                                            const std::string& path) {
  const absl::StatusOr<Json> json = ParseJson(WithoutNonFinite(text), path);
  if (!json.ok()) return json.status();
  if (!json->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": is not a JSON object; name a model's config.json"));
  }
  Fields fields(*json, path);
  config::Model model;
  const std::string type = fields.Text("model_type");
  const std::string architecture = StatedArchitecture(*json);
  if ((!type.empty() && type != "mamba") ||
      (!architecture.empty() && architecture != kArchitecture)) {
    fields.Unsupported(absl::StrCat(
        "the model is ", Quoted(architecture.empty() ? type : architecture)));
  } else if (!type.empty() || !architecture.empty()) {
    ReadTransformers(fields, &model);
  } else if (fields.Has("d_model")) {
    ReadMambaSsm(*json, path, fields, &model);
  } else {
    fields.Fail(
        "has neither \"model_type\" nor \"d_model\"; name the config.json of "
        "a Mamba model");
  }
  if (!fields.status().ok()) return fields.status();
  const config::Mamba& mamba = model.mamba();
  if (mamba.time_step_min() > mamba.time_step_max()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": the least time step, ", mamba.time_step_min(),
                     ", is above the greatest, ", mamba.time_step_max()));
  }
  return model;
}

absl::StatusOr<config::Model> ReadHfConfig(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path, kMaxConfig);
  if (!text.ok()) return text.status();
  return ParseHfConfig(*text, path);
}

std::string HfConfigText(const config::Model& model) {
  CARRY_CHECK(model.has_mamba());
  const config::Mamba& mamba = model.mamba();
  CARRY_CHECK(model.vocab_size() > 0 && mamba.expand() > 0 &&
              mamba.time_step_rank() > 0);
  const Json json = {
      {"architectures", {kArchitecture}},
      {"model_type", "mamba"},
      {"vocab_size", model.vocab_size()},
      {"hidden_size", model.hidden_size()},
      {"num_hidden_layers", model.num_layers()},
      {"intermediate_size", mamba.expand() * model.hidden_size()},
      {"state_size", mamba.state_size()},
      {"expand", mamba.expand()},
      {"conv_kernel", mamba.conv_kernel()},
      {"time_step_rank", mamba.time_step_rank()},
      {"time_step_min", mamba.time_step_min()},
      {"time_step_max", mamba.time_step_max()},
      {"time_step_floor", mamba.time_step_floor()},
      {"time_step_scale", mamba.time_step_scale()},
      {"time_step_init_scheme", "random"},
      {"layer_norm_epsilon", model.norm_epsilon()},
      {"initializer_range", model.initializer_range()},
      {"rescale_prenorm_residual", model.rescale_prenorm_residual()},
      {"tie_word_embeddings", model.tie_embeddings()},
      // Written although false, since the default differs between versions.
      {"use_bias", mamba.use_bias()},
      {"use_conv_bias", mamba.use_conv_bias()},
      {"hidden_act", "silu"},
      {"residual_in_fp32", true},
      {"use_cache", true},
      {"bos_token_id", 0},
      {"eos_token_id", 0},
      {"pad_token_id", 0},
      {"torch_dtype", "float32"}};
  return json.dump(2) + "\n";
}

}  // namespace carry
