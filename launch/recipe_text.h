// Protobuf text with errors that a person can act on: where, what, and the
// nearest name to one that does not exist.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace carry {

// Where each field of a message was set: "training.steps" -> "a.textproto:3:5",
// or "--set training.steps". A repeated field's elements share an entry.
using FieldPlaces = std::map<std::string, std::string>;

// Parses `text` into an empty `message`. `source` names it in errors, which
// read "source:line:column: what is wrong"; lines and columns count from 1,
// columns in bytes. Records in `places` where each field begins. Reports the
// first error. Any bytes are safe.
absl::Status ParseText(absl::string_view text, const std::string& source,
                       google::protobuf::Message* message, FieldPlaces* places);

// The candidate with the least edit distance to `name` (insertions, deletions,
// substitutions and swaps of neighbours), or "" where none is near.
std::string NearestName(absl::string_view name,
                        const std::vector<std::string>& candidates);

// The names of a message's fields, and of an enum's values except "..._DEFAULT"
// ones, which nobody needs to write.
std::vector<std::string> FieldNames(const google::protobuf::Descriptor& type);
std::vector<std::string> ValueNames(
    const google::protobuf::EnumDescriptor& type);

// "; did you mean 'steps'?", or "; it may be one of: ..." where none is near.
std::string Suggestion(absl::string_view name,
                       const std::vector<std::string>& candidates);

// "Training has no field 'stepz'; did you mean 'steps'?". Names the full path
// where the field exists elsewhere below `root`.
std::string UnknownField(const google::protobuf::Descriptor& type,
                         absl::string_view name,
                         const google::protobuf::Descriptor& root);

}  // namespace carry
