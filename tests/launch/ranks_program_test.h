// Runs the program under mpirun.
#pragma once

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/launch/program_test.h"

namespace carry {

class RanksProgramTest : public ProgramTest {
 protected:
  void SetUp() override {
    if (std::system("command -v mpirun >/dev/null 2>&1") != 0) {
      GTEST_SKIP() << "mpirun is not installed; bash launch/setup.sh does that";
    }
    for (const char* folder : {"data", "other/data"}) {
      for (int file = 0; file < 8; ++file) {
        std::string text = folder;
        for (int line = 0; line < 60; ++line) {
          text += "int value_" + std::to_string(file) + "_" +
                  std::to_string(line * 37 % 11) + " = " +
                  std::to_string(line) + ";\n";
        }
        Write(std::string(folder) + "/f" + std::to_string(file) + ".h", text);
      }
    }
    for (const char* folder : {"", "other/"}) {
      Write(std::string(folder) + "tiny.textproto", R"(
        model { hidden_size: 16 num_layers: 2 }
        data { train: "data" holdout_fraction: 0.3 }
        training {
          steps: 5 sequence_length: 101 batch_size: 4 micro_batch_size: 2
          chunk_length: 13 seed: 3
        }
        optimizer { learning_rate: 0.01 warmup_steps: 2 }
        checkpoint { every: 3 }
      )");
    }
  }

  // `programs` separated by ":", each with its own -n and arguments.
  Result Mpirun(const std::string& programs) {
    const std::string command =
        "cd " + dir_ +
        // OpenMPI keeps what it allocates in MPI_Init, also past its end.
        " && ASAN_OPTIONS=detect_leaks=0"
        " OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
        "mpirun --oversubscribe --bind-to none " +
        programs + " >out.txt 2>err.txt </dev/null";
    const int status = std::system(command.c_str());
    EXPECT_TRUE(WIFEXITED(status)) << command;
    return {WEXITSTATUS(status), Slurp(dir_ + "/out.txt"),
            Slurp(dir_ + "/err.txt")};
  }

  // `carry train tiny.textproto` on this mesh, in the folder `out`.
  Result TrainOn(int data, int sequence, const std::string& out,
                 const std::string& more = "") {
    const std::string d = std::to_string(data), s = std::to_string(sequence);
    return Mpirun("-n " + std::to_string(data * sequence) +
                  " '" CARRY_PROGRAM
                  "' train tiny.textproto --threads 1 --out " +
                  out + " --set parallel.data=" + d +
                  " --set parallel.sequence=" + s + " " + more);
  }

  // What a run logged, by line.
  std::vector<nlohmann::json> Metrics(const std::string& run) {
    std::vector<nlohmann::json> lines;
    std::istringstream text(Slurp(dir_ + "/" + run + "/metrics.jsonl"));
    for (std::string line; std::getline(text, line);) {
      lines.push_back(nlohmann::json::parse(line));
    }
    return lines;
  }

  // Of all steps and the last evaluation.
  std::vector<double> Losses(const std::string& run) {
    std::vector<double> losses;
    for (const nlohmann::json& line : Metrics(run)) {
      losses.push_back(line["loss"]);
    }
    return losses;
  }

  // As if the run had been killed after its checkpoint at step 3.
  void ForgetLastCheckpoint(const std::string& run) {
    EXPECT_GT(std::filesystem::remove_all(dir_ + "/" + run +
                                          "/checkpoints/step-000005"),
              0u);
  }
};

}  // namespace carry
