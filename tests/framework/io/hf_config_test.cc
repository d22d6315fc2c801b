#include "framework/io/hf_config.h"

#include "tests/framework/temp_dir.h"

namespace carry {
namespace {

constexpr char kSmall[] = R"({
  "model_type": "mamba", "architectures": ["MambaForCausalLM"],
  "hidden_size": 40, "num_hidden_layers": 2, "vocab_size": 61,
  "intermediate_size": 80, "state_size": 16, "expand": 2, "conv_kernel": 4,
  "time_step_rank": 3, "use_bias": false, "use_conv_bias": true,
  "hidden_act": "silu", "layer_norm_epsilon": 1e-05,
  "tie_word_embeddings": true, "transformers_version": "4.39.0"})";

absl::StatusOr<config::Model> Parse(const std::string& text) {
  return ParseHfConfig(text, "dir/config.json");
}

// kSmall with `from` replaced by `to`.
absl::Status With(const std::string& from, const std::string& to) {
  std::string text = kSmall;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  return Parse(text).status();
}

TEST(HfConfig, ReadsWhatIsSet) {
  const auto model = Parse(R"({"model_type": "mamba", "hidden_size": 40,
      "num_hidden_layers": 3, "vocab_size": 61, "state_size": 8, "expand": 3,
      "conv_kernel": 5, "time_step_rank": 7, "use_bias": true,
      "use_conv_bias": false, "layer_norm_epsilon": 1e-06,
      "tie_word_embeddings": false, "initializer_range": 0.02,
      "rescale_prenorm_residual": true, "time_step_min": 0.002,
      "time_step_max": 0.2, "time_step_floor": 0.0003,
      "time_step_scale": 2.0, "intermediate_size": 120})");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->hidden_size(), 40);
  EXPECT_EQ(model->num_layers(), 3);
  EXPECT_EQ(model->vocab_size(), 61);
  EXPECT_FALSE(model->tie_embeddings());
  EXPECT_EQ(model->norm_epsilon(), 1e-6);
  EXPECT_EQ(model->initializer_range(), 0.02);
  EXPECT_TRUE(model->rescale_prenorm_residual());
  EXPECT_EQ(model->mamba().state_size(), 8);
  EXPECT_EQ(model->mamba().expand(), 3);
  EXPECT_EQ(model->mamba().conv_kernel(), 5);
  EXPECT_EQ(model->mamba().time_step_rank(), 7);
  EXPECT_TRUE(model->mamba().use_bias());
  EXPECT_FALSE(model->mamba().use_conv_bias());
  EXPECT_EQ(model->mamba().time_step_min(), 0.002);
  EXPECT_EQ(model->mamba().time_step_max(), 0.2);
  EXPECT_EQ(model->mamba().time_step_floor(), 0.0003);
  EXPECT_EQ(model->mamba().time_step_scale(), 2);
}

// The defaults of transformers' MambaConfig.
TEST(HfConfig, DefaultsOfTransformers) {
  const auto model =
      Parse(R"({"architectures": ["MambaForCausalLM"], "hidden_size": 100,
                "num_hidden_layers": 2, "vocab_size": 9,
                "time_step_rank": "auto", "pad_token_id": null})");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(model->tie_embeddings());
  EXPECT_EQ(model->norm_epsilon(), 1e-5);
  EXPECT_EQ(model->initializer_range(), 0.1);
  EXPECT_FALSE(model->rescale_prenorm_residual());
  EXPECT_EQ(model->mamba().state_size(), 16);
  EXPECT_EQ(model->mamba().expand(), 2);
  EXPECT_EQ(model->mamba().conv_kernel(), 4);
  EXPECT_EQ(model->mamba().time_step_rank(), 7);
  EXPECT_FALSE(model->mamba().use_bias());
  EXPECT_TRUE(model->mamba().use_conv_bias());
}

TEST(HfConfig, WritesWhatItReads) {
  const auto model = Parse(kSmall);
  ASSERT_TRUE(model.ok()) << model.status();
  const std::string text = HfConfigText(*model);
  const auto again = Parse(text);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->DebugString(), model->DebugString());
  EXPECT_EQ(HfConfigText(*again), text);
  EXPECT_THAT(text, testing::HasSubstr("\"use_bias\": false"));
  EXPECT_THAT(text, testing::HasSubstr("\"intermediate_size\": 80"));
  const TempDir dir;
  const auto file = ReadHfConfig(dir.Write("config.json", text));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->DebugString(), model->DebugString());
  EXPECT_ERROR(ReadHfConfig(dir / "none").status(), dir / "none");
}

TEST(HfConfig, MambaSsm) {
  const auto model = Parse(R"({"d_model": 768, "n_layer": 24,
      "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": true,
      "residual_in_fp32": true, "fused_add_norm": true,
      "pad_vocab_size_multiple": 8})");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->hidden_size(), 768);
  EXPECT_EQ(model->num_layers(), 24);
  EXPECT_EQ(model->vocab_size(), 50280);
  EXPECT_TRUE(model->tie_embeddings());
  EXPECT_EQ(model->initializer_range(), 0.02);
  EXPECT_TRUE(model->rescale_prenorm_residual());
  EXPECT_EQ(model->mamba().state_size(), 16);
  EXPECT_EQ(model->mamba().time_step_rank(), 48);
  const auto other = Parse(R"({"d_model": 64, "n_layer": 1, "vocab_size": 16,
      "ssm_cfg": {"layer": "Mamba1", "d_state": 4, "expand": 1, "d_conv": 3,
      "dt_rank": 9, "bias": true, "conv_bias": false, "dt_min": 0.01},
      "tie_embeddings": false, "attn_layer_idx": [], "d_intermediate": 0})");
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(other->vocab_size(), 16);
  EXPECT_FALSE(other->tie_embeddings());
  EXPECT_EQ(other->mamba().state_size(), 4);
  EXPECT_EQ(other->mamba().expand(), 1);
  EXPECT_EQ(other->mamba().conv_kernel(), 3);
  EXPECT_EQ(other->mamba().time_step_rank(), 9);
  EXPECT_TRUE(other->mamba().use_bias());
  EXPECT_FALSE(other->mamba().use_conv_bias());
  EXPECT_EQ(other->mamba().time_step_min(), 0.01);
}

