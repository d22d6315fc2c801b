// Numbers as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace carry {

// 950, 12.3K, 1.05M, 129M, 2.77B, 1.10T (powers of 1000, three digits).
std::string Human(double n);

// 4.2s, 3m05s, 2h07m, 3d04h.
std::string HumanSeconds(double seconds);

}  // namespace carry
