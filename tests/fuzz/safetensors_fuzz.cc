// safetensors of any bytes: an error, or views that lie in the file and cover
// it.
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "framework/io/safetensors.h"
#include "kernels/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view file(reinterpret_cast<const char*>(data), size);
  std::map<std::string, std::string> metadata;
  const auto tensors = carry::ParseSafetensors(file, "fuzz", &metadata);
  if (!tensors.ok()) {
    CARRY_CHECK(!tensors.status().message().empty());
    return 0;
  }
  int64_t total = 0;
  for (const carry::TensorView& t : *tensors) {
    CARRY_CHECK(t.data >= data && t.bytes >= 0);
    CARRY_CHECK(t.bytes <= static_cast<int64_t>(size) - (t.data - data));
    total += t.bytes;
    std::vector<float> values(t.elements());
    carry::CopyAsFloat(t, absl::MakeSpan(values)).IgnoreError();
  }
  CARRY_CHECK(total <= static_cast<int64_t>(size) - 8);
  return 0;
}
