#!/usr/bin/env python3
"""Writes the cases of tests/golden: model folders in the published format, and what transformers computes with them.

    make_golden.py OUT            needs PyTorch and transformers 5; the tests need neither

The main model is transformers' DeepseekV3ForCausalLM in float64 (its router computes in float32). An MTP module is
two norms and a projection around one more decoder layer of transformers (DeepSeek-V3 Eq. 21-23). Weights are random,
norm gains and router biases too, because unit gains hide wrong norms.

A case is a folder: config.json, model.safetensors, and golden.safetensors with
    tokens       I64 [B, T + 1]
    logits.k     F32 [B, T - k, V], row i of depth k predicts token i + k + 1
    grad.<name>  F32, of total = ce_0 + lambda / D sum_k ce_k; not in the case fp8
    ce, total    F64 [D + 1], [1]; each ce_k is the mean over the T - k rows; lambda = 0.3
"""

import json
import os
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as published

LAMBDA = 0.3

SMALL = dict(
    vocab_size=40, hidden_size=24, intermediate_size=40, moe_intermediate_size=12, num_hidden_layers=2,
    num_nextn_predict_layers=1, num_attention_heads=2, num_key_value_heads=2, q_lora_rank=10, kv_lora_rank=8,
    qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=5, n_routed_experts=6, n_shared_experts=1,
    num_experts_per_tok=2, n_group=1, topk_group=1, routed_scaling_factor=1.0, norm_topk_prob=True,
    first_k_dense_replace=1, rms_norm_eps=1e-6, max_position_embeddings=64,
)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16, beta_fast=32.0,
            beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0)

# name: (changes, rope, batch, T, how rope is spelt, whether weights are quantised)
CASES = {
    "groups_yarn": (dict(n_routed_experts=8, num_experts_per_tok=3, n_group=4, topk_group=2, n_shared_experts=2,
                         routed_scaling_factor=2.5), YARN, 2, 21, "rope_scaling", False),
    "no_q_lora": (dict(q_lora_rank=None, rms_norm_eps=1e-3), None, 2, 12, "rope_parameters", False),
    "no_norm_topk_prob": (dict(norm_topk_prob=False, routed_scaling_factor=1.7), None, 3, 9, "rope_scaling", False),
    "depth3": (dict(num_nextn_predict_layers=3), YARN, 2, 11, "rope_parameters", False),
    "dense": (dict(first_k_dense_replace=4, num_nextn_predict_layers=2), None, 1, 13, "rope_scaling", False),
    "fp8": (dict(hidden_size=136, intermediate_size=144, num_hidden_layers=1, num_nextn_predict_layers=1,
                 first_k_dense_replace=1, moe_intermediate_size=20, n_routed_experts=2), None, 1, 8, "rope_scaling",
            True),
}


class Mtp(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        width = config.hidden_size
        self.enorm = published.DeepseekV3RMSNorm(width, config.rms_norm_eps)
        self.hnorm = published.DeepseekV3RMSNorm(width, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * width, width, bias=False)
        self.block = published.DeepseekV3DecoderLayer(config, layer)
        self.shared_head = nn.ModuleDict({"norm": published.DeepseekV3RMSNorm(width, config.rms_norm_eps)})

    def forward(self, hidden, embedded, rotary):
        rows = hidden.shape[1]
        joined = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], dim=-1))
        positions = torch.arange(rows).expand(hidden.shape[0], rows)
        future = torch.full((rows, rows), -torch.inf, dtype=hidden.dtype).triu(1)
        angles = tuple(part.to(hidden.dtype) for part in rotary(joined, positions))
        out = self.block(joined, attention_mask=future.expand(hidden.shape[0], 1, rows, rows),
                         position_ids=positions, position_embeddings=angles)
        return self.shared_head["norm"](out[0] if isinstance(out, tuple) else out)


def exact_norm(self, x):
    """transformers' norm rounds to float32 on the way; in float64 that would be all its accuracy."""
    return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


def published_tensors(name, tensor):
    """A tensor of transformers under the names of the files: experts stand alone there, gate and up apart."""
    parts = name.split(".mlp.experts.")
    if len(parts) == 1:
        yield name, tensor
        return
    for e, one in enumerate(tensor):
        stem = f"{parts[0]}.mlp.experts.{e}."
        if parts[1] == "gate_up_proj":
            half = one.shape[0] // 2
            yield stem + "gate_proj.weight", one[:half]
            yield stem + "up_proj.weight", one[half:]
        else:
            yield stem + "down_proj.weight", one


def all_published(model, modules, layers, pick, buffers):
    found = {}

    def add(name, tensor):
        for published_name, part in published_tensors(name, tensor):
            found[published_name] = part.detach().to(torch.float32).contiguous().clone()

    for prefix, part in [("", model)] + [(f"model.layers.{layers + k}.", m) for k, m in enumerate(modules)]:
        items = list(part.named_parameters())
        if buffers:
            items += [item for item in part.named_buffers() if item[0].endswith("e_score_correction_bias")]
        for name, tensor in items:
            picked = pick(tensor) if isinstance(tensor, nn.Parameter) else tensor
            if picked is not None:
                add(prefix + (name.removeprefix("block.") if prefix else name), picked)
    return found


