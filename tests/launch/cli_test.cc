// Command lines and their errors.
#include "tests/launch/program_test.h"

namespace carry {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

using CliTest = ProgramTest;

constexpr char kQuickstart[] = CARRY_SOURCE_DIR "/recipes/quickstart.textproto";

TEST_F(CliTest, HelpAndVersion) {
  Result r = Run("--help");
  EXPECT_EQ(r.status, 0);
  EXPECT_THAT(r.out, HasSubstr("inspect"));
  EXPECT_EQ(r.err, "");
  r = Run("--version");
  EXPECT_EQ(r.status, 0);
  EXPECT_THAT(r.out, StartsWith("carry "));
  EXPECT_THAT(r.out, HasSubstr("backends: cpu"));
}

// OpenMP's threads spin for a moment only, unless the user says otherwise.
TEST_F(CliTest, ThreadsSpinShortly) {
  const auto spins = [this](const std::string& environment) {
    return Run("--version",
               "env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT "
               "OMP_DISPLAY_ENV=verbose " +
                   environment)
        .err;
  };
  EXPECT_THAT(spins(""), HasSubstr("GOMP_SPINCOUNT = '10000'"));
  EXPECT_THAT(spins("GOMP_SPINCOUNT=77"), HasSubstr("GOMP_SPINCOUNT = '77'"));
  EXPECT_THAT(spins("OMP_WAIT_POLICY=active"),
              Not(HasSubstr("GOMP_SPINCOUNT = '10000'")));
}

TEST_F(CliTest, EveryCommandHasHelpWithAnExample) {
  for (const char* command :
       {"train", "bench", "eval", "generate", "prepare", "inspect", "plan"}) {
    Result r = Run(std::string(command) + " --help");
    EXPECT_EQ(r.status, 0) << command;
    EXPECT_THAT(r.out, HasSubstr("Example:")) << command;
    EXPECT_THAT(r.out, HasSubstr(std::string("carry ") + command));
  }
}

TEST_F(CliTest, SenselessCommandLines) {
  for (const char* arguments :
       {"", "nonsense", "inspect", "inspect --nonsense", "--nonsense",
        "inspect a b c --set", "inspect --set", "train", "eval", "generate",
        "train x --threads 0", "generate x --prompt a --prompt-file b",
        "eval x --chunk-length 0", "prepare a", "eval x --max-tokens -1",
        "prepare a --out b --tokenizer c --learn-tokenizer d"}) {
    Result r = Run(arguments);
    EXPECT_EQ(r.status, 2) << arguments;
    EXPECT_THAT(r.err, StartsWith("carry: error: ")) << arguments;
    EXPECT_THAT(r.err, HasSubstr("--help`\n")) << arguments;
    EXPECT_EQ(r.out, "") << arguments;
  }
}

TEST_F(CliTest, InspectShowsTheResolvedRecipe) {
  Result r = Run(std::string("inspect ") + kQuickstart +
                 " --set training.steps=70 --set data.train=/tmp/a "
                 "--set 'data.train+=/tmp/b, c'");
  EXPECT_EQ(r.status, 0) << r.err;
  EXPECT_EQ(r.err, "");
  EXPECT_THAT(r.out, StartsWith("recipe      quickstart\n"));
  EXPECT_THAT(r.out, HasSubstr("steps: 70"));
  EXPECT_THAT(r.out, HasSubstr("train: \"/tmp/a\""));
  EXPECT_THAT(r.out, HasSubstr("train: \"/tmp/b, c\""));
  EXPECT_THAT(r.out, HasSubstr("beta2: 0.95"));
}

TEST_F(CliTest, RecipeErrors) {
  const std::string path =
      Write("bad.textproto", "model {\n  hidden_sise: 3\n}\n");
  Result r = Run("inspect " + path);
  EXPECT_EQ(r.status, 1);
  EXPECT_EQ(r.out, "");
  EXPECT_EQ(r.err, "carry: error: " + path +
                       ":2:3: Model has no field 'hidden_sise'; did you mean "
                       "'hidden_size'?\n");
  r = Run(std::string("inspect ") + kQuickstart + " --set training.steps=many");
  EXPECT_EQ(r.status, 1);
  EXPECT_EQ(r.err,
            "carry: error: --set training.steps: steps wants a whole number, "
            "not 'many'\n");
}

TEST_F(CliTest, FilesThatAreNoRecipe) {
  Result r = Run("inspect " + dir_ + "/none.textproto");
  EXPECT_EQ(r.status, 1);
  EXPECT_THAT(r.err, HasSubstr("none.textproto"));
  r = Run("inspect " + Write("binary.textproto", std::string(100, '\0')));
  EXPECT_EQ(r.status, 1);
  EXPECT_THAT(r.err, HasSubstr("this is no recipe"));
}

TEST_F(CliTest, FullDiskIsAnError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP();
  const std::string command = std::string("'" CARRY_PROGRAM "' inspect ") +
                              kQuickstart + " >/dev/full 2>" + dir_ + "/err";
  const int status = std::system(command.c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_THAT(Slurp(dir_ + "/err"), HasSubstr("standard output"));
}

}  // namespace
}  // namespace carry
