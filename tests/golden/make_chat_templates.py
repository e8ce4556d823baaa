#!/usr/bin/env python3
"""Writes chat_templates.json beside this file: what jinja2, set up as transformers sets it up, makes of templates in the
style of each family of models, and of pieces of the language. The templates are our own.

  pip install jinja2 && python3 make_chat_templates.py
"""
import datetime
import json
import pathlib

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


def raise_exception(message):
    raise TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = lambda text: datetime.datetime(1970, 1, 2).strftime(text)

families = {
    "deepseek": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{%- set ns = namespace(system='', first=true, tool=false) -%}
{%- for m in messages if m['role'] == 'system' -%}
  {%- set ns.system = ns.system + ('' if ns.first else '\\n\\n') + m['content'] -%}{%- set ns.first = false -%}
{%- endfor -%}
{{ bos_token }}{{ ns.system }}
{%- for m in messages -%}
  {%- if m['role'] == 'user' -%}{{ '<｜User｜>' + m['content'] }}
  {%- elif m['role'] == 'assistant' and m['tool_calls'] is defined and m['tool_calls'] is not none -%}
    {%- for call in m['tool_calls'] -%}
      {{ ('<｜Assistant｜>' if loop.first else '\\n') + '<｜tool▁call▁begin｜>' + call['function']['name'] + '<｜tool▁sep｜>' + call['function']['arguments'] | tojson }}
    {%- endfor -%}
  {%- elif m['role'] == 'assistant' -%}
    {%- set content = m['content'] -%}
    {%- if '</think>' in content -%}{%- set content = content.split('</think>', 1)[1] -%}{%- endif -%}
    {{ '<｜Assistant｜></think>' + content + eos_token }}
  {%- elif m['role'] == 'tool' -%}{%- set ns.tool = true -%}{{ '<｜tool▁output｜>' + m['content'] }}
  {%- endif -%}
{%- endfor -%}
{% if add_generation_prompt and not ns.tool %}{{ '<｜Assistant｜>' }}{{ '<think>' if thinking else '</think>' }}{% endif %}
""",
    "kimi": """{% if tools -%}
    {{ '<|im_system|>tool_declare<|im_middle|>' -}}{{- tools | tojson(separators=(',', ':')) -}}{{ '<|im_end|>' -}}
{%- endif -%}
{%- for message in messages -%}
  {%- if loop.first and messages[0]['role'] != 'system' -%}
    {{ '<|im_system|>system<|im_middle|>You are a helpful assistant<|im_end|>' }}
  {%- endif -%}
  {{ {'user': '<|im_user|>', 'assistant': '<|im_assistant|>'}.get(message.role, '<|im_system|>') + message.role + '<|im_middle|>' }}
  {%- if message['content'] is string -%}
    {{- message['content'] -}}
  {%- else -%}
    {%- for part in message['content'] or [] -%}
      {%- if part['type'] == 'image' or 'image_url' in part -%}{{ '<|media|>' }}{%- else -%}{{ part['text'] }}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{ '<|im_assistant|>assistant<|im_middle|>' }}
{%- endif -%}
""",
    "glm": """[gMASK]<sop>
{%- if tools -%}
<|system|>
<tools>
{% for tool in tools %}
{{ tool | tojson(ensure_ascii=False) }}
{% endfor %}
</tools>{%- endif -%}
{%- macro visible(content) -%}
    {%- if content is string -%}
        {{- content }}
    {%- elif content is iterable and content is not mapping -%}
        {%- for item in content -%}
            {%- if item is mapping and item.type == 'text' -%}{{- item.text }}{%- elif item is string -%}{{- item }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{- content }}
    {%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(last_user=-1) %}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {% set ns.last_user = loop.index0 -%}
    {%- endif %}
{%- endfor %}
{% for m in messages %}
{%- if m.role == 'user' -%}<|user|>
{{ visible(m.content) }}
{{- '/nothink' if (enable_thinking is defined and not enable_thinking and not visible(m.content).endswith("/nothink")) else '' -}}
{%- elif m.role == 'assistant' -%}
<|assistant|>
{%- set thoughts = '' %}
{%- set content = visible(m.content) %}
{%- if m.reasoning_content is string %}
    {%- set thoughts = m.reasoning_content %}
{%- elif '</think>' in content %}
    {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
    {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{%- if loop.index0 > ns.last_user and thoughts -%}
{{ '\\n<think>' + thoughts.strip() + '</think>' }}
{%- else -%}
{{ '\\n<think></think>' }}
{%- endif -%}
{%- if content.strip() -%}
{{ '\\n' + content.strip() }}
{%- endif -%}
{% if m.tool_calls %}
{% for call in m.tool_calls %}
<tool_call>{{ call.function.name }}
{% for k, v in call.function.arguments.items() %}
<arg>{{ k }}: {{ v | tojson if v is not string else v }}</arg>
{% endfor %}
</tool_call>{% endfor %}
{% endif %}
{%- elif m.role == 'tool' -%}
{%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
    {{- '<|observation|>' }}
{%- endif %}
{{- '\\n' + m.content }}
{%- elif m.role == 'system' -%}
<|system|>
{{ visible(m.content) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    <|assistant|>{{- '\\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' -}}
{%- endif -%}
""",
    "qwen": """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(open=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.open and message.role == "user" and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.open = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content or '' %}
        {%- set thoughts = '' %}
        {%- if '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- generation %}
        {%- if loop.index0 > ns.last and (loop.last or thoughts) %}
            {{- '<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content }}
        {%- for call in message.tool_calls or [] %}
            {{- '<tool_call>\\n{"name": "' ~ call.function.name ~ '", "arguments": ' ~ call.function.arguments | tojson ~ '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
        {%- endgeneration %}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    "llama": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- endif %}
{%- endif %}
{#- The system's message goes first. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- if tools %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- for name, value in message.tool_calls[0].function.arguments | items %}
            {{- name + '="' ~ value + '"' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- endif %}
        {%- endfor %}
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" + message.content | tojson + "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "gigachat": """{#---- A macro that calls itself ----#}
{%- macro type_of(schema, indent="", step=2) -%}
\t{%- set known = ['minimum', 'maximum'] -%}
\t{# ---- by kind ---- #}
\t{%- if schema.get("type") == "object" -%}
\t\t{{- "{\\n" -}}
\t\t{%- for key, val in schema.get("properties", {}).items() -%}
\t\t\t{%- for line in val.get('description', '').split('\\n') if line.strip() -%}{{- indent + '// ' + line + '\\n' -}}{%- endfor -%}
\t\t\t{%- for k, v in val.items() if k in known -%}{{- indent + '// ' + k + ': ' ~ v ~ '\\n' -}}{%- endfor -%}
            {%- set inner = type_of(
                val,
                indent + (' ' * step),
                step=step
            ) -%}
\t\t\t{{- indent + key + ('' if key in schema.get("required", []) else '?') + ': ' + inner + ',\\n' -}}
\t\t{%- endfor -%}
\t\t{{- indent[:-step] + '}' -}}
\t{%- elif schema.enum is defined -%}
        {%- set ns = namespace(all = []) -%}
        {%- for one in schema['enum'] -%}{%- set ns.all = ns.all + ['"' ~ one ~ '"'] -%}{%- endfor -%}
        {{- ns.all | join(' | ') -}}
\t{%- else -%}
\t\t{{- schema.get("type") | default('any', true) -}}
\t{%- endif -%}
{%- endmacro -%}

{%- macro turn(message, role=None) -%}
    {%- if not role -%}
        {%- set role = message["role"] -%}
    {%- endif -%}
    {%- set content = message['content'] or '' -%}
    {{- role + marks.role_sep + (content if content is string else content | tojson(ensure_ascii=False)) + marks.message_sep -}}
{%- endmacro -%}

{%- set marks = namespace(
    role_sep="<|role_sep|>\\n",
    message_sep="<|message_sep|>\\n\\n"
) -%}
{%- set first -%}
A dialog follows.
`roles` are explained in it.
{%- endset -%}
{{- bos_token -}}
{{- turn({"role": "developer system", "content": first}) -}}
{%- if messages and messages[0]['role'] == 'system' -%}
    {{- turn(messages[0]) -}}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{%- if tools -%}
    {%- set lines = namespace(all = ['namespace functions {']) -%}
    {%- for tool in tools -%}
        {%- if tool.function -%}{%- set tool = tool.function -%}{%- endif -%}
        {%- set lines.all = lines.all + ['type ' ~ tool.name ~ ' = (_: ' ~ type_of(tool.parameters, "  ") ~ ') => any;'] -%}
    {%- endfor -%}
    {{- turn({'role': 'function descriptions', 'content': lines.all | join('\\n') + "\\n}"}) -}}
{%- endif -%}
{%- for message in messages -%}
    {# ---- one turn ---- #}
    {%- if message['role'] == 'tool' -%}
        {{- turn(message, role='function result') -}}
    {%- else -%}
        {{- turn(message) -}}
    {%- endif -%}
    {%- if loop.last and add_generation_prompt and message['role'] != 'assistant' -%}
        {{- 'assistant' + marks.role_sep -}}
    {%- endif -%}
{%- endfor -%}
""",
}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2, "on": [None, True, 1.5]}}}
conversations = {
    "one": {"messages": [user("Hi")]},
    "turns": {"messages": [{"role": "system", "content": " Be brief.\n"}, user(" Hi \n"),
                           assistant("<think>\nhm\n</think>\n\nHello é 😀"), user("And 日本?")]},
    "off": {"messages": [user("a /nothink"), assistant("b"), user("c")], "enable_thinking": False, "thinking": True},
    "ends": {"messages": [user("a"), assistant("<think>t</think>b")], "add_generation_prompt": False},
    "tools": {"messages": [user("w?"), assistant(None, tool_calls=[call]), {"role": "tool", "content": "rain"},
                           {"role": "tool", "content": "sun \"☀\""}],
              "tools": [{"type": "function", "function": {"name": "weather", "parameters": {
                  "type": "object", "required": ["city"], "properties": {
                      "city": {"type": "string", "description": "the \"city\"\n\nСтолица"},
                      "unit": {"type": "string", "enum": ["c", "f"]},
                      "days": {"type": "integer", "minimum": 1, "maximum": 2.5},
                      "at": {"type": "object", "properties": {"x": {}}}}}}}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image"}]}]},
    "none": {"messages": []},
}
common = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True, "tools": None, "documents": None}

values = {"n": 3, "neg": -7, "f": 2.5, "s": "abc def", "t": "  x,y,,z ", "u": "Tür 日本 😀", "e": "", "yes": True, "nil": None,
          "l": [1, "a", None, True, 2.0], "d": {"a": 1, "b": [1, {"c": "x"}], "k": "v"}, "q": "it's \"q\"\n\\",
          "m": [{"role": "user", "n": 2}, {"role": "tool"}, {"role": "user", "n": 5}]}
pieces = [
    "{{ n + 2 * 3 - 1 }} {{ 7 // 2 }} {{ neg // 2 }} {{ neg % 3 }} {{ 7 / 2 }} {{ -n }} {{ f * 2 }} {{ f % -2 }} {{ neg // f }}",
    "{{ 1e20 }} {{ 0.1 + 0.2 }} {{ 1e-5 }} {{ 123456789012345680.0 }} {{ 5.0 }} {{ 1_000 }} {{ 2 == 2.0 }} {{ true + 1 }}",
    "{{ s ~ n ~ nil ~ yes }} {{ 'a' 'b' }} {{ 'a' + 'b' * 3 }} {{ 1 ~ 2 ~ 3 }}", "{{ l }} {{ d }} {{ (1,) }} {{ (1, 'x') }} {{ q }} {{ [q] }}",
    "{{ s[0] }}{{ s[-1] }}{{ s[1:3] }}{{ s[::-1] }}{{ s[:-2] }}{{ s[5:1:-2] }}{{ s[9] }}{{ s[2:] }}{{ u[4:6] }}{{ u[::-2] }}",
    "{{ l[1:] }}{{ l[::2] }}{{ l[-2:] }}{{ l[::-1] }}{{ l[9:] }}{{ l[4] }}{{ l[-9:2] }}{{ l.1 }}{{ d.b[1].c }}{{ d['b'][0] }}",
    "{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 'a' < 'b' }} {{ not yes }} {{ n == 3 and s }} {{ e or 'x' }} {{ nil and 1 }} {{ 1 if e }}|",
    "{{ 'b' in s }} {{ 'z' not in s }} {{ 1 in l }} {{ 'a' in d }} {{ 'x' in nothing }} {{ nothing == other }} {{ nothing }}|{{ nothing ~ 1 }}",
    "{{ 'a' if n > 2 else 'b' }} {{ ('a' if no else 'b') if yes else 'c' }} {{ -n|abs }} {{ -(n)|string }} {{ (n - 5)|abs }}",
    "{{ t|trim }}|{{ s|upper }} {{ 'ABC d'|lower }} {{ 'aB c'|title }} {{ 'aB c'|capitalize }} {{ s|replace('a', 'xy') }} {{ s|length }} {{ u|length }} {{ d|count }}",
    "{{ 'a-b (c d'|title }} {{ \"o'x y1z\".title() }} {{ '日本 a'|upper }}", "{{ l|join('-') }} {{ d|join }} {{ s|join('.') }} {{ m|join(', ', attribute='role') }}",
    "{{ l|first }} {{ l|last }} {{ s|first }} {{ e|first }}| {{ l|reverse|list }} {{ s|reverse }} {{ s|list }} {{ d|list }} {{ d|items|list }}",
    "{{ nothing|default('x') }} {{ e|default('x') }}| {{ e|d('x', true) }} {{ nil|default('x') }} {{ nothing|d }}|{{ e|default('y', boolean=true) }}",
    "{{ '42'|int }} {{ ' -7 '|int }} {{ '4.9'|int }} {{ 'x'|int }} {{ 'x'|int(9) }} {{ f|int }} {{ '2.5'|float }} {{ n|float }} {{ 'y'|float(1.5) }} {{ yes|int }}",
    "{{ d|tojson }} {{ u|tojson }} {{ u|tojson(ensure_ascii=true) }} {{ q|tojson }} {{ l|tojson(separators=(',', ':')) }} {{ {'b': 1, 'a': []}|tojson(sort_keys=true) }}",
    "{{ d|tojson(indent=2) }}{{ []|tojson(indent=2) }}{{ [[], {}, [1]]|tojson(indent=1) }}", "{{ '\\x1f\\x7f\\u2028\\t'|tojson }} {{ 1.0|tojson }} {{ [true, none, -0.5]|tojson }}",
    "{{ m|selectattr('role', 'equalto', 'user')|map(attribute='n')|list }} {{ m|rejectattr('n')|list }} {{ m|selectattr('n', 'defined')|list|length }}",
    "{{ l|select('number')|list }} {{ l|reject('none')|list }} {{ l|select|list }} {{ ['a', 'b']|map('upper')|join }} {{ m|map(attribute='n', default=0)|list }}",
    "{{ t.strip() }}|{{ t.lstrip() }}|{{ t.rstrip() }}|{{ s.strip('af') }}|{{ t.split(',') }}{{ t.split() }}{{ t.split(',', 1) }}{{ t.rsplit(',', 1) }}",
    "{{ 'a  b c '.split(none, 1) }}{{ ' a b  c '.rsplit(none, 1) }}{{ ''.split() }}{{ ''.split('x') }}{{ '\u3000a\u2003b'.split() }}",
    "{{ s.startswith('ab') }} {{ s.endswith(('x', 'f')) }} {{ s.find('d') }} {{ u.find('本') }} {{ s.find('zz') }} {{ 'aaa'.count('aa') }} {{ s.replace('', '-') }} {{ 'aaa'.replace('a', 'b', 2) }}",
    "{{ ','.join(['a', 'b']) }} {{ 'prefix'.removeprefix('pre') }} {{ 'a.b'.removesuffix('.b') }} {{ 'a\\nb\\n'.splitlines() }} {{ s.upper().lower().capitalize() }}",
    "{{ d.get('a') }} {{ d.get('z') }} {{ d.get('z', 5) }} {{ d.keys()|list }} {{ d.values()|list }} {{ d.items()|list }} {{ d['z'] is defined }} {{ dict(x=1).x }}",
    "{{ n is defined }} {{ x is not defined }} {{ nil is none }} {{ s is string }} {{ d is mapping }} {{ l is iterable }} {{ l is sequence }} {{ d is sequence }} {{ n is number }} {{ yes is number }}",
    "{{ n is odd }} {{ n is even }} {{ 9 is divisibleby 3 }} {{ n is integer }} {{ f is float }} {{ yes is boolean }} {{ yes is true }} {{ 1 is true }} {{ n is eq 3 }} {{ n is in [1, 3] }} {{ n is gt(2) }} {{ range is callable }}",
    "{{ range(3)|list }} {{ range(1, 8, 3)|list }} {{ range(3, 0, -1)|join }} {{ strftime_now('%Y-%m-%d') }}",
    "{% for i in [] %}x{% else %}none{% endfor %}{% for i in l if i %}{{ loop.index }}/{{ loop.length }}{{ ' ' }}{% endfor %}{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for i in 'abc' %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }} {% endfor %}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% set x = 1 %}{% for i in l %}{{ x }}{% set x = x + 1 %}{{ x }} {% endfor %}{{ x }}{% if yes %}{% set x = 9 %}{% endif %}{{ x }}{% set a, b = 1, 2 %}{{ a + b }}",
    "{% set ns = namespace({'z': 1}, a=[], b='') %}{% for i in l %}{% set ns.a = ns.a + [i] %}{% set ns.b = ns.b ~ loop.index %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.z }}{{ ns.none }}|",
    "{% set x %} a {{ n }}{% set y = 5 %}{% endset %}{{ x }}|{{ y }}|{% set x | trim | upper %} b {% endset %}{{ x }}|",
    "{% macro f(a, b=2, c='x' ~ b) %}{{ a }}{{ b }}{{ c }}{{ n }}{% set n = 1 %}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(b=5) }} {{ f(1, c='y') }} {{ n }}{% set n = 8 %} {{ f('z')|upper }}",
    "{% macro down(k) %}{{ k }}{% if k > 0 %}{{ down(k - 1) }}{% endif %}{% endmacro %}{{ down(5) }}{% for i in l %}{{ down(0) }}{% endfor %}",
    "a\n{% if yes %}\nb\n{% endif %}\nc\n", "a\n  {% if yes %}\n  b\n  {% endif %}\n  c  {# note #}\n d {#- note -#} \n e\n",
    " {%- if yes %} x {%- endif -%} \n y {%+ if yes %} z {%+ endif +%}\n w", "{{ n }}\n{{- n }} {{ n -}}\n {{ n }}\n\n", "  {{ n }}\n\t{% set x = 1 %}\n{{ x }}\r\nz\rw\n",
    "{ {{ {'a': {'b': 1}}['a']['b'] }} } {% if {} %}x{% endif %}{{ '}}' }}{{ \"%}\" }}{# {{ #}{{ 'a\\n\\'\\\\\\q\\101\\x41\\u00e9' }}", "{#- only -#}", "", "\n", "x\n\n",
    "{% for i in l %}{{ s }}{% endfor %}{% set s = 1 %}{{ s }}", "{% if yes %}{% for i in [1] %}{{ s }}{% endfor %}{% set s = 1 %}{% endif %}{{ s }}",
    "{% for i in [1, 2] %}{% for j in [1] %}{{ t }}|{% endfor %}{% set t = 'x' %}{{ t }}{% endfor %}{% macro f() %}{{ q }}{% for i in [1] %}{{ s }}{% endfor %}{% set q, s = 1, 2 %}{{ q }}{% endmacro %}{{ f() }}",
    "{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}|", "{{ [1, [2, (3, 4)], {'a': none}] == [1.0, [2, (3, 4)], {'a': none}] }} {{ [1] == (1,) }} {{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }}",
]


def text_of(template, variables):
    return environment.from_string(template).render(**variables)


cases = []
for name, template in families.items():
    for key, conversation in conversations.items():
        try:
            cases.append([name, key, text_of(template, {**common, **conversation})])
        except Exception:  # what a template refuses is not text
            pass
out = {
    "common": common, "conversations": conversations, "families": families, "cases": cases, "values": values,
    "pieces": [[piece, text_of(piece, values)] for piece in pieces],
}


def line(value):
    return json.dumps(value, ensure_ascii=True)


parts = []
for key, value in out.items():
    if isinstance(value, list):
        parts.append(f'"{key}": [\n' + ",\n".join(map(line, value)) + "\n]")
    else:
        parts.append(f'"{key}": {{\n' + ",\n".join(f"{line(k)}: {line(v)}" for k, v in value.items()) + "\n}")
path = pathlib.Path(__file__).with_name("chat_templates.json")
path.write_text("{\n" + ",\n".join(parts) + "\n}\n")
print(f"{len(cases)} cases of {len(families)} families, {len(pieces)} pieces, {path.stat().st_size} bytes")
