// config.json of any bytes: an error, or a model that reads back as it is.
#include <cstddef>
#include <cstdint>

#include "framework/io/hf_config.h"
#include "kernels/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto model =
      carry::ParseHfConfig({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!model.ok()) {
    CARRY_CHECK(!model.status().message().empty());
    return 0;
  }
  const auto again = carry::ParseHfConfig(carry::HfConfigText(*model), "again");
  CARRY_CHECK(again.ok());
  CARRY_CHECK(again->SerializeAsString() == model->SerializeAsString());
  return 0;
}
