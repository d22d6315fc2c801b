#include "launch/recipe_field.h"

#include <cctype>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace carry {
namespace {

namespace pb = google::protobuf;

absl::Status Wants(const std::string& what, absl::string_view value) {
  return absl::InvalidArgumentError(
      absl::StrCat("wants ", what, ", not '", value, "'"));
}

// Sets a singular field, adds to a repeated one.
template <class Set, class Add, class Value>
absl::Status Store(pb::Message* message, const pb::FieldDescriptor* field,
                   Set set, Add add, const Value& value) {
  const pb::Reflection* reflection = message->GetReflection();
  if (field->is_repeated()) {
    (reflection->*add)(message, field, value);
  } else {
    (reflection->*set)(message, field, value);
  }
  return absl::OkStatus();
}

absl::Status SetString(pb::Message* message, const pb::FieldDescriptor* field,
                       absl::string_view value) {
  std::string out(value);
  if (absl::StartsWith(value, "\"")) {
    std::string error;
    if (value.size() < 2 || !absl::EndsWith(value, "\"") ||
        !absl::CUnescape(value.substr(1, value.size() - 2), &out, &error)) {
      return Wants("a string in double quotes", value);
    }
  }
  return Store(message, field, &pb::Reflection::SetString,
               &pb::Reflection::AddString, out);
}

// Splits "a, \"b, c\"" at the commas outside quotes.
std::vector<std::string> SplitList(absl::string_view list) {
  std::vector<std::string> items;
  std::string item;
  bool quoted = false;
  for (size_t i = 0; i < list.size(); ++i) {
    char c = list[i];
    if (quoted && c == '\\' && i + 1 < list.size()) {
      item += c;
      item += list[++i];
      continue;
    }
    if (c == '"') quoted = !quoted;
    if (c == ',' && !quoted) {
      items.emplace_back(absl::StripAsciiWhitespace(item));
      item.clear();
    } else {
      item += c;
    }
  }
  if (!absl::StripAsciiWhitespace(item).empty()) {
    items.emplace_back(absl::StripAsciiWhitespace(item));
  }
  return items;
}

absl::Status SetList(pb::Message* message, const pb::FieldDescriptor* field,
                     absl::string_view value, bool append) {
  if (!append) message->GetReflection()->ClearField(message, field);
  if (!absl::StartsWith(value, "[")) {
    return SetFieldFromText(message, field, value);
  }
  if (!absl::EndsWith(value, "]")) return Wants("a list [a, b]", value);
  for (const std::string& item : SplitList(value.substr(1, value.size() - 2))) {
    absl::Status status = SetFieldFromText(message, field, item);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status SetMessage(pb::Message* message, const pb::FieldDescriptor* field,
                        absl::string_view value, const std::string& where) {
  if (!absl::StartsWith(value, "{") || !absl::EndsWith(value, "}")) {
    return absl::InvalidArgumentError(absl::StrCat(
        "is a message; set one of its fields, such as ", field->name(), ".",
        field->message_type()->field_count() > 0
            ? field->message_type()->field(0)->name()
            : "",
        "=..., or all of them with ", field->name(), "={...}"));
  }
  std::string text(value.substr(1, value.size() - 2));
  FieldPlaces unused;
  return ParseText(text, where,
                   message->GetReflection()->MutableMessage(message, field),
                   &unused);
}

absl::Status Assign(pb::Message* message, const pb::FieldDescriptor* field,
                    absl::string_view value, bool append,
                    const std::string& where) {
  if (append && !field->is_repeated()) {
    return absl::InvalidArgumentError("is not a list; += adds to lists");
  }
  if (value.empty()) {
    if (!append) message->GetReflection()->ClearField(message, field);
    return absl::OkStatus();
  }
  if (field->is_repeated()) return SetList(message, field, value, append);
  if (field->message_type() != nullptr) {
    message->GetReflection()->ClearField(message, field);
    return SetMessage(message, field, value, where);
  }
  return SetFieldFromText(message, field, value);
}

// Replaces what is known of the places of `path` and all below it.
void RecordPlace(const std::string& path, const std::string& where,
                 FieldPlaces* places) {
  for (auto it = places->lower_bound(path); it != places->end();) {
    if (!absl::StartsWith(it->first, path)) break;
    bool below =
        it->first.size() == path.size() || it->first[path.size()] == '.';
    it = below ? places->erase(it) : std::next(it);
  }
  (*places)[path] = where;
}

}  // namespace

absl::Status SetFieldFromText(pb::Message* message,
                              const pb::FieldDescriptor* field,
                              absl::string_view value) {
  switch (field->cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_INT64: {
      int64_t number = 0;
      if (!absl::SimpleAtoi(value, &number)) {
        return Wants("a whole number", value);
      }
      return Store(message, field, &pb::Reflection::SetInt64,
                   &pb::Reflection::AddInt64, number);
    }
    case pb::FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t number = 0;
      if (!absl::SimpleAtoi(value, &number)) {
        return Wants("a whole number of at least 0", value);
      }
      return Store(message, field, &pb::Reflection::SetUInt64,
                   &pb::Reflection::AddUInt64, number);
    }
    case pb::FieldDescriptor::CPPTYPE_DOUBLE: {
      double number = 0;
      if (!absl::SimpleAtod(value, &number)) return Wants("a number", value);
      return Store(message, field, &pb::Reflection::SetDouble,
                   &pb::Reflection::AddDouble, number);
    }
    case pb::FieldDescriptor::CPPTYPE_BOOL: {
      if (value != "true" && value != "false") {
        return Wants("true or false", value);
      }
      return Store(message, field, &pb::Reflection::SetBool,
                   &pb::Reflection::AddBool, value == "true");
    }
    case pb::FieldDescriptor::CPPTYPE_ENUM: {
      const pb::EnumValueDescriptor* named =
          field->enum_type()->FindValueByName(std::string(value));
      if (named == nullptr) {
        return absl::InvalidArgumentError(
            absl::StrCat("has no value '", value, "'",
                         Suggestion(value, ValueNames(*field->enum_type()))));
      }
      return Store(message, field, &pb::Reflection::SetEnumValue,
                   &pb::Reflection::AddEnumValue, named->number());
    }
    case pb::FieldDescriptor::CPPTYPE_STRING:
      return SetString(message, field, value);
    default:
      return absl::UnimplementedError(
          absl::StrCat("has the type ", field->cpp_type_name(),
                       ", which recipes do not use"));
  }
}

absl::Status ApplySet(absl::string_view text, pb::Message* root,
                      FieldPlaces* places) {
  const size_t equals = text.find('=');
  if (equals == absl::string_view::npos || equals == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--set ", text, ": write path.to.field=value, such as ",
                     "--set training.steps=100"));
  }
  absl::string_view path = text.substr(0, equals);
  absl::string_view value = absl::StripAsciiWhitespace(text.substr(equals + 1));
  const bool append = absl::ConsumeSuffix(&path, "+");
  path = absl::StripAsciiWhitespace(path);
  const std::string where = absl::StrCat("--set ", path);

  pb::Message* message = root;
  const pb::FieldDescriptor* field = nullptr;
  for (absl::string_view name : absl::StrSplit(path, '.')) {
    if (field != nullptr) {
      if (field->message_type() == nullptr || field->is_repeated()) {
        return absl::InvalidArgumentError(absl::StrCat(
            where, ": ", field->name(), " has no fields of its own"));
      }
      message = message->GetReflection()->MutableMessage(message, field);
    }
    const pb::Descriptor& type = *message->GetDescriptor();
    field = type.FindFieldByName(std::string(name));
    if (field == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          where, ": ", UnknownField(type, name, *root->GetDescriptor())));
    }
  }
  absl::Status status = Assign(message, field, value, append, where);
  if (!status.ok()) {
    std::string what(status.message());
    if (!absl::StartsWith(what, where)) {
      what = absl::StrCat(where, ": ", field->name(), " ", what);
    }
    return absl::InvalidArgumentError(what);
  }
  RecordPlace(std::string(path), where, places);
  return absl::OkStatus();
}

}  // namespace carry
