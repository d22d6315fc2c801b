// The program `carry`.
//
// Exit status: 0, 1 for an error that a message on standard error explains, 2
// for a command line that makes no sense.
#include <CLI/CLI.hpp>
#include <iostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/runtime.h"
#include "launch/command.h"
#include "launch/ranks.h"
#include "launch/wait_policy.h"

namespace carry {
namespace {

std::string Version() {
  return absl::StrCat("carry ", CARRY_VERSION, ", ", CARRY_BUILD_TYPE,
                      " build, backends: cpu", cuda::Built() ? ", cuda" : "");
}

int Fail(const std::string& message, int exit_status) {
  std::cout.flush();
  std::cerr << "carry: error: " << message << "\n";
  return exit_status;
}

// "carry" or "carry train", for the hint where help is.
std::string CommandSoFar(const CLI::App& program) {
  std::string text = "carry";
  for (const CLI::App* app : program.get_subcommands()) {
    absl::StrAppend(&text, " ", app->get_name());
  }
  return text;
}

int Main(int argc, char** argv) {
  CLI::App program(
      "Carry trains state-space language models with exact gradients in the "
      "memory of one chunk.");
  program.set_version_flag("--version", Version());
  program.require_subcommand(1);
  program.footer("carry COMMAND --help says more, with an example.");
  const std::vector<Command> commands = {
      AddTrain(program),    AddBench(program),   AddEval(program),
      AddGenerate(program), AddPrepare(program), AddInspect(program),
      AddPlan(program)};
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Help and version come this way too.
    if (error.get_exit_code() == 0) return program.exit(error);
    return Fail(absl::StrCat(error.what(), "; see `", CommandSoFar(program),
                             " --help`"),
                2);
  }
  for (const Command& command : commands) {
    if (!command.app->parsed()) continue;
    const int exit_status = EndRanks(command.run());
    if (exit_status != 0) return exit_status;
  }
  std::cout.flush();
  // A full disk or closed pipe at the far end of standard output.
  if (!std::cout) return Fail("cannot write to standard output", 1);
  return 0;
}

}  // namespace
}  // namespace carry

int main(int argc, char** argv) {
  carry::StartWithShortSpin(argv);
  return carry::Main(argc, argv);
}
