#include "framework/io/json.h"

#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace carry {
namespace {

constexpr size_t kMaxDepth = 32;

// Looks at each event once, before a document is built, so that what is
// refused has cost no memory.
class Checker : public nlohmann::json_sax<Json> {
 public:
  explicit Checker(std::string where) : where_(std::move(where)) {}
  const absl::Status& status() const { return status_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_array(std::size_t) override { return Enter(); }
  bool end_array() override { return Leave(); }
  bool start_object(std::size_t) override { return Enter(); }
  bool end_object() override { return Leave(); }

  bool key(string_t& key) override {
    if (keys_.back().insert(key).second) return true;
    return Fail(absl::StrCat("key ", Quoted(key), " comes twice"));
  }

  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("not valid JSON at byte ", position, ", near ",
                             Quoted(token)));
  }

 private:
  bool Enter() {
    keys_.emplace_back();
    if (keys_.size() <= kMaxDepth) return true;
    return Fail(absl::StrCat("JSON is nested deeper than ", kMaxDepth));
  }
  bool Leave() {
    keys_.pop_back();
    return true;
  }
  bool Fail(const std::string& what) {
    status_ = absl::InvalidArgumentError(absl::StrCat(where_, ": ", what));
    return false;
  }

  std::string where_;
  absl::Status status_;
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

absl::StatusOr<Json> ParseJson(absl::string_view text,
                               const std::string& where) {
  Checker checker(where);
  const char* begin = text.data();
  const char* end = begin + text.size();
  if (text.empty() || !Json::sax_parse(begin, end, &checker)) {
    if (!checker.status().ok()) return checker.status();
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": not valid JSON: it is empty"));
  }
  Json json = Json::parse(begin, end, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": not valid JSON"));
  }
  return json;
}

absl::StatusOr<int64_t> JsonSize(const Json& value, const std::string& where) {
  if (!value.is_number_unsigned()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, " must be a whole number of at least 0"));
  }
  const uint64_t size = value.get<uint64_t>();
  if (size > static_cast<uint64_t>(INT64_MAX)) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, " is ", size, ", more than 2^63 - 1"));
  }
  return static_cast<int64_t>(size);
}

std::string Quoted(absl::string_view text) {
  constexpr size_t kShown = 80;
  if (text.size() <= kShown) {
    return absl::StrCat("\"", absl::CHexEscape(text), "\"");
  }
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kShown)), "\"...");
}

}  // namespace carry