TEST(HfConfig, OtherArchitecturesAreRefusedByName) {
  const absl::Status mamba2 =
      Parse(R"({"model_type": "mamba2", "time_step_limit": [0.0, Infinity],
                "x": [-Infinity, NaN], "y": "Infinity \" NaN"})")
          .status();
  EXPECT_TRUE(absl::IsUnimplemented(mamba2)) << mamba2;
  EXPECT_ERROR(mamba2, "the model is \"mamba2\"");
  EXPECT_ERROR(With("MambaForCausalLM", "LlamaForCausalLM"),
               "the model is \"LlamaForCausalLM\"");
  EXPECT_ERROR(With("\"mamba\"", "\"falcon_mamba\""), "dir/config.json");
  EXPECT_ERROR(Parse(R"({"d_model": 64, "n_layer": 1, "vocab_size": 16,
                         "ssm_cfg": {"layer": "Mamba2"}})")
                   .status(),
               "ssm_cfg: \"layer\" is \"Mamba2\"");
  const auto ssm = [](const std::string& field) {
    return Parse("{\"d_model\": 64, \"n_layer\": 1, \"vocab_size\": 16, " +
                 field + "}")
        .status();
  };
  EXPECT_STATUS_OK(ssm("\"rms_norm\": true"));
  EXPECT_ERROR(ssm("\"rms_norm\": false"), "LayerNorm");
  EXPECT_ERROR(ssm("\"attn_layer_idx\": [3]"), "attention");
  EXPECT_ERROR(ssm("\"d_intermediate\": 128"), "MLP");
  EXPECT_ERROR(With("silu", "gelu"), "\"gelu\", not silu");
}

TEST(HfConfig, Contradictions) {
  EXPECT_STATUS_OK(With("40", "40"));
  EXPECT_ERROR(With("\"intermediate_size\": 80", "\"intermediate_size\": 81"),
               "\"intermediate_size\" is 81, but expand * hidden_size is 2 * "
               "40 = 80");
  EXPECT_ERROR(With("\"hidden_size\": 40", "\"hidden_size\": 48"),
               "is 2 * 48 = 96");
  EXPECT_ERROR(With("\"hidden_act\"", "\"time_step_min\": 0.5, \"hidden_act\""),
               "the least time step");
}

TEST(HfConfig, BadFields) {
  EXPECT_ERROR(With("\"hidden_size\": 40, ", ""), "has no \"hidden_size\"");
  EXPECT_ERROR(With("\"vocab_size\": 61", "\"vocab_size\": null"),
               "has no \"vocab_size\"");
  EXPECT_ERROR(With("\"hidden_size\": 40", "\"hidden_size\": 0"),
               "\"hidden_size\" must be a whole number from 1");
  EXPECT_ERROR(With("\"hidden_size\": 40", "\"hidden_size\": -40"), "not ");
  EXPECT_ERROR(With("\"hidden_size\": 40", "\"hidden_size\": 40.5"), "40.5");
  EXPECT_ERROR(With("\"hidden_size\": 40", "\"hidden_size\": \"40\""),
               "whole number");
  EXPECT_ERROR(
      With("\"hidden_size\": 40", "\"hidden_size\": 9223372036854775807"),
      "from 1 to 1048576");
  EXPECT_ERROR(With("\"use_bias\": false", "\"use_bias\": 0"),
               "\"use_bias\" must be true or false, not \"0\"");
  EXPECT_ERROR(With("1e-05", "-1e-05"), "not negative, not \"-1e-05\"");
  EXPECT_ERROR(With("1e-05", "\"1e-05\""), "must be a number");
  EXPECT_ERROR(With("1e-05", "0"), "must be above 0");
  EXPECT_STATUS_OK(
      With("\"hidden_act\"", "\"initializer_range\": 0, \"hidden_act\""));
  EXPECT_ERROR(With("\"mamba\"", "7"), "\"model_type\" must be a string");
  EXPECT_ERROR(With("\"expand\": 2", "\"expand\": 2, \"expand\": 2"),
               "comes twice");
}

TEST(HfConfig, WhatIsNoConfig) {
  EXPECT_ERROR(Parse("").status(), "it is empty");
  EXPECT_ERROR(Parse("[]").status(), "not a JSON object");
  EXPECT_ERROR(Parse("{}").status(), "neither \"model_type\" nor");
  EXPECT_ERROR(Parse("{\"a\": ").status(), "not valid JSON at byte");
  const std::string good = kSmall;
  for (size_t n = 0; n < good.size(); ++n) {
    EXPECT_FALSE(Parse(good.substr(0, n)).ok()) << n;
  }
}

}  // namespace
}  // namespace carry
