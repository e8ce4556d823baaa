// mtpx chat: a conversation with a model, as the template of its folder writes one.

#include "writing.hpp"

#include <mtpx/io/chat_template_files.hpp>

#include <csignal>
#include <optional>

namespace program {
namespace {

struct ChatFlags : WritingFlags {
  ModelSource model;
  std::string system, chat_template;
  std::vector<std::string> values;
  mtpx::Index context = 16384;
  DeviceOptions device;
};

/// Ctrl-C, from now on: it ends nothing by itself. A byte in a pipe tells who waits for input.
class Interrupts {
 public:
  Interrupts() {
    if (pipe(ends_) != 0) throw mtpx::Error("[chat] no pipe can be made");
    for (const int end : ends_) {
      ::fcntl(end, F_SETFL, ::fcntl(end, F_GETFL) | O_NONBLOCK);
      ::fcntl(end, F_SETFD, FD_CLOEXEC);
    }
    struct sigaction action {};
    action.sa_handler = [](int) {
      const int error = errno;
      (void)!::write(ends_[1], "", 1);
      errno = error;
    };
    action.sa_flags = SA_RESTART;
    ::sigaction(SIGINT, &action, &before_);
  }
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;
  ~Interrupts() {
    ::sigaction(SIGINT, &before_, nullptr);
    for (const int end : ends_) ::close(end);
  }

  int descriptor() const { return ends_[0]; }
  /// Whether one came since the last call.
  bool came() const {
    char byte = 0;
    bool any = false;
    while (::read(ends_[0], &byte, 1) == 1) any = true;
    return any;
  }

 private:
  inline static int ends_[2];  // what a handler can know
  struct sigaction before_ {};
};

/// The lines of standard input.
class InputLines {
 public:
  explicit InputLines(const Interrupts& interrupts) : interrupts_(interrupts) {}

  /// The next one; nothing at the end of the input, or when Ctrl-C comes first.
  std::optional<std::string> next() {
    while (true) {
      if (const std::size_t end = held_.find('\n'); end != std::string::npos) {
        std::string line = held_.substr(0, end);
        held_.erase(0, end + 1);
        return line;
      }
      pollfd both[] = {{STDIN_FILENO, POLLIN, 0}, {interrupts_.descriptor(), POLLIN, 0}};
      if (::poll(both, 2, -1) < 0 && errno != EINTR) return {};
      if ((both[1].revents & POLLIN) != 0) return {};
      if (both[0].revents == 0) continue;
      char bytes[4096];
      const ssize_t count = ::read(STDIN_FILENO, bytes, sizeof bytes);
      if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (count > 0) {
        held_.append(bytes, static_cast<std::size_t>(count));
        continue;
      }
      if (held_.empty()) return {};
      return std::exchange(held_, "");  // a last line without an end
    }
  }

 private:
  const Interrupts& interrupts_;
  std::string held_;
};

/// NAME=JSON, as variables of a template.
mtpx::TemplateValue::Pairs read_values(const std::vector<std::string>& given) {
  mtpx::TemplateValue::Pairs values;
  for (const std::string& one : given) {
    const std::size_t equals = one.find('=');
    if (equals == 0 || equals == std::string::npos)
      throw mtpx::ConfigError(mtpx::cat("[chat] --set ", one, ": must be NAME=JSON"));
    values.emplace_back(one.substr(0, equals), mtpx::template_value(mtpx::parse_json(
                                                   "chat", one.substr(equals + 1), "--set " + one)));
  }
  return values;
}

/// A conversation. What the model has decoded of it is kept: an answer costs what is new, whatever the
/// template does to what was said before.
template <typename T, typename D>
class Conversation {
 public:
  Conversation(const ChatFlags& o, const mtpx::Transformer<T, D>& model, mtpx::Tokenizer tokenizer,
               mtpx::ChatFormat format, const Interrupts& interrupts)
      : o_(o),
        config_(model.config),
        tokenizer_(std::move(tokenizer)),
        format_(std::move(format)),
        interrupts_(interrupts),
        values_(read_values(o.values)),
        decoder_(model, o.generate, 1, std::min(o.context, config_.max_position_embeddings)) {
    for (const auto& [name, text] : format_.tokens) values_.emplace_back(name, text);
    if (const std::string token = special_in(o.system); !token.empty())
      throw mtpx::ConfigError(mtpx::cat("[chat] --system holds ", token, ", a special token of the model"));
    reset();
  }

