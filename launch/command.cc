#include "launch/command.h"

#include "kernels/parallel_for.h"

namespace carry {

void AddSetOption(CLI::App& app, std::vector<std::string>* sets) {
  app.add_option("--set", *sets,
                 "Change the recipe: path.to.field=value. Lists: field=[a, b] "
                 "or field+=a; field= goes back to the default. May be given "
                 "again")
      ->type_name("FIELD=VALUE")
      ->expected(1)
      ->take_all();
}

void AddThreadsOption(CLI::App& app) {
  app.add_option_function<int>(
         "--threads", [](int threads) { SetNumThreads(threads); },
         "Threads to compute with; default: the cores that this process may "
         "use")
      ->type_name("N")
      ->check(CLI::Range(1, 1024));
}

}  // namespace carry
