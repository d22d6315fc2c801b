// CRC-32C (Castagnoli, polynomial 0x1EDC6F41 reflected), as event files want
// it.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace carry {

uint32_t Crc32c(absl::string_view data);

// A checksum of data that itself holds checksums would be weak; event files
// store this instead: ((crc >> 15) | (crc << 17)) + 0xa282ead8.
uint32_t MaskedCrc32c(absl::string_view data);

}  // namespace carry
