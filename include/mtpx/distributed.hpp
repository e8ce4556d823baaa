#pragma once
// One model on several processes: who they are, what each has of it, and what that takes. The wires, which
// need libraries or are a program's own, stand beside group.hpp.

#include <mtpx/comm/grid.hpp>
#include <mtpx/comm/group.hpp>
#include <mtpx/train/across_stages.hpp>
#include <mtpx/train/evaluate_parts.hpp>
#include <mtpx/train/layout.hpp>
#include <mtpx/train/layout_costs.hpp>
#include <mtpx/train/pipeline.hpp>
#include <mtpx/train/pipeline_passes.hpp>
#include <mtpx/train/plan.hpp>
#include <mtpx/train/sharded.hpp>
