// The model that `mtpx score --device reference` runs, instantiated once: on the plain equations.

#include "model.hpp"

#include <mtpx/reference.hpp>

namespace mtpx {
MTPX_SCORED_MODEL(, float, Reference)
MTPX_SCORED_MODEL(, double, Reference)
}  // namespace mtpx
