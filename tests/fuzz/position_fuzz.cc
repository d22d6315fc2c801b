// Data positions of any bytes: an error, or a position that reads back as it
// is.
#include <cstddef>
#include <cstdint>

#include "framework/data/batches.h"
#include "kernels/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto position = carry::DataPosition::FromJson(
      {reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!position.ok()) {
    CARRY_CHECK(!position.status().message().empty());
    return 0;
  }
  CARRY_CHECK(position->step >= 0);
  const auto again = carry::DataPosition::FromJson(position->ToJson(), "again");
  CARRY_CHECK(again.ok());
  CARRY_CHECK(again->ToJson() == position->ToJson());
  return 0;
}
