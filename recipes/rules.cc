#include "recipes/rules.h"

#include <google/protobuf/text_format.h>

#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "recipes/schema/rule.pb.h"

namespace carry {
namespace {

namespace pb = google::protobuf;

// Shortest of 15 or 17 digits that reads back as the same number.
std::string Number(double x) {
  std::string text = absl::StrFormat("%.15g", x);
  return std::strtod(text.c_str(), nullptr) == x ? text
                                                 : absl::StrFormat("%.17g", x);
}

std::string RangeText(const config::FieldRule& rule) {
  std::string text;
  auto add = [&](const char* words, double bound) {
    absl::StrAppend(&text, text.empty() ? "" : " and ", words, Number(bound));
  };
  if (rule.has_min()) add("at least ", rule.min());
  if (rule.has_above()) add("more than ", rule.above());
  if (rule.has_max()) add("at most ", rule.max());
  if (rule.has_below()) add("less than ", rule.below());
  return text.empty() ? "finite" : text;
}

bool InRange(const config::FieldRule& rule, double value) {
  return std::isfinite(value) && (!rule.has_min() || value >= rule.min()) &&
         (!rule.has_max() || value <= rule.max()) &&
         (!rule.has_above() || value > rule.above()) &&
         (!rule.has_below() || value < rule.below());
}

// What is wrong with a value, or "".
std::string RangeError(const pb::Message& message,
                       const pb::FieldDescriptor* field,
                       const config::FieldRule& rule) {
  const pb::Reflection& reflection = *message.GetReflection();
  double value = 0;
  std::string text;
  switch (field->cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_INT64:
      value = static_cast<double>(reflection.GetInt64(message, field));
      text = absl::StrCat(reflection.GetInt64(message, field));
      break;
    case pb::FieldDescriptor::CPPTYPE_DOUBLE:
      value = reflection.GetDouble(message, field);
      text = Number(value);
      break;
    case pb::FieldDescriptor::CPPTYPE_ENUM: {
      // Proto3 lets numbers through that have no name.
      const int number = reflection.GetEnumValue(message, field);
      if (field->enum_type()->FindValueByNumber(number) != nullptr) return "";
      return absl::StrCat("has no value ", number);
    }
    default:
      return "";
  }
  if (InRange(rule, value)) return "";
  return absl::StrCat("must be ", RangeText(rule), ", not ", text);
}

// What is wrong with a field that is not a message, or "".
std::string ApplyRule(pb::Message* message, const pb::FieldDescriptor* field) {
  const config::FieldRule& rule = field->options().GetExtension(config::rule);
  const pb::Reflection& reflection = *message->GetReflection();
  bool unset = !reflection.HasField(*message, field);
  // The value 0 of an enum is "..._DEFAULT".
  if (!unset && field->enum_type() != nullptr) {
    unset = reflection.GetEnumValue(*message, field) == 0;
  }
  if (unset) {
    if (rule.required()) return "is missing";
    if (!rule.has_default_()) return "";
    reflection.ClearField(message, field);
    if (!pb::TextFormat::ParseFieldValueFromString(rule.default_(), field,
                                                   message)) {
      return absl::StrCat("has the default '", rule.default_(),
                          "' in the schema, which is not of its type");
    }
  }
  return RangeError(*message, field, rule);
}

}  // namespace

absl::Status ApplyRules(pb::Message* message, const std::string& prefix,
                        std::string* bad_field) {
  const pb::Descriptor& type = *message->GetDescriptor();
  const pb::Reflection& reflection = *message->GetReflection();
  for (int i = 0; i < type.field_count(); ++i) {
    const pb::FieldDescriptor* field = type.field(i);
    if (field->is_repeated()) continue;
    const std::string path = absl::StrCat(prefix, field->name());
    if (field->message_type() == nullptr) {
      const std::string what = ApplyRule(message, field);
      if (what.empty()) continue;
      if (bad_field != nullptr) *bad_field = path;
      return absl::InvalidArgumentError(absl::StrCat(path, " ", what));
    }
    if (field->real_containing_oneof() != nullptr &&
        !reflection.HasField(*message, field)) {
      continue;
    }
    absl::Status status = ApplyRules(reflection.MutableMessage(message, field),
                                     path + ".", bad_field);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace carry
