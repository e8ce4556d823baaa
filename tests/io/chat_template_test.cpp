#include <mtpx/io/chat_template_files.hpp>

#include "support.hpp"

#include <doctest/doctest.h>

using namespace mtpx;
using mtpx_test::Folder;

TEST_SUITE_BEGIN("mtpx/text/chat_template.hpp");

namespace {

using Variables = TemplateValue::Pairs;

Json chat_goldens() {
  return Json::parse(InputFile("test", "tests/golden/chat_templates.json").read_text(1 << 20));
}

Variables variables_of(const Json& json) {
  Variables all;
  for (const auto& [name, value] : json.items()) all.emplace_back(name, template_value(value));
  return all;
}

constexpr std::time_t second_day = 86400 + 43200;  // in every time zone but two

/// What a template makes of nothing but n = 3 and a message, or why it does not.
std::string chat_text(const std::string& text, TemplateLimits limits = {}) {
  const Variables variables{{"n", 3}, {"m", Variables{{"role", "user"}, {"content", "hi"}}}};
  try {
    return ChatTemplate(text, "f", limits).render(variables, second_day);
  } catch (const FileError& error) {
    const std::string head = "[template] f: ", what = error.what();
    REQUIRE(what.starts_with(head));
    return what.substr(head.size());
  }
}

}  // namespace

TEST_CASE("chat templates: the text is jinja2's, as transformers sets it up") {
  const Json golden = chat_goldens();
  std::map<std::string, ChatTemplate> families;
  for (const auto& [name, text] : golden["families"].items())
    families.emplace(name, ChatTemplate(text.get<std::string>(), name));
  for (const Json& one : golden["cases"]) {
    Variables variables = variables_of(golden["conversations"][one[1].get<std::string>()]);
    for (auto& pair : variables_of(golden["common"])) variables.push_back(std::move(pair));
    INFO(one[0] << " " << one[1]);
    CHECK(families.at(one[0].get<std::string>()).render(variables, second_day) == one[2].get<std::string>());
  }
  const Variables values = variables_of(golden["values"]);
  for (const Json& one : golden["pieces"]) {
    INFO(one[0]);
    CHECK(ChatTemplate(one[0].get<std::string>(), "piece").render(values, second_day) ==
          one[1].get<std::string>());
  }
}

TEST_CASE("chat templates: as docs/chat.md shows them") {
  const ChatTemplate chat("{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}", "mine");
  const Variables hello{{"role", "user"}, {"content", " hello "}};
  CHECK(chat.render({{"messages", TemplateValue::list_of({hello})}}) == "<user>hello");
}

TEST_CASE("chat templates: what is not known is refused by name, line and column") {
  const auto refused = [](const std::string& text, const std::string& why) {
    INFO(text);
    CHECK(chat_text(text) == why);
  };
  refused("a\nb {% include 'x' %}", "line 2, column 6: the tag 'include' is not supported");
  refused("é{{ n | shuffle }}", "line 1, column 9: the filter 'shuffle' is not supported");
  refused("{{ n is shiny }}", "line 1, column 6: the test 'shiny' is not supported");
  refused("{{ 2 ** n }}", "line 1, column 6: the operator '**' is not supported");
  refused("{{ lipsum() }}", "line 1, column 4: the name 'lipsum' is not supported");
  refused("{% for i in [] recursive %}{% endfor %}", "line 1, column 16: a loop that is recursive");
  refused("{% for i in [] %}{% macro f() %}{% endmacro %}{% endfor %}",
          "line 1, column 21: a macro inside of a loop, a block of set or another macro");
  refused("{{ 'ab'.zfill(5) }}", "line 1, column 8: the method 'zfill' of a text");
  refused("{{ m.update({}) }}", "line 1, column 5: the method 'update' of a mapping");
  refused("{{ [].append(1) }}", "line 1, column 6: the method 'append' of a list");
  refused("{{ m.items }}", "line 1, column 5: 'items' of a mapping without a call");
  refused("{{ m.__class__ }}", "line 1, column 5: the attribute '__class__'");
  refused("{{ 'a'|trim(colour=1) }}", "line 1, column 8: 'trim' with the argument 'colour'");
  refused("{{ 'É'|lower }}", "line 1, column 8: upper and lower case of 'É': only of ASCII");
  refused("{{ '%d' % 3 }}", "line 1, column 9: '%' of a text and a number");
  refused("{{ nothing.more }}", "line 1, column 11: 'nothing' is undefined");
  refused("{{ nothing() }}", "line 1, column 4: 'nothing' is undefined");
  refused("{{ m.role + 1 }}", "line 1, column 11: '+' of a text and a number");
  refused("{{ raise_exception('roles must ' ~ 'alternate') }}", "line 1, column 4: roles must alternate");
  refused("{% set m.role = 1 %}", "line 1, column 4: 'm' is no namespace, so its attributes cannot be set");
  refused("{{ l = 1 }}", "line 1, column 6: '=' where the tag should end");
  refused("{{ (1 }}", "line 1, column 7: '}' closes nothing");
  refused("{{ 'a }}", "line 1, column 4: a string that does not end");
  refused("{% if n %}x", "line 1, column 12: the template ends where 'endif' should stand");
  refused("{% endif %}", "line 1, column 4: the tag 'endif' is not supported");
  refused("{# a", "line 1, column 1: a comment that does not end");
  refused("{{ 9223372036854775807 + 1 }}", "line 1, column 24: a number of more than 63 bits");
  refused("{{ range(1000000) }}", "line 1, column 4: a range of more than 100000 numbers");
  refused("{{ 1 // 0 }}", "line 1, column 6: a division by zero");
  refused("{% set x = m.items()|items %}", "line 1, column 22: 'items' of a list");
  refused("{% set x = [1]|map('string') %}{{ x|join }}{{ x|join }}",
          "line 1, column 49: what a filter gave is gone through twice: make a list of it");
}

