// What llama.cpp makes of a GGUF file. Compiled by llama_test.sh against the sources and libraries that npm's
// node-llama-cpp has.
//   llama_check logits LIBRARIES FILE.gguf SAFETENSORS   relative errors of its logits for `tokens`, the
//   largest
//                                                        of all rows: main head's and, if there is one, MTP's
//   llama_check load LIBRARIES FILE.gguf -               how many ids there are
//   llama_check greedy LIBRARIES FILE.gguf COUNT TEXT    the text and COUNT tokens more
//   llama_check ids LIBRARIES FILE.gguf FILE             the ids of a text, as `mtpx tokenize --print` has
//   them

#include <mtpx/io/safetensors.hpp>

#include <ggml-backend.h>
#include <llama-ext.h>
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

using Rows = std::vector<std::vector<float>>;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "llama_check: %s\n", what);
  std::exit(1);
}

struct Model {
  llama_model* model;
  const llama_vocab* vocab;
  int width, tokens;

  explicit Model(const char* file) {
    llama_model_params params = llama_model_default_params();
    params.load_mtp = true;
    model = llama_model_load_from_file(file, params);
    if (model == nullptr) fail("the model cannot be loaded");
    vocab = llama_model_get_vocab(model);
    width = llama_model_n_embd(model);
    tokens = llama_vocab_n_tokens(vocab);
  }

  /// One thread, and caches in float.
  llama_context* context(llama_context_type type) const {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = 1024;
    params.n_threads = params.n_threads_batch = 1;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.ctx_type = type;
    llama_context* made = llama_init_from_model(model, params);
    if (made == nullptr) fail("no context");
    return made;
  }

  /// The logits behind each id; first: the position of the first one   states: [ids, width] that an MTP
  /// context reads beside them.
  Rows logits(llama_context* context, const std::vector<int>& ids, const std::vector<float>* states = nullptr,
              int first = 0) const {
    const auto count = static_cast<int>(ids.size());
    llama_batch batch = llama_batch_init(count, 0, 1);
    if (states != nullptr) batch.embd = const_cast<float*>(states->data());
    for (int i = 0; i < count; ++i) {
      batch.token[i] = ids[static_cast<std::size_t>(i)];
      batch.pos[i] = first + i;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = 1;
    }
    batch.n_tokens = count;
    if (llama_decode(context, batch) != 0) fail("decoding failed");
    Rows rows;
    for (int i = 0; i < count; ++i) {
      const float* row = llama_get_logits_ith(context, i);
      rows.emplace_back(row, row + tokens);
    }
    batch.embd = nullptr;
    llama_batch_free(batch);
    return rows;
  }

  std::vector<int> ids(const std::string& text) const {
    std::vector<int> all(text.size() + 8);
    const int count = llama_tokenize(vocab, text.data(), static_cast<int>(text.size()), all.data(),
                                     static_cast<int>(all.size()), true, false);
    if (count < 0) fail("no ids");
    all.resize(static_cast<std::size_t>(count));
    return all;
  }
};

double error(const Rows& got, const std::vector<float>& want, std::size_t first) {
  double worst = 0;
  for (std::size_t t = 0; t < got.size(); ++t) {
    double difference = 0, size = 0;
    for (std::size_t v = 0; v < got[t].size(); ++v) {
      const double wanted = want[first + t * got[t].size() + v];
      difference += std::pow(got[t][v] - wanted, 2);
      size += wanted * wanted;
    }
    worst = std::max(worst, std::sqrt(difference / size));
  }
  return worst;
}

void logits(const Model& model, const char* path) {
  const mtpx::SafeTensors file = mtpx::SafeTensors::open(path);
  const mtpx::SafeTensorsEntry& entry = file.at("tokens");
  const auto tokens = file.read<std::int64_t>(entry);
  const auto batch = static_cast<std::size_t>(entry.shape[0]),
             time = static_cast<std::size_t>(entry.shape[1]) - 1;
  const bool mtp = llama_model_n_layer_nextn(model.model) > 0;
  double main_error = 0, mtp_error = 0;
  for (std::size_t b = 0; b < batch; ++b) {
    const std::size_t begin = b * (time + 1), width = static_cast<std::size_t>(model.tokens);
    const std::vector<int> ids(tokens.begin() + static_cast<long>(begin),
                               tokens.begin() + static_cast<long>(begin + time));
    llama_context* trunk = model.context(LLAMA_CONTEXT_TYPE_DEFAULT);
    if (mtp) llama_set_embeddings_nextn(trunk, true, false);
    main_error = std::max(
        main_error, error(model.logits(trunk, ids), file.read<float>(file.at("logits.0")), b * time * width));
    if (mtp) {  // row i: the state behind id i, and id i + 1
      const float* states = llama_get_embeddings_nextn(trunk);
      const std::vector<float> kept(states, states + (time - 1) * static_cast<std::size_t>(model.width));
      llama_context* module = model.context(LLAMA_CONTEXT_TYPE_MTP);
      const Rows got = model.logits(module, {ids.begin() + 1, ids.end()}, &kept);
      mtp_error =
          std::max(mtp_error, error(got, file.read<float>(file.at("logits.1")), b * (time - 1) * width));
      llama_free(module);
    }
    llama_free(trunk);
  }
  std::printf(mtp ? "%.2e %.2e\n" : "%.2e\n", main_error, mtp_error);
}

void greedy(const Model& model, int count, std::string text) {
  std::vector<int> ids = model.ids(text);
  llama_context* context = model.context(LLAMA_CONTEXT_TYPE_DEFAULT);
  for (int i = 0, first = 0; i < count; ++i) {
    const std::vector<float> last = model.logits(context, ids, nullptr, first).back();
    first += static_cast<int>(ids.size());
    ids = {static_cast<int>(std::max_element(last.begin(), last.end()) - last.begin())};
    char piece[256];
    const int size = llama_token_to_piece(model.vocab, ids[0], piece, sizeof piece, 0, true);
    text.append(piece, static_cast<std::size_t>(std::max(size, 0)));
  }
  llama_free(context);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::putchar('\n');
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 5) fail("arguments");
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
      },
      nullptr);
  ggml_backend_load_all_from_path(arguments[2]);
  const std::string what = arguments[1];
  const Model model(arguments[3]);
  if (what == "load") std::printf("%d ids\n", model.tokens);
  if (what == "logits") logits(model, arguments[4]);
  if (what == "greedy") greedy(model, std::atoi(arguments[4]), arguments[5]);
  if (what == "ids") {
    std::string line = "[";
    for (const int id : model.ids(mtpx::InputFile("text", arguments[4]).read_text(1 << 28)))
      line += (line.size() > 1 ? "," : "") + std::to_string(id);
    std::puts((line + "]").c_str());
  }
}