  void reset() {
    messages_.clear();
    if (!o_.system.empty()) messages_.push_back(message("system", o_.system));
  }

  /// Answers a line. Returns whether standard output still takes what is written; what cannot be answered is
  /// said, and forgotten.
  bool answer(const std::string& line) {
    const auto refuse = [&](const std::string& why) {
      std::cerr << "mtpx: [chat] " << why << std::endl;
      return true;
    };
    if (!mtpx::Utf8Stream::valid(line)) return refuse("the line is not valid UTF-8");
    if (const std::string token = special_in(line); !token.empty())
      return refuse(mtpx::cat("the line holds ", token, ", a special token of the model, and is not sent"));
    messages_.push_back(message("user", line));
    std::vector<std::int32_t> ids;
    try {
      ids = prompt();
    } catch (const mtpx::FileError& error) {
      messages_.pop_back();
      std::cerr << "mtpx: " << error.what() << std::endl;
      return true;
    }
    if (const mtpx::Index room = decoder_.cache().capacity; ids.empty() || std::ssize(ids) >= room) {
      messages_.pop_back();
      return refuse(mtpx::cat("the conversation would have ", ids.size(), " tokens, and there is room for ",
                              room - 1, ": the line is not sent; /reset begins another"));
    }
    Written text{Decoded(tokenizer_), mtpx::StopText(o_.stop), "", 0, -1};
    const bool goes_on = write_answer(ids, text);
    messages_.push_back(message("assistant", text.all));
    return goes_on;
  }

  void print_figures() const {
    mtpx::DecodeStatistics s = decoder_.statistics();
    s.tokens = tokens_;
    s.prefill_seconds = prefill_;
    s.decode_seconds = decode_;
    print_statistics(s, answers_, {});
    const DraftCounts counts(s);
    std::cerr << "drafted " << counts.drafted << " tokens, accepted " << counts.stood << "; context "
              << (answers_ > 0 ? std::ssize(decoder_.tokens()) : 0) << " of " << decoder_.cache().capacity
              << " tokens" << std::endl;
  }

 private:
  static mtpx::TemplateValue message(const char* role, const std::string& content) {
    return mtpx::TemplateValue::Pairs{{"role", role}, {"content", content}};
  }

  /// The first special token that stands in a text, which would be read as one: text of a person must not end
  /// a turn.
  std::string special_in(const std::string& text) const {
    for (const mtpx::AddedToken& token : tokenizer_.parts().added) {
      if (token.special && text.find(token.content) != std::string::npos) return token.content;
    }
    return "";
  }

  std::vector<std::int32_t> prompt() const {
    mtpx::TemplateValue::Pairs all = values_;  // --set comes first, and counts
    for (const char* absent : {"tools", "documents"}) all.emplace_back(absent, nullptr);
    all.emplace_back("add_generation_prompt", true);
    all.emplace_back("messages", mtpx::TemplateValue::list_of(messages_));
    return encode(tokenizer_, format_.chat.render(all), true);
  }

  bool write_answer(const std::vector<std::int32_t>& ids, Written& text) {
    const auto write = [&](const std::string& part) {
      std::cout << part << std::flush;
      return written();
    };
    const std::vector<std::int32_t>& ends = o_.generate.stop;
    Clock::time_point start = Clock::now();
    if (answers_ == 0) {
      decoder_.add(ids, o_.generate.seed);
    } else {
      decoder_.replace(0, ids, o_.generate.seed, o_.generate.sampling);
    }
    prefill_ += seconds_since(start);
    ++answers_;
    bool open = true, interrupted = false;
    while (true) {
      for (const std::int32_t token : decoder_.emitted()) {
        if (!open) break;
        ++tokens_;
        const bool end = std::find(ends.begin(), ends.end(), token) != ends.end();
        if (!end && !write(text.push(token))) return false;
        open = !end && !text.stop.found() && text.tokens < o_.generate.max_tokens;
      }
      interrupted = interrupts_.came();
      if (!open || interrupted || decoder_.full(0)) break;
      start = Clock::now();
      decoder_.step();
      decode_ += seconds_since(start);
    }
    if (!write(text.finish() + '\n')) return false;
    if (interrupted) std::cerr << "notice: the answer was interrupted" << std::endl;
    if (open && !interrupted) std::cerr << "notice: the context is full; /reset begins another" << std::endl;
    if (past_trained_window(config_, std::ssize(ids) + text.tokens) && !std::exchange(said_past_, true))
      say_if_past(config_, std::ssize(ids) + text.tokens);
    return true;
  }

