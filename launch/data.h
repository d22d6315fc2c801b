// A recipe's data, opened.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "framework/data/files.h"
#include "framework/data/tokenizer.h"
#include "recipes/schema/data.pb.h"

namespace carry {

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(
    const config::Tokenizer& tokenizer);

// The files to train on and those held out: `data.eval`, or the share of
// `data.train` that the seed chooses; none of `data.eval` is trained on.
// `held_out` is empty where the recipe asks for none.
absl::StatusOr<FileSplit> OpenFiles(const config::Data& data, uint64_t seed);

}  // namespace carry