TEST_CASE("chat templates: whoever means harm gets one clear line") {
  const auto starts = [](const std::string& text, const std::string& why) {
    INFO(text.substr(0, 60));
    const std::string said = chat_text(text, {.steps = 20000, .bytes = 100000});
    CHECK(said.substr(0, 300).find(why) != std::string::npos);
    CHECK(said.size() < 200);
  };
  const auto many = [](const std::string& text, int count) {
    std::string all;
    for (int i = 0; i < count; ++i) all += text;
    return all;
  };
  starts(many("{% for i in range(99999) %}", 4) + many("{% endfor %}", 4), "more than 20000 steps");
  starts(
      "{% set x = namespace(a='0123456789') %}{% for i in range(99) %}{% set x.a = x.a ~ x.a %}{% endfor %}",
      "a text of more than 100000 bytes");
  starts("{{ 'x' * 99999999 }}", "a text of more than 100000 bytes");
  starts("{{ 'x' * 60000 }}{{ 'x' * 60000 }}", "a text of more than 100000 bytes");
  starts("{% set x = 'a' * 90000 %}{% for i in range(9999) %}{{ x in x }}{% endfor %}",
         "more than 20000 steps");
  starts("{% set x = namespace(a=[]) %}{% for i in range(99) %}{% set x.a = [x.a, x.a] %}{% endfor %}",
         "a value nested deeper than 64");
  starts(
      "{% set x = namespace(a=[]) %}{% for i in range(50) %}{% set x.a = [x.a, x.a] %}{% endfor %}{{ x.a == "
      "x.a }}",
      "more than 20000 steps");
  std::string names, keys;
  for (int i = 0; i < 2500; ++i) {
    names += cat("{% set x", i, " = 1 %}");
    keys += cat("'", i, "': 1,");
  }
  starts(names, "more than 20000 steps");
  starts("{{ {" + keys + "} }}", "more than 20000 steps");
  starts("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls nested deeper than 300");
  starts("{{ " + many("(", 5000) + "1" + many(")", 5000) + " }}", "what is nested deeper than 100");
  starts("{{ " + many("not ", 5000) + "1 }}", "what is nested deeper than 100");
  starts("{{ " + many("-", 5000) + "1 }}", "what is nested deeper than 100");
  starts("{{ 1" + many(" + 1", 5000) + " }}", "an expression nested deeper than 100");
  starts("{{ m" + many(".a", 5000) + " }}", "an expression nested deeper than 100");
  starts("{{ n" + many("|abs", 5000) + " }}", "an expression nested deeper than 100");
  starts("{{ n" + many(" if n else n", 5000) + " }}", "what is nested deeper than 100");
  starts(many("{% if n %}", 5000), "what is nested deeper than 100");
  CHECK(chat_text("{% set x = namespace() %}{% set x.a = [x] %}{{ x.a == x.a }}") == "True");
  CHECK(chat_text("0123456789", {.bytes = 8}) == "line 1, column 1: a text of more than 8 bytes");
  CHECK(chat_text("{{ (' a' * 20000).split()|length }}") == "20000");
}

TEST_CASE("chat templates: where a folder has its own") {
  const Folder folder;
  const auto said = [&](const std::filesystem::path& file = {}) {
    const ChatFormat format = read_chat_format(folder.root, file);
    std::string all = format.chat.render({});
    for (const auto& [name, text] : format.tokens) all += cat(' ', name, '=', text);
    return all;
  };
  CHECK(folder.error([&] { said(); })
            .ends_with(": has no chat template, neither chat_template.jinja nor chat_template in "
                       "tokenizer_config.json; --template names a "
                       "file that has one"));
  folder.write("tokenizer_config.json",
               R"({"chat_template": "one", "bos_token": null, "eos_token": {"content": "</s>"}})");
  CHECK(said() == "one eos_token=</s>");
  folder.write("tokenizer_config.json",
               R"({"bos_token": "<s>", "chat_template": [{"name": "tool_use", "template": "tools"},
    {"name": "default", "template": "two"}]})");
  CHECK(said() == "two bos_token=<s>");
  folder.write("chat_template.jinja", "three\n");
  CHECK(said() == "three bos_token=<s>");
  CHECK(said(folder.write("other", "four")) == "four bos_token=<s>");
  folder.write("other", "a\xff");
  CHECK(folder.error([&] { said(folder.root / "other"); }) ==
        "[template] other: line 1, column 2: not UTF-8");
  CHECK(folder.error([&] { said(folder.root / "none"); }) ==
        "[template] none: cannot be opened: No such file or directory");
  folder.write("chat_template.jinja", "{% if %}");
  CHECK(folder.error([&] { said(); }) ==
        "[template] chat_template.jinja: line 1, column 7: the end of the tag where an expression should "
        "stand");
  std::filesystem::remove(folder.root / "chat_template.jinja");
  folder.write("tokenizer_config.json", R"({"chat_template": [{"name": "tool_use", "template": "tools"}]})");
  CHECK(folder.error([&] { said(); }) ==
        "[template] tokenizer_config.json: chat_template has none that is named "
        "\"default\"");
  folder.write("tokenizer_config.json", R"({"chat_template": "x", "eos_token": 3})");
  CHECK(folder.error([&] { said(); }) == "[template] tokenizer_config.json: eos_token = 3: must be a text");
  folder.write("tokenizer_config.json", "[]");
  CHECK(folder.error([&] { said(); }) == "[template] tokenizer_config.json: is not an object");
}

TEST_SUITE_END();
