#include "tests/host_cuda/device_memory.h"

namespace carry::testing {

void ForEachOrder(const std::function<void()>& body) {
  using host_cuda::Order;
  for (Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
    SCOPED_TRACE(static_cast<int>(order));
    host_cuda::SetOrder(order);
    body();
  }
  host_cuda::SetOrder(Order::kForward);
}

}  // namespace carry::testing
