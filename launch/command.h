// What the subcommands share: each is one file with one function that adds its
// options to the program and returns what to run.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace carry {

struct Command {
  CLI::App* app;
  // Called if the user chose `app`.
  std::function<absl::Status()> run;
};

Command AddTrain(CLI::App& program);
Command AddBench(CLI::App& program);
Command AddEval(CLI::App& program);
Command AddGenerate(CLI::App& program);
Command AddPrepare(CLI::App& program);
Command AddInspect(CLI::App& program);
Command AddPlan(CLI::App& program);

// A recipe and what changes it: the options of every command that reads one.
struct RecipeOptions {
  std::string path;
  std::vector<std::string> sets;
};

// Adds --set, which may be given again and again.
void AddSetOption(CLI::App& app, std::vector<std::string>* sets);

// Adds --threads, which takes effect as it is read.
void AddThreadsOption(CLI::App& app);

}  // namespace carry
