#include "launch/recipe_text.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <cctype>
#include <climits>
#include <cstdint>
#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace carry {
namespace {

namespace pb = google::protobuf;

// Protobuf counts a tab as up to eight columns; editors count it as one byte.
size_t OffsetOf(absl::string_view text, int line, int column) {
  size_t offset = 0;
  for (; line > 0; --line) {
    size_t end = text.find('\n', offset);
    if (end == absl::string_view::npos) return text.size();
    offset = end + 1;
  }
  for (int at = 0; at < column && offset < text.size(); ++offset) {
    if (text[offset] == '\n') break;
    at += text[offset] == '\t' ? 8 - at % 8 : 1;
  }
  return offset;
}

std::string Place(absl::string_view text, const std::string& source,
                  size_t offset) {
  offset = std::min(offset, text.size());
  absl::string_view before = text.substr(0, offset);
  size_t line = 1 + std::count(before.begin(), before.end(), '\n');
  size_t newline = before.rfind('\n');
  size_t column =
      newline == absl::string_view::npos ? offset + 1 : offset - newline;
  return absl::StrCat(source, ":", line, ":", column);
}

// The last whole word `name` at or before `offset`: the parser reports an
// unknown name when it stands at the token behind it.
size_t NameAtOrBefore(absl::string_view text, size_t offset,
                      absl::string_view name) {
  auto part_of_name = [&](size_t i) {
    return i < text.size() &&
           (std::isalnum(static_cast<unsigned char>(text[i])) ||
            text[i] == '_');
  };
  for (size_t at = text.rfind(name, offset);
       !name.empty() && at != absl::string_view::npos;
       at = text.rfind(name, at - 1)) {
    bool whole =
        (at == 0 || !part_of_name(at - 1)) && !part_of_name(at + name.size());
    if (whole) return at;
    if (at == 0) break;
  }
  return offset;
}

// The first error, and where.
class FirstError : public pb::io::ErrorCollector {
 public:
  void AddError(int line, pb::io::ColumnNumber column,
                const std::string& message) override {
    if (failed) return;
    failed = true;
    line_ = std::max(line, 0);
    column_ = std::max<int>(column, 0);
    message_ = message;
  }
  void AddWarning(int, pb::io::ColumnNumber, const std::string&) override {}

  size_t Offset(absl::string_view text) const {
    return OffsetOf(text, line_, column_);
  }
  const std::string& message() const { return message_; }
  bool failed = false;

 private:
  int line_ = 0;
  int column_ = 0;
  std::string message_;
};

// Calls visit for every message type that `type` can hold, itself first.
// Schemas are trees.
void ForEachType(const pb::Descriptor& type, const std::string& path,
                 const std::function<void(const pb::Descriptor&,
                                          const std::string& path)>& visit) {
  visit(type, path);
  for (int i = 0; i < type.field_count(); ++i) {
    const pb::FieldDescriptor& field = *type.field(i);
    if (field.message_type() != nullptr) {
      ForEachType(*field.message_type(), absl::StrCat(path, field.name(), "."),
                  visit);
    }
  }
}

// The text between the n-th pair of double quotes, from 0.
std::string Quoted(const std::string& message, size_t n) {
  std::vector<std::string> parts = absl::StrSplit(message, '"');
  return 2 * n + 1 < parts.size() ? parts[2 * n + 1] : "";
}

// Protobuf's words for an error, in ours where ours say more. Moves `offset` to
// the name in question.
std::string Explain(const std::string& message, absl::string_view text,
                    const pb::Descriptor& root, size_t* offset) {
  if (absl::StartsWith(message, "Message type \"")) {
    const std::string name = Quoted(message, 1);
    std::string better;
    ForEachType(root, "", [&](const pb::Descriptor& type, const std::string&) {
      if (type.full_name() == Quoted(message, 0) && better.empty()) {
        better = UnknownField(type, name, root);
      }
    });
    if (!better.empty()) {
      *offset = NameAtOrBefore(text, *offset, name);
      return better;
    }
  }
  if (absl::StartsWith(message, "Unknown enumeration value of \"")) {
    const std::string name = Quoted(message, 0);
    const std::string field_name = Quoted(message, 1);
    std::string better;
    ForEachType(root, "", [&](const pb::Descriptor& type, const std::string&) {
      const pb::FieldDescriptor* field = type.FindFieldByName(field_name);
      if (field != nullptr && field->enum_type() != nullptr) {
        better =
            absl::StrCat(field_name, " has no value '", name, "'",
                         Suggestion(name, ValueNames(*field->enum_type())));
      }
    });
    if (!better.empty()) {
      *offset = NameAtOrBefore(text, *offset, name);
      return better;
    }
  }
  if (absl::StartsWith(message, "Expected integer")) {
    return absl::StrCat(message, "; this field is a whole number");
  }
  return message;
}

void RecordPlaces(absl::string_view text, const std::string& source,
                  const pb::Message& message,
                  const pb::TextFormat::ParseInfoTree& tree,
                  const std::string& prefix, FieldPlaces* places) {
  const pb::Descriptor& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const pb::FieldDescriptor* field = type.field(i);
    int index = field->is_repeated() ? 0 : -1;
    auto at = tree.GetLocation(field, index);
    if (at.line < 0) continue;
    std::string path = absl::StrCat(prefix, field->name());
    (*places)[path] = Place(text, source, OffsetOf(text, at.line, at.column));
    if (field->message_type() == nullptr || field->is_repeated()) continue;
    auto* nested = tree.GetTreeForNested(field, index);
    if (nested == nullptr) continue;
    RecordPlaces(text, source,
                 message.GetReflection()->GetMessage(message, field), *nested,
                 path + ".", places);
  }
}

}  // namespace

