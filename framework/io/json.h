// Strict JSON for the readers of this folder. Included by their .cc files only:
// nlohmann/json.hpp is slow to compile.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace carry {

using Json = nlohmann::json;

// Parses `text`. Errors start with `where` (a path) and name the byte. Unlike
// the library's own parser this one refuses a key that comes twice in an
// object, since two readers may then take different values, and nesting deeper
// than 32, which no format here needs.
absl::StatusOr<Json> ParseJson(absl::string_view text,
                               const std::string& where);

// The non-negative integer in `value`, of at most 2^63 - 1. Errors start with
// `where`, which names file and field.
absl::StatusOr<int64_t> JsonSize(const Json& value, const std::string& where);

// Quotes, cuts and escapes `text` from a file for an error message.
std::string Quoted(absl::string_view text);

}  // namespace carry
