// What a step will cost on a mesh, before anything runs: memory, bytes on the
// wire, time, and the share of it that ranks idle, for either schedule.
//
// Pure functions of a recipe's shapes and of a rank's rates. Time of a layer
// and token, forward, with F FLOPs of products, S = channels x states elements
// of the scan and A bytes that its tape holds:
//
//   f = F / products + S / scan_forward + A / other_forward
//   b = 2 F / products + S / scan_backward + A / other_backward
//
// WAVEFRONT is played through, layer by layer of each chunk on each rank in the
// order that it runs in (framework/train/streamed_pass.h, StreamOrder); what a
// rank waits for its neighbours is what comes out. PREFIX adds to each layer
// the summary passes, the gathers, and the second run of layers that keep no
// tape. Both end with the same reduction, update and gather of parameters.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "framework/train/memory_plan.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

// Of one rank with its threads, all ranks at work.
struct RankRates {
  double products = 0;      // FLOP/s of matrix products
  double scan_forward = 0;  // elements (token, channel, state) a second
  double scan_backward = 0;
  double summary = 0;  // PREFIX's passes, elements a second
  double gradient_summary = 0;
  // All else that a layer does, in bytes of its tape a second.
  double other_forward = 0;
  double other_backward = 0;
  double memory = 0;           // bytes a second that a copy reads and writes
  double message_seconds = 0;  // from a send to its arrival, of few bytes
  double message_bytes = 0;    // a second, of many
};

// Seconds of a whole chunk.
struct ChunkCosts {
  double forward = 0;   // of a layer
  double backward = 0;  // of a layer
  double head = 0;      // loss and its gradient
  double message = 0;   // a carry, from its rank to the next
};
struct Timeline {
  double seconds = 0;        // until the last rank is done
  std::vector<double> busy;  // by rank
  // Share of ranks x seconds in which nothing was computed.
  double Idle() const;
};
// A wavefront of `passes` passes in groups of PassesInFlight. The last of
// `chunks` chunks has `last` of a whole one's tokens.
Timeline PlayWavefront(int64_t ranks, int64_t layers, int64_t chunks,
                       double last, int64_t passes, int64_t tapes,
                       const ChunkCosts& costs);

struct StepPlan {
  // Of the recipe, with the schedule that was planned for.
  config::Parallel parallel;
  MemoryPlan memory;  // of one rank
  double seconds = 0;
  double idle = 0;  // share of ranks x seconds in which nothing is computed
  double tokens_per_second = 0;
  // Of all ranks together, handed over in a step: carries, summaries, halos;
  // gradients, weights, sums of losses and norms.
  int64_t carry_bytes = 0;
  int64_t other_bytes = 0;
  std::string refused;  // not empty: why it cannot run
};

// The recipe on its mesh with its schedule, which is not AUTO unless one rank
// has each sequence. `recipe` is resolved and has a vocab_size.
// `memory`: bytes that a rank may take.
StepPlan PlanStep(const config::Recipe& recipe, const RankRates& rates,
                  int64_t memory);

struct ScheduleChoice {
  config::Parallel::Schedule schedule;
  std::string why;
};
// What AUTO takes: of those that fit, the faster one; WAVEFRONT unless PREFIX
// is faster by 3%, since it has the bits of one rank.
ScheduleChoice ChooseSchedule(const config::Recipe& recipe,
                              const RankRates& rates, int64_t memory);

}  // namespace carry
