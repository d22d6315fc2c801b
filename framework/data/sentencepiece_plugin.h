// What the SentencePiece plug-in offers to the tokenizer.
//
// The library is not linked but loaded (see README.md): distributions ship it
// with a copy of Protocol Buffers inside, whose symbols collide with those of
// the real one. Its headers define absl::string_view as well, so only
// standard types cross this border. Errors are texts, empty on success; no
// exception crosses.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace carry {

// A loaded model. Its methods may be called from several threads.
class SentencePieceModel {
 public:
  virtual ~SentencePieceModel() = default;
  virtual int Size() const = 0;
  virtual std::string Encode(std::string_view text,
                             std::vector<int>* ids) const = 0;
  virtual std::string Decode(const std::vector<int>& ids,
                             std::string* text) const = 0;
};

struct SentencePieceApi {
  // From the bytes of a .model file.
  std::string (*load)(std::string_view serialized,
                      std::unique_ptr<SentencePieceModel>* model);
  // With the trainer's own arguments on the sentences that `next` gives until
  // it returns false; *serialized receives the bytes of a .model file.
  std::string (*train)(const std::map<std::string, std::string>& arguments,
                       const std::function<bool(std::string*)>& next,
                       std::string* serialized);
};

}  // namespace carry

extern "C" const carry::SentencePieceApi* CarrySentencePieceApi();
