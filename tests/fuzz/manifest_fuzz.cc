// Manifests of any bytes: an error, or a manifest that reads back as it is.
#include <cstddef>
#include <cstdint>
#include <string>

#include "framework/io/checkpoint_folder.h"
#include "kernels/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto manifest =
      carry::ParseManifest({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!manifest.ok()) {
    CARRY_CHECK(!manifest.status().message().empty());
    return 0;
  }
  for (const carry::CheckpointFile& file : manifest->files) {
    CARRY_CHECK(file.size >= 0);
    CARRY_CHECK(file.name.find('/') == std::string::npos);
    CARRY_CHECK(file.name != "." && file.name != "..");
  }
  const std::string text = carry::ManifestText(*manifest);
  const auto again = carry::ParseManifest(text, "again");
  CARRY_CHECK(again.ok());
  CARRY_CHECK(carry::ManifestText(*again) == text);
  return 0;
}
