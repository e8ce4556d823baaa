#!/usr/bin/env python3
"""Small models of the published shapes, made by transformers with random weights, scored by transformers and by mtpx.

    transformers_logits.py MTPX_PROGRAM [ARGUMENTS OF mtpx score ...]       needs PyTorch and transformers

Each config.json is as published, but for widths, counts of layers, experts and tokens, and the MTP layer, which
transformers does not run (check_transformers.py compares those). mtpx reads it twice: as published, with the published
names of tensors, and as transformers' own save_pretrained() writes both. Prints a line per model; exits with 1 if logits
differ by more than 2e-5, or all gradients together by more than 1e-4 (relative, Euclidean, float32), or if mtpx refuses
a folder. A model_type that this transformers lacks is said to be so and, where its architecture is DeepSeek-V3's, made
as that.
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

# What all share: reduced widths, and what says the same in each of the published files.
SMALL = dict(vocab_size=512, hidden_size=256, intermediate_size=320, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=4, q_lora_rank=96, kv_lora_rank=128, hidden_act="silu", attention_bias=False,
             attention_dropout=0.0, initializer_range=0.02, rms_norm_eps=1e-6, tie_word_embeddings=False, use_cache=True,
             bos_token_id=0, eos_token_id=1, torch_dtype="float32")
MIXTURE = dict(moe_intermediate_size=64, n_routed_experts=32, n_shared_experts=1, num_experts_per_tok=8, n_group=1,
               topk_group=1, norm_topk_prob=True, scoring_func="sigmoid", topk_method="noaux_tc", first_k_dense_replace=1,
               moe_layer_freq=1, num_nextn_predict_layers=0)
HEADS = dict(qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)


def yarn(factor, mscale, beta_fast=32):
    return dict(type="yarn", factor=factor, original_max_position_embeddings=4096, beta_fast=beta_fast, beta_slow=1,
                mscale=mscale, mscale_all_dim=mscale)


CASES = {
    "DeepSeek-V3": SMALL | MIXTURE | HEADS | dict(
        model_type="deepseek_v3", architectures=V3, n_group=8, topk_group=4, routed_scaling_factor=2.5, rope_theta=10000.0,
        rope_scaling=yarn(40, 1.0), max_position_embeddings=163840),
    "DeepSeek-V3, dense beyond the last layer": SMALL | MIXTURE | HEADS | dict(
        model_type="deepseek_v3", architectures=V3, routed_scaling_factor=2.5, rope_theta=10000.0, rope_scaling=None,
        max_position_embeddings=4096, first_k_dense_replace=9),
    "GigaChat3.1": SMALL | MIXTURE | HEADS | dict(
        model_type="deepseek_v3", architectures=V3, q_lora_rank=None, v_head_dim=192, num_experts_per_tok=4,
        routed_scaling_factor=1.0, rope_theta=100000.0, rope_scaling=yarn(64, 1.0), max_position_embeddings=262144,
        bos_token_id=1, eos_token_id=2),
    "Moonlight": SMALL | MIXTURE | HEADS | dict(
        model_type="deepseek_v3", architectures=V3, q_lora_rank=None, n_shared_experts=2, num_experts_per_tok=6,
        routed_scaling_factor=2.446, rms_norm_eps=1e-5, rope_theta=50000.0, rope_scaling=None, max_position_embeddings=8192),
    "Kimi-K2": SMALL | MIXTURE | HEADS | dict(
        model_type="kimi_k2", architectures=V3, routed_scaling_factor=2.827, rope_theta=50000.0,
        rope_scaling=yarn(32, 1.0, beta_fast=1), max_position_embeddings=131072),
    "JoyAI-LLM-Flash": SMALL | MIXTURE | HEADS | dict(
        model_type="joyai_llm_flash", architectures=V3, routed_scaling_factor=2.5, rope_theta=32000000.0, rope_scaling=None,
        max_position_embeddings=131072),
    "GLM-4.7-Flash": SMALL | MIXTURE | dict(
        model_type="glm4_moe_lite", architectures=["Glm4MoeLiteForCausalLM"], qk_nope_head_dim=192, qk_rope_head_dim=64,
        v_head_dim=256, num_experts_per_tok=4, routed_scaling_factor=1.8, rms_norm_eps=1e-5, rope_theta=1000000.0,
        rope_scaling=None, partial_rotary_factor=1.0, max_position_embeddings=202752, eos_token_id=[5, 7, 9]),
    "Youtu-LLM": SMALL | HEADS | dict(
        model_type="youtu", architectures=["YoutuForCausalLM"], mlp_bias=False, rope_interleave=True, rope_theta=1600000.0,
        rope_scaling=None, max_position_embeddings=131072, tie_word_embeddings=True),
    "DeepSeek-V2": SMALL | MIXTURE | HEADS | dict(
        model_type="deepseek_v2", architectures=["DeepseekV2ForCausalLM"], n_shared_experts=2, num_experts_per_tok=6,
        n_group=8, topk_group=3, topk_method="group_limited_greedy", scoring_func="softmax", norm_topk_prob=False,
        routed_scaling_factor=16.0, seq_aux=True, aux_loss_alpha=0.001, rope_theta=10000.0, rope_scaling=yarn(40, 0.707),
        max_position_embeddings=163840),
    "DeepSeek-V2-Lite": SMALL | MIXTURE | HEADS | dict(
        model_type="deepseek_v2", architectures=["DeepseekV2ForCausalLM"], q_lora_rank=None, n_shared_experts=2,
        num_experts_per_tok=6, topk_method="greedy", scoring_func="softmax", norm_topk_prob=False,
        routed_scaling_factor=1.0, seq_aux=True, aux_loss_alpha=0.001, rope_theta=10000.0, rope_scaling=yarn(40, 0.707),
        max_position_embeddings=163840),
}


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
    """Whether transformers leaves the square of mscale_all_dim out of a deepseek_v2's scores, as it did before 2026-08."""
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
    save_file(published(model, lambda tensor: tensor), os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})

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
    said += (f"logits {off:.1e}, gradients {gradients:.1e} (worst {worst[0]:.1e}, {worst[1][5:]}), as saved by transformers "
             f"{saved:.1e}")
    return good, said + (f"; without a twin: {strange[:3]}" if strange else "")


def main():
    command = sys.argv[1:]
    if not command:
        sys.exit(__doc__)
    torch.manual_seed(0)
    failed = 0
    for name, settings in CASES.items():
        with tempfile.TemporaryDirectory() as work:
            try:
                good, said = compare(command, name, dict(settings), work)
            except Exception as problem:  # the other models are still to be compared
                good, said = False, f"{type(problem).__name__}: {problem}"
        failed += not good
        print(f"{'ok    ' if good else 'FAILED'} {name} ({settings['model_type']}): {said}", flush=True)
    print(f"transformers {transformers.__version__}, bounds {BOUND:g} and {GRADIENTS:g}: {failed} of {len(CASES)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