absl::Status ParseText(absl::string_view text, const std::string& source,
                       pb::Message* message, FieldPlaces* places) {
  if (text.size() >= INT_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", text.size(), " bytes is no recipe"));
  }
  pb::io::ArrayInputStream input(text.data(), static_cast<int>(text.size()));
  FirstError error;
  pb::TextFormat::ParseInfoTree tree;
  pb::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  parser.WriteLocationsTo(&tree);
  parser.SetRecursionLimit(32);
  if (!parser.Parse(&input, message) || error.failed) {
    size_t offset = error.Offset(text);
    std::string what =
        Explain(error.message(), text, *message->GetDescriptor(), &offset);
    return absl::InvalidArgumentError(
        absl::StrCat(Place(text, source, offset), ": ", what));
  }
  RecordPlaces(text, source, *message, tree, "", places);
  return absl::OkStatus();
}

std::string NearestName(absl::string_view name,
                        const std::vector<std::string>& candidates) {
  std::string best;
  // Further away than a third of the letters is another word.
  size_t least = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t rows = name.size() + 1, columns = candidate.size() + 1;
    if (rows > 256) return "";
    std::vector<std::vector<size_t>> d(rows, std::vector<size_t>(columns));
    for (size_t i = 0; i < rows; ++i) {
      for (size_t j = 0; j < columns; ++j) {
        if (i == 0 || j == 0) {
          d[i][j] = i + j;
          continue;
        }
        size_t change = name[i - 1] == candidate[j - 1] ? 0 : 1;
        d[i][j] = std::min(
            {d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + change});
        if (i > 1 && j > 1 && name[i - 1] == candidate[j - 2] &&
            name[i - 2] == candidate[j - 1]) {
          d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
        }
      }
    }
    size_t distance = d[rows - 1][columns - 1];
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

std::vector<std::string> FieldNames(const pb::Descriptor& type) {
  std::vector<std::string> names;
  names.reserve(type.field_count());
  for (int i = 0; i < type.field_count(); ++i) {
    names.push_back(type.field(i)->name());
  }
  return names;
}

std::vector<std::string> ValueNames(const pb::EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) {
    const std::string& name = type.value(i)->name();
    if (!absl::EndsWith(name, "_DEFAULT")) names.push_back(name);
  }
  return names;
}

std::string Suggestion(absl::string_view name,
                       const std::vector<std::string>& candidates) {
  std::string nearest = NearestName(name, candidates);
  if (!nearest.empty()) return absl::StrCat("; did you mean '", nearest, "'?");
  return absl::StrCat("; it may be one of: ", absl::StrJoin(candidates, ", "));
}

std::string UnknownField(const pb::Descriptor& type, absl::string_view name,
                         const pb::Descriptor& root) {
  std::string elsewhere;
  ForEachType(root, "",
              [&](const pb::Descriptor& other, const std::string& path) {
                if (elsewhere.empty() &&
                    other.FindFieldByName(std::string(name)) != nullptr) {
                  elsewhere = absl::StrCat(path, name);
                }
              });
  const std::string what =
      absl::StrCat(type.name(), " has no field '", name, "'");
  if (!elsewhere.empty()) {
    return absl::StrCat(what, "; did you mean '", elsewhere, "'?");
  }
  return absl::StrCat(what, Suggestion(name, FieldNames(type)));
}

}  // namespace carry
