#include "framework/data/sentencepiece_plugin.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <exception>
#include <unordered_map>
#include <utility>

namespace carry {
namespace {

// Runs `call`, which gives a library status, and returns its text.
template <typename Call>
std::string Guarded(const Call& call) {
  try {
    const sentencepiece::util::Status status = call();
    return status.ok() ? std::string() : status.ToString();
  } catch (const std::exception& e) {
    return e.what();
  }
}

class Model : public SentencePieceModel {
 public:
  sentencepiece::SentencePieceProcessor& processor() { return processor_; }

  int Size() const override { return processor_.GetPieceSize(); }
  std::string Encode(std::string_view text,
                     std::vector<int>* ids) const override {
    return Guarded([&] { return processor_.Encode(text, ids); });
  }
  std::string Decode(const std::vector<int>& ids,
                     std::string* text) const override {
    return Guarded([&] { return processor_.Decode(ids, text); });
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

class Sentences : public sentencepiece::SentenceIterator {
 public:
  explicit Sentences(const std::function<bool(std::string*)>& next)
      : next_(next) {
    Next();
  }
  bool done() const override { return done_; }
  void Next() override { done_ = !next_(&sentence_); }
  const std::string& value() const override { return sentence_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::function<bool(std::string*)>& next_;
  std::string sentence_;
  bool done_ = false;
};

std::string Load(std::string_view serialized,
                 std::unique_ptr<SentencePieceModel>* model) {
  auto loaded = std::make_unique<Model>();
  std::string error = Guarded(
      [&] { return loaded->processor().LoadFromSerializedProto(serialized); });
  if (error.empty()) *model = std::move(loaded);
  return error;
}

std::string Train(const std::map<std::string, std::string>& arguments,
                  const std::function<bool(std::string*)>& next,
                  std::string* serialized) {
  const std::unordered_map<std::string, std::string> map(arguments.begin(),
                                                         arguments.end());
  Sentences sentences(next);
  return Guarded([&] {
    return sentencepiece::SentencePieceTrainer::Train(map, &sentences,
                                                      serialized);
  });
}

}  // namespace
}  // namespace carry

extern "C" const carry::SentencePieceApi* CarrySentencePieceApi() {
  static constexpr carry::SentencePieceApi kApi = {carry::Load, carry::Train};
  return &kApi;
}
