#include "launch/command.h"

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

}  // namespace carry