  const ChatFlags& o_;
  const mtpx::Config& config_;
  const mtpx::Tokenizer tokenizer_;
  const mtpx::ChatFormat format_;
  const Interrupts& interrupts_;
  mtpx::TemplateValue::Pairs values_;
  mtpx::Speculator<T, D> decoder_;
  std::vector<mtpx::TemplateValue> messages_;
  mtpx::Index answers_ = 0, tokens_ = 0;
  double prefill_ = 0, decode_ = 0;
  bool said_past_ = false;
};

template <typename T, typename D>
void chat(ChatFlags o, const D& device) {
  const mtpx::Config config = o.model.config().config;
  o.read(config, o.model.folder);
  const mtpx::ChatFormat format = mtpx::read_chat_format(o.model.folder, o.chat_template);
  const mtpx::Tokenizer tokenizer = tokenizer_of(o.model.folder, config, o.model.options());
  auto loaded = o.model.load<T>(device);
  o.draft_vocabulary.set(loaded.model);
  if (const auto end = format.tokens.find("eos_token"); end != format.tokens.end()) {
    if (const mtpx::AddedToken* const token = tokenizer.added(end->second)) o.add_end(token->id);
  }
  const Interrupts interrupts;
  Conversation<T, D> conversation(o, loaded.model, tokenizer, format, interrupts);
  InputLines lines(interrupts);
  const bool person = ::isatty(STDIN_FILENO) == 1;
  while (true) {
    if (person) std::cout << "> " << std::flush;
    const std::optional<std::string> line = lines.next();
    if (!line || *line == "/exit") {
      if (person && !line) std::cout << std::endl;
      return;
    }
    if (line->empty()) continue;
    if (*line == "/reset") {
      conversation.reset();
    } else if (*line == "/stats") {
      conversation.print_figures();
    } else if (*line == "/help") {
      std::cerr
          << "/reset begins another conversation, /stats shows figures since the start, /exit ends, and so "
             "do Ctrl-D and Ctrl-C; during an answer Ctrl-C ends that alone. //text is the line /text\n";
    } else if (line->starts_with('/') && !line->starts_with("//")) {
      std::cerr << "mtpx: [chat] no such command: " << *line << "; /help tells which there are\n";
    } else if (!conversation.answer(line->substr(line->starts_with('/') ? 1 : 0))) {
      return;
    }
  }
}

}  // namespace

void add_chat(CLI::App& app) {
  auto options = std::make_shared<ChatFlags>();
  ChatFlags& o = *options;
  o.generate.max_tokens = 2048;
  o.model.decodes = true;
  CLI::App* command = app.add_subcommand(
      "chat", "Converse with a model: a line is a message, /help tells more; answers on standard output");
  o.model.add(*command)->required();
  command->add_option("--system", o.system, "What the conversation begins with, as the system's message");
  command->add_option("--template", o.chat_template, "File with a chat template, instead of the folder's");
  command
      ->add_option("--set", o.values,
                   "NAME=JSON: a variable of the template, such as enable_thinking=false. May be given again")
      ->allow_extra_args(false);
  command
      ->add_option("--context", o.context, "Tokens of a conversation to keep, of the model's context at most")
      ->check(CLI::Range(2, 1 << 30))
      ->capture_default_str();
  o.add(*command, "Most tokens of an answer");
  o.device.add(*command);
  command->callback([options] {
    with_numbers(options->device,
                 [&](auto number, const auto& device) { chat<decltype(number)>(*options, device); });
  });
}

}  // namespace program
