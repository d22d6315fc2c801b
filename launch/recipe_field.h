// Single fields of a recipe: values from text, and `--set` assignments.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "launch/recipe_text.h"

namespace carry {

// Sets (or, for a repeated field, adds) one value of a field that is not a
// message. Numbers and booleans as usual, enum values by name, strings as they
// are or in double quotes with C escapes. The error says what the field wants.
absl::Status SetFieldFromText(google::protobuf::Message* message,
                              const google::protobuf::FieldDescriptor* field,
                              absl::string_view value);

// Applies "path.to.field=value" to `root`. Messages on the way are made; in a
// oneof the field set last wins.
//   field=value          sets it; a repeated field then has that one element
//   field=[a, "b, c"]    all elements of a repeated field
//   field+=value         adds an element
//   field={x: 1 y: 2}    a message, in text format
//   field=               back to the default
// Errors begin with "--set path.to.field". Records the place in `places`.
absl::Status ApplySet(absl::string_view assignment,
                      google::protobuf::Message* root, FieldPlaces* places);

}  // namespace carry
