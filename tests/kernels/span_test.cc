#include "kernels/span.h"

#include <string>
#include <thread>

#include "gtest/gtest.h"

namespace carry {
namespace {

class Log : public SpanObserver {
 public:
  void Begin(const SpanInfo& info) override {
    text += std::string("(") + info.name;
  }
  void End() override { text += ")"; }
  std::string text;
};

TEST(Span, ObserverSeesNestedSpansOfItsThread) {
  Log log;
  { const Span unseen({.name = "before"}); }
  SetSpanObserver(&log);
  {
    const Span step({.name = "step"});
    { const Span a({.name = "a"}); }
    std::thread other([] { const Span unseen({.name = "other thread"}); });
    other.join();
    { const Span b({.name = "b"}); }
  }
  SetSpanObserver(nullptr);
  { const Span unseen({.name = "after"}); }
  EXPECT_EQ(log.text, "(step(a)(b))");
}

}  // namespace
}  // namespace carry
