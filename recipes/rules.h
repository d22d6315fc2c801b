// What the schema's rules (schema/rule.proto) say, applied to messages.
#pragma once

#include <google/protobuf/message.h>

#include <string>

#include "absl/status/status.h"

namespace carry {

// Gives every unset field of `message` and of the messages below it the default
// of its rule, then checks that every value is in its rule's range and finite.
// Messages are made where they are missing, except in a oneof. Fields without a
// default, derived from others, stay unset.
//
// The error reads "prefix.path.of.field must be at least 1, not 0"; its path
// goes to `bad_field` if that is not null.
absl::Status ApplyRules(google::protobuf::Message* message,
                        const std::string& prefix, std::string* bad_field);

}  // namespace carry
