#!/usr/bin/env python3
"""Small models of the published shapes, made by transformers with random weights, scored by transformers and by mtpx.

    transformers_logits.py MTPX_PROGRAM [ARGUMENTS OF mtpx score ...]       needs PyTorch and transformers

The models are those of tests/golden/published/: config.json as published, but for widths and counts of layers, experts
and tokens, and without the MTP layer, which transformers does not run (check_transformers.py compares those). mtpx reads
each twice: as published, with the published names of tensors, and as transformers' own save_pretrained() writes both.
Prints a line per model; exits with 1 if logits differ by more than 2e-5, or all gradients together by more than 1e-4
(relative, Euclidean, float32), or if mtpx refuses a folder. A model_type that this transformers lacks is said to be so
and, where its architecture is DeepSeek-V3's, made as that.
"""

import json
import math
import os
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from make_golden import published_tensors

BOUND, GRADIENTS, SAVED = 2e-5, 1e-4, 1e-6
V3 = ["DeepseekV3ForCausalLM"]

# Beside the files of tests/golden/published/: what transformers opens, too.
CHANGED = {"deepseek_v3": [dict(first_k_dense_replace=9)]}


def cases():
    """(name, settings) of each model. The MTP layer goes: transformers does not run it."""
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "published")
    for file in sorted(os.listdir(folder)):
        name = file.removesuffix(".json")
        with open(os.path.join(folder, file)) as text:
            settings = json.load(text) | dict(num_nextn_predict_layers=0)
        yield name, settings
        for changes in CHANGED.get(name, []):
            yield f"{name} {changes}", settings | changes


def write_config(folder, settings):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(settings, file, indent=2)


def published(model, pick):
    """pick(parameter or buffer) by published name: experts one by one, a tied head left out."""
    tensors = dict(model.named_parameters())
    tensors |= {name: tensor for name, tensor in model.named_buffers() if name.endswith("e_score_correction_bias")}
    out = {}
    for name, tensor in tensors.items():
        value = pick(tensor)
        if value is None:
            continue
        value = value.detach()
        fused = name.endswith((".experts.gate_up_proj", ".experts.down_proj"))
        out |= dict(published_tensors(name, value)) if fused else {name: value}
    return {name: value.contiguous().clone() for name, value in out.items()}


def fill(model, seed):
    """Random numbers that show mistakes: gains that are not 1, biases of both signs, scores that differ."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in list(model.named_parameters()) + list(model.named_buffers()):
            if name.endswith("e_score_correction_bias"):
                tensor.copy_(torch.rand(tensor.shape, generator=noise) * 0.2 - 0.1)
            elif tensor.dim() >= 2 and tensor.is_floating_point() and not name.endswith("inv_freq"):
                tensor.copy_(torch.randn(tensor.shape, generator=noise) * (0.3 if ".gate." in name else 0.06))
            elif name.endswith("norm.weight"):
                tensor.copy_(torch.rand(tensor.shape, generator=noise) + 0.5)


def score(command, folder, tokens, work):
    given, dump = os.path.join(work, "tokens.safetensors"), os.path.join(work, "dump.safetensors")
    save_file({"tokens": tokens}, given)
    command = [command[0], "score", "--model", folder, "--tokens", given, "--dump", dump, "--gradients",
               "--dtype", "float32"] + command[1:]
    result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"mtpx score ended with {result.returncode}: {result.stderr.strip()}")
    return load_file(dump)


def error(got, want):
    return float((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-300))


def lacks_mscale(model, settings):
    """Whether transformers leaves mscale_all_dim out of a deepseek_v2's scores, as it did until July 2026."""
    scaling = settings["rope_scaling"]
    if settings["model_type"] != "deepseek_v2" or not scaling:
        return False
    mscale = 0.1 * scaling["mscale_all_dim"] * math.log(scaling["factor"]) + 1
    want = mscale * mscale / math.sqrt(settings["qk_nope_head_dim"] + settings["qk_rope_head_dim"])
    return abs(model.model.layers[0].self_attn.scaling - want) > 1e-6


def make(folder, settings):
    """The model, and what is to be said of how it was made."""
    said = ""
    write_config(folder, settings)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, KeyError, ImportError) as refusal:
        said = f"{settings['model_type']} is not in transformers {transformers.__version__}"
        if settings["architectures"] != V3:
            return None, f"{said} ({str(refusal).splitlines()[0][:80]})"
        said += ", made as deepseek_v3; "
        config = AutoConfig.for_model("deepseek_v3", **{k: v for k, v in settings.items() if k != "model_type"})
    config._attn_implementation = config._experts_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).float().eval()
    return model, said


def compare(command, name, settings, work):
    folder = os.path.join(work, "published")
    model, said = make(folder, settings)
    if model is None:
        return True, said
    if lacks_mscale(model, settings):
        settings = settings | dict(rope_scaling=None)
        model, _ = make(folder, settings)
        said += "without YaRN, whose mscale_all_dim this transformers ignores; "
    fill(model, seed=len(name))
    weights = os.path.join(folder, "model.safetensors")
    save_file(published(model, lambda tensor: tensor), weights, metadata={"format": "pt"})

    tokens = torch.randint(settings["vocab_size"], (2, 33), generator=torch.Generator().manual_seed(1))
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    want = {"grad." + key: value for key, value in published(model, lambda t: getattr(t, "grad", None)).items()}

    got = score(command, folder, tokens, work)
    off = error(got["logits.0"], logits.detach())
    # An expert that no token reached has no gradient there, and zeros here.
    known = {key: value for key, value in got.items() if key.startswith("grad.")}
    strange = sorted(set(want) - set(known))
    both = [(known[key], want.get(key, torch.zeros_like(known[key]))) for key in sorted(known)]
    gradients = error(torch.cat([a.flatten() for a, _ in both]), torch.cat([b.flatten() for _, b in both]))
    worst = max((error(known[key], value), key) for key, value in want.items() if key in known and value.norm() > 0)

    again = os.path.join(work, "saved")
    model.save_pretrained(again)
    saved = error(score(command, again, tokens, work)["logits.0"], got["logits.0"])
    good = off <= BOUND and gradients <= GRADIENTS and saved <= SAVED and not strange
    said += (f"logits {off:.1e}, gradients {gradients:.1e} (worst {worst[0]:.1e}, {worst[1][5:]}), "
             f"as saved by transformers {saved:.1e}")
    return good, said + (f"; without a twin: {strange[:3]}" if strange else "")


def main():
    command = sys.argv[1:]
    if not command:
        sys.exit(__doc__)
    torch.manual_seed(0)
    failed, count = 0, 0
    for name, settings in cases():
        count += 1
        with tempfile.TemporaryDirectory() as work:
            try:
                good, said = compare(command, name, settings, work)
            except Exception as problem:  # the other models are still to be compared
                good, said = False, f"{type(problem).__name__}: {problem}"
        failed += not good
        print(f"{'ok    ' if good else 'FAILED'} {name} ({settings['model_type']}): {said}", flush=True)
    print(f"transformers {transformers.__version__}, bounds {BOUND:g}, {GRADIENTS:g}: {failed} of {count} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
