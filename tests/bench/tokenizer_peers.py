#!/usr/bin/env python3
"""What Hugging Face's tokenizers and tiktoken make of the documents that tokenizer_bench.cpp cuts a text into.

Usage: tokenizer_peers.py encode TEXT TOKENIZER_JSON...    one thread; best of PEER_ROUNDS, 3
       tokenizer_peers.py train TEXT VOCABULARY LEARNT     BpeTrainer with the pattern of LEARNT, the tokenizer.json
                                                           that tokenizer_bench.cpp left; compares the merges
RAYON_NUM_THREADS says how many threads train.
"""
import json
import os
import sys
import time

import tokenizers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers


def documents_of(path):
    data, documents, least = open(path, "rb").read(), [], 1 << 16
    while data:
        line = data.find(b"\n", least) if len(data) > least else -1
        end = len(data) if line < 0 else line + 1
        documents.append(data[:end])
        data = data[end:]
    return [document.decode("utf-8") for document in documents]


def best(run):
    times = []
    for _ in range(int(os.environ.get("PEER_ROUNDS", "3"))):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return min(times), result


def bytes_of_letters():
    """The 256 bytes by the letters that tokenizer.json writes for them."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters, more = {chr(b): b for b in plain}, 256
    for byte in range(256):
        if byte not in plain:
            letters[chr(more)] = byte
            more += 1
    return letters


def tiktoken_of(parts):
    """tiktoken has one pattern: those of several splits become alternatives, which may cut elsewhere."""
    import tiktoken

    splits = parts["pre_tokenizer"]["pretokenizers"] if "pretokenizers" in parts["pre_tokenizer"] else [parts["pre_tokenizer"]]
    pattern = "|".join(s["pattern"]["Regex"] for s in splits if s["type"] == "Split")
    letters = bytes_of_letters()
    added = {token["content"] for token in parts["added_tokens"]}
    ranks = {}
    for text, rank in parts["model"]["vocab"].items():
        if text not in added and all(c in letters for c in text):
            ranks[bytes(letters[c] for c in text)] = rank
    return tiktoken.Encoding(name="file", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def encode(path, files):
    documents = documents_of(path)
    size = os.path.getsize(path) / 1e6
    for file in files:
        tokenizer = Tokenizer.from_file(file)
        name = os.path.basename(os.path.dirname(file))
        fast, all_ids = best(lambda: [e.ids for e in tokenizer.encode_batch_fast(documents, add_special_tokens=False)])
        each, _ = best(lambda: [tokenizer.encode(d, add_special_tokens=False).ids for d in documents])
        print(f"{name}: tokenizers {tokenizers.__version__}: encode_batch_fast {size / fast:.1f} MB/s, encode {size / each:.1f} MB/s, "
              f"{sum(map(len, all_ids))} ids", flush=True)
        try:
            other = tiktoken_of(json.load(open(file, encoding="utf-8")))
            seconds, ids = best(lambda: [other.encode_ordinary(d) for d in documents])
            same = sum(a == b for a, b in zip(ids, all_ids))
            print(f"{name}: tiktoken: encode_ordinary {size / seconds:.1f} MB/s, {sum(map(len, ids))} ids, "
                  f"{same} of {len(documents)} documents as tokenizers", flush=True)
        except Exception as error:  # an encoder that tiktoken refuses is a line of its own
            print(f"{name}: tiktoken: {type(error).__name__}: {str(error)[:200]}", flush=True)


def train(path, vocabulary, learnt):
    ours = json.load(open(learnt, encoding="utf-8"))
    splits = ours["pre_tokenizer"].get("pretokenizers", [ours["pre_tokenizer"]])
    pattern = next(s["pattern"]["Regex"] for s in splits if s["type"] == "Split")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, min_frequency=2, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    documents = documents_of(path)
    start = time.perf_counter()
    tokenizer.train_from_iterator(documents, trainer)
    seconds = time.perf_counter() - start
    theirs = json.loads(tokenizer.to_str())["model"]["merges"]
    pair = lambda merge: tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
    a, b = [pair(m) for m in ours["model"]["merges"]], [pair(m) for m in theirs]
    first = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    print(f"tokenizers {tokenizers.__version__}: train_from_iterator {seconds:.1f} s, {os.environ.get('RAYON_NUM_THREADS', 'all')} threads, "
          f"{len(b)} merges; the same as ours: {sum(x == y for x, y in zip(a, b))} of {len(a)}, up to {first}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 3 and sys.argv[1] == "encode":
        encode(sys.argv[2], sys.argv[3:])
    elif len(sys.argv) == 5 and sys.argv[1] == "train":
        train(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        sys.exit(__doc__)
