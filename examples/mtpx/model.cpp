// The model that every subcommand runs, instantiated once.

#include "model.hpp"

namespace mtpx {
template struct Transformer<float, Cpu>;
template class Trainer<float, Cpu>;
template class Speculator<float, Cpu>;
template void initialize(Transformer<float, Cpu>&, std::uint64_t);
template MtpLoss<float, Cpu> mtp_loss(const Transformer<float, Cpu>&, const Forward<float, Cpu>&,
                                      const Batch<Cpu>&, const MtpLossOptions&);
template Evaluation evaluate(const Transformer<float, Cpu>&, const ValidationWindows&, bool);
template void save_model(const std::filesystem::path&, const Transformer<float, Cpu>&, const Json&, bool);
template LoadedModel<float, Cpu> load_model(const Cpu&, const std::filesystem::path&, SafeTensorsOptions);
}  // namespace mtpx
