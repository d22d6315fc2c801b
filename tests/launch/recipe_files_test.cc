// The recipes of this repository: they load, and their heads do not lie.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "launch/cost.h"
#include "launch/human.h"
#include "launch/recipe.h"
#include "launch/recipe_resolve.h"

namespace carry {
namespace {

std::map<std::string, std::string> RecipeFiles() {
  std::map<std::string, std::string> files;
  const std::string folder = CARRY_SOURCE_DIR "/recipes";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".textproto") continue;
    std::ifstream in(entry.path());
    std::ostringstream text;
    text << in.rdbuf();
    files[entry.path().stem().string()] = text.str();
  }
  return files;
}

config::Recipe Load(const std::string& name) {
  auto recipe = LoadRecipe(
      absl::StrCat(CARRY_SOURCE_DIR "/recipes/", name, ".textproto"), {});
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return recipe.ok() ? *recipe : config::Recipe();
}

TEST(RecipeFilesTest, AllLoadAndAreNamedAsTheirFiles) {
  std::map<std::string, std::string> files = RecipeFiles();
  EXPECT_GE(files.size(), 7u);
  for (const auto& [name, text] : files) {
    SCOPED_TRACE(name);
    EXPECT_EQ(Load(name).name(), name);
    EXPECT_TRUE(absl::StartsWith(text, "# ")) << "no head";
  }
}

// "parameters  129,135,360" and "254M FLOP a token forward" in each head.
TEST(RecipeFilesTest, HeadsSayTheRightCost) {
  for (const auto& [name, text] : RecipeFiles()) {
    SCOPED_TRACE(name);
    const config::Recipe recipe = Load(name);
    const std::string plain = absl::StrReplaceAll(text, {{",", ""}});
    size_t at = plain.find("#   parameters  ");
    ASSERT_NE(at, std::string::npos);
    const RecipeCost cost = CostOf(recipe);
    EXPECT_EQ(std::stoll(plain.substr(at + 16)), cost.parameters);
    EXPECT_TRUE(absl::StrContains(
        text, absl::StrCat("products    ", Human(cost.forward_flops),
                           " FLOP a token forward")))
        << Human(cost.forward_flops);
  }
}

struct Published {
  const char* name;
  int64_t layers, width;
  int64_t parameters;  // of the published checkpoints
  double gpt3_rate;
};

TEST(RecipeFilesTest, PublishedShapesAndSettings) {
  for (const Published& p :
       {Published{"mamba-130m", 24, 768, 129135360, 6e-4},
        Published{"mamba-370m", 48, 1024, 371516416, 3e-4},
        Published{"mamba-790m", 48, 1536, 793204224, 2.5e-4},
        Published{"mamba-1.4b", 48, 2048, 1372178432, 2e-4},
        Published{"mamba-2.8b", 64, 2560, 2768345600, 1.6e-4}}) {
    SCOPED_TRACE(p.name);
    const config::Recipe r = Load(p.name);
    EXPECT_EQ(r.model().num_layers(), p.layers);
    EXPECT_EQ(r.model().hidden_size(), p.width);
    EXPECT_EQ(r.model().vocab_size(), 50280);
    EXPECT_EQ(CostOf(r).parameters, p.parameters);
    const config::Optimizer& o = r.optimizer();
    EXPECT_NEAR(o.learning_rate(), 5 * p.gpt3_rate, 1e-12);
    EXPECT_EQ(o.beta1(), 0.9);
    EXPECT_EQ(o.beta2(), 0.95);
    EXPECT_EQ(o.weight_decay(), 0.1);
    EXPECT_EQ(o.max_grad_norm(), 1);
    EXPECT_EQ(o.min_learning_rate(), 1e-5);
    EXPECT_FALSE(RequireTrainingData(r).ok());
  }
}

TEST(RecipeFilesTest, MillionToken) {
  const config::Recipe r = Load("million-token");
  EXPECT_EQ(r.training().sequence_length(), 1048576);
  EXPECT_EQ(r.training().batch_size(), 1);
  EXPECT_EQ(r.data().packing(), config::Data::PACKED);
  EXPECT_NEAR(CostOf(r).parameters, 1e6, 1e5);
}

TEST(RecipeFilesTest, QuickstartSeesFourThousandBytes) {
  EXPECT_GE(Load("quickstart").training().sequence_length(), 4096);
}

}  // namespace
}  // namespace carry
