#!/usr/bin/env python3
"""A PyTorch model trained by several GPUs with FSDP2: what `mtpx launch -- bench` is measured beside.

Usage: torchrun --nproc_per_node N fsdp_peer.py PEER CONFIG [--batch B] [--seq T] [--accumulation A] [--steps S] [--eager]
PEER: a Python file with Config and Model(config), whose call gives (loss, main loss) of tokens [B, T + 1 + depth], and whose
blocks are .blocks and .mtp. Each block and the root are sharded (fully_shard, reshard_after_forward=False, bf16 with sums in
float), blocks are compiled one by one. A counts the micro-batches of all ranks, as --accumulation of mtpx does. Rank 0
prints one JSON line with the names that bench uses.
"""
import argparse
import importlib.util
import json
import os
import statistics
import time

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer")
    parser.add_argument("config")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=1024)
    parser.add_argument("--accumulation", type=int)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("peer", args.peer)
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    micros = (args.accumulation or ranks) // ranks
    with open(args.config) as file:
        config = peer.Config(json.load(file))
    torch.manual_seed(0)
    model = peer.Model(config).to("cuda")
    parameters = sum(p.numel() for p in model.parameters())
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in [*model.blocks, *model.mtp]:
        if not args.eager:
            block.compile(dynamic=False)
        fully_shard(block, mp_policy=precision, reshard_after_forward=False)
    fully_shard(model, mp_policy=precision, reshard_after_forward=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    depth = config.num_nextn_predict_layers
    tokens = [torch.randint(config.vocab_size, (args.batch, args.seq + 1 + depth), device="cuda") for _ in range(4)]

    def step(number):
        for micro in range(micros):
            model.set_requires_gradient_sync(micro + 1 == micros)
            with torch.autocast("cuda", torch.bfloat16):
                loss, main_loss = model(tokens[(number + micro) % 4])
            (loss / micros).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return main_loss

    first = float(step(0).detach())
    for i in range(2):
        step(i)
    torch.cuda.synchronize()
    times = []
    for i in range(args.steps):
        dist.barrier()
        torch.cuda.synchronize()
        begin = time.time()
        step(i)
        torch.cuda.synchronize()
        times.append(time.time() - begin)
    median = statistics.median(times)
    if rank == 0:
        line = {"peer": "torch " + torch.__version__ + " FSDP2", "compile": not args.eager, "device": torch.cuda.get_device_name(),
                "ranks": ranks, "dtype": "bf16", "depth": depth, "params": parameters, "batch": args.batch, "seq": args.seq,
                "accumulation": micros * ranks, "step_ms": round(median * 1e3, 2), "min_ms": round(min(times) * 1e3, 2),
                "tokens_per_s": round(micros * ranks * args.batch * args.seq / median), "first_loss": round(first, 4),
                "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}
        print(json.dumps(line), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