def fill(parts, layers):
    noise = torch.Generator().manual_seed(11)

    def normal(shape):
        return torch.randn(shape, generator=noise, dtype=torch.float64)

    with torch.no_grad():
        for part in parts:
            for _, p in part.named_parameters():
                p.copy_((1 + 0.2 * normal(p.shape)) if p.ndim == 1 else 0.1 * normal(p.shape))
                p.copy_(p.float())
            for name, b in part.named_buffers():
                if name.endswith("e_score_correction_bias"):
                    b.copy_((0.1 * normal(b.shape)).float())
    return noise


def quantise(parts):
    """Weights to E4M3 with a scale per 128 x 128 block, as the published checkpoint; the model keeps what that means."""
    stored = {}
    with torch.no_grad():
        for prefix, part in parts:
            for name, p in part.named_parameters():
                attention = ".self_attn." in "." + name and name.endswith("_proj.weight") or "kv_a_proj" in name
                if p.ndim != 2 or not (attention or ".mlp." in "." + name and "gate.weight" not in name):
                    continue
                rows, columns = p.shape
                scales = torch.zeros(-(-rows // 128), -(-columns // 128))
                codes = torch.zeros(rows, columns, dtype=torch.float8_e4m3fn)
                for i in range(scales.shape[0]):
                    for j in range(scales.shape[1]):
                        at = (slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128))
                        block = p[at].float()
                        scales[i, j] = block.abs().max() / 448
                        codes[at] = (block / scales[i, j]).to(torch.float8_e4m3fn)
                        p[at] = (codes[at].float() * scales[i, j]).double()
                full = prefix + (name.removeprefix("block.") if prefix else name)
                stored[full], stored[full + "_scale_inv"] = codes, scales
    return stored


def config_json(settings, rope, spelling, quantised):
    out = dict(architectures=["DeepseekV3ForCausalLM"], model_type="deepseek_v3", hidden_act="silu",
               scoring_func="sigmoid", topk_method="noaux_tc", tie_word_embeddings=False, attention_bias=False,
               **settings)
    if spelling == "rope_parameters":
        out["rope_parameters"] = rope
    else:
        out["rope_theta"] = rope["rope_theta"]
        if rope["rope_type"] == "yarn":
            named = {key: value for key, value in rope.items() if key not in ("rope_type", "rope_theta")}
            out["rope_scaling"] = dict(type="yarn", **named)
    if quantised:
        out["quantization_config"] = dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8",
                                          weight_block_size=[128, 128])
    return out


def write_case(out, name):
    changes, rope, batch, time, spelling, quantised = CASES[name]
    settings = SMALL | changes
    rope = rope or dict(rope_type="default", rope_theta=10000.0)
    layers, depth = settings["num_hidden_layers"], settings["num_nextn_predict_layers"]
    config = DeepseekV3Config(**settings, rope_parameters=rope, tie_word_embeddings=False)
    config._attn_implementation = config._experts_implementation = "eager"
    model = published.DeepseekV3ForCausalLM(config).double()
    modules = nn.ModuleList(Mtp(config, layers + k) for k in range(depth)).double()
    noise = fill([model, *modules], layers)
    parts = [("", model)] + [(f"model.layers.{layers + k}.", m) for k, m in enumerate(modules)]
    quantised_tensors = quantise(parts) if quantised else {}

    tokens = torch.randint(settings["vocab_size"], (batch, time + 1), generator=noise)
    hidden = model.model(input_ids=tokens[:, :time], use_cache=False).last_hidden_state
    logits = [model.lm_head(hidden)]
    for k, module in enumerate(modules, 1):
        embedded = model.model.embed_tokens(tokens[:, k:time])
        hidden = module(hidden[:, : time - k], embedded, model.model.rotary_emb)
        logits.append(model.lm_head(hidden))
    ce = [F.cross_entropy(l.flatten(0, 1), tokens[:, 1 + k:].flatten()) for k, l in enumerate(logits)]
    total = ce[0] + LAMBDA / depth * sum(ce[1:])
    total.backward()

    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    weights = all_published(model, modules, layers, lambda p: p, True) | quantised_tensors
    if name == "depth3":  # one case carries the copies that published checkpoints have
        for k in range(depth):
            weights[f"model.layers.{layers + k}.embed_tokens.weight"] = weights["model.embed_tokens.weight"].clone()
            weights[f"model.layers.{layers + k}.shared_head.head.weight"] = weights["lm_head.weight"].clone()
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    golden = {"tokens": tokens, "ce": torch.stack(ce).detach(), "total": total.detach().reshape(1)}
    golden |= {f"logits.{k}": l.detach().float().contiguous() for k, l in enumerate(logits)}
    if not quantised:  # whose gradients would say nothing new, at 600 kB
        golden |= {"grad." + n: g for n, g in all_published(model, modules, layers, lambda p: p.grad, False).items()}
    save_file(golden, os.path.join(folder, "golden.safetensors"))
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config_json(settings, rope, spelling, quantised), file, indent=2)
        file.write("\n")
    print(name, [round(float(x), 6) for x in ce], len(weights), "tensors")


if __name__ == "__main__":
    published.DeepseekV3RMSNorm.forward = exact_norm
    for case in CASES:
        write_case(sys.argv[1], case)
