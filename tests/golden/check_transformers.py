#!/usr/bin/env python3
"""Opens a folder that mtpx wrote in transformers, main model and MTP layers, and compares the numbers.

    check_transformers.py MTPX_PROGRAM MODEL_FOLDER        needs PyTorch and transformers 5

Prints what it found, and exits with 1 unless: no key of the main model is missing or unexpected; logits of the main
model are equal to 1e-4 (relative, Euclidean); transformers' own MtpModel loads every MTP layer and drafts the tokens
that mtpx predicts.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3ForCausalLM
from transformers.modeling_layers import MtpModel


def score(program, folder, tokens):
    with tempfile.TemporaryDirectory() as work:
        given, dump = os.path.join(work, "tokens.safetensors"), os.path.join(work, "dump.safetensors")
        save_file({"tokens": tokens}, given)
        subprocess.run([program, "score", "--model", folder, "--tokens", given, "--dump", dump], check=True,
                       stdout=subprocess.DEVNULL)
        return load_file(dump)


def main():
    program, folder = sys.argv[1], sys.argv[2]
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    layers, depth = config["num_hidden_layers"], config["num_nextn_predict_layers"]
    failed = False

    # transformers knows the MTP layers by DeepSeek-V3's own number, 61.
    mtp = "|".join(str(layers + k) for k in range(depth))
    DeepseekV3ForCausalLM._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.({layers + k})\..*" for k in range(depth)]
    model, info = DeepseekV3ForCausalLM.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    model.eval()
    of_mtp = re.compile(rf"model\.layers\.({mtp})\.") if depth else re.compile("$^")
    unexpected = [key for key in info["unexpected_keys"] if not of_mtp.match(key)]
    print(f"dtype {model.dtype}; missing keys {sorted(info['missing_keys'])}, unexpected {sorted(unexpected)}, "
          f"mismatched {sorted(info['mismatched_keys'])}")
    failed |= bool(info["missing_keys"] or unexpected or info["mismatched_keys"])

    time = 48
    text = "template <typename T> struct Tensor { int size; return values; } // the gradient of the loss is added"
    tokens = torch.tensor([list(text.encode())[: time + 1]])
    got = score(program, folder, tokens)
    with torch.no_grad():
        out = model(input_ids=tokens[:, :time], output_hidden_states=True)
        want = out.logits
        error = float((got["logits.0"] - want).norm() / want.norm())
        print(f"main logits {tuple(want.shape)}: relative error {error:.2e}, bound 1e-4")
        failed |= not error <= 1e-4

        if depth:
            drafter = MtpModel.from_pretrained(model).eval()
            hidden = model.model(input_ids=tokens[:, :time]).last_hidden_state
            equal, compared = [0] * depth, [0] * depth
            for n in range(2, time):
                # After n tokens the main model has said token n; row n - 1 of depth 1 drafts token n + 1.
                drafts, _, _ = drafter(input_ids=tokens[:, 1 : n + 1], last_hidden_states=hidden[:, :n],
                                       attention_mask=torch.ones(1, n, dtype=torch.long),
                                       position_ids=torch.arange(1, n + 1)[None], mtp_cache=None)
                for k in range(1, depth + 1):
                    if n + k > time:
                        break
                    # Depth k drafted from the drafts before it, where mtpx read the text: only equal ones compare.
                    if drafts[0, : k - 1].tolist() != tokens[0, n + 1 : n + k].tolist():
                        break
                    # Its window slides: rows n - 1 of depth 1, n of depth 2 in transformers are rows n - 1 here.
                    row = got[f"logits.{k}"][0, n - 1]
                    compared[k - 1] += 1
                    equal[k - 1] += int(row.argmax()) == int(drafts[0, k - 1])
            for k in range(depth):
                print(f"drafts of depth {k + 1}: {equal[k]} of {compared[k]} equal")
            failed |= equal[0] != compared[0] or compared[0] == 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
