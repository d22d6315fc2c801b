#include "framework/nn/mixer.h"

#include "framework/nn/mamba.h"

namespace carry {

std::unique_ptr<Mixer> MakeMixer(const config::Model& model,
                                 const std::string& prefix,
                                 ParameterStore& store) {
  switch (model.mixer_case()) {
    case config::Model::kMamba:
      return std::make_unique<MambaMixer>(model, prefix, store);
    case config::Model::MIXER_NOT_SET:
      break;
  }
  CARRY_CHECK(false && "a resolved model names a mixer");
  return nullptr;
}

}  // namespace carry
