"""PyTorch on the prompts of prefill_bench: cuDNN's dense causal attention, and flex_attention with the mask of SP-KV.
Usage: peer_prefill.py prefill.jsonl RESULT DATE, the first being the output of prefill_bench. Writes both, joined."""
import json
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from triton.testing import do_bench

source, result, date = sys.argv[1:]
ours = [json.loads(line) for line in open(source)]
torch.manual_seed(0)


def tensors(work):
    return (torch.randn(work["batch"], heads, work["tokens"], work["dim"], device="cuda", dtype=torch.bfloat16)
            for heads in (work["heads"], work["kvHeads"], work["kvHeads"]))


def median_ms(run):
    run()
    return do_bench(run, warmup=100, rep=300, return_mode="median")


def time_cudnn(work):
    q, k, v = tensors(work)
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return median_ms(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))


def time_flex(work):
    q, k, v = tensors(work)
    group, window = work["heads"] // work["kvHeads"], work["window"]
    keep = torch.rand(work["batch"], work["kvHeads"], work["tokens"], device="cuda") < work["density"]

    def sees(b, h, i, j):
        return (i >= j) & ((i - j < window) | keep[b, h // group, j])

    mask = torch.compile(create_block_mask)(sees, work["batch"], work["heads"], work["tokens"], work["tokens"], device="cuda")
    flex = torch.compile(flex_attention, dynamic=False)
    return median_ms(lambda: flex(q, k, v, block_mask=mask, enable_gqa=True))


def attempt(peer, work):
    try:
        return peer(work)
    except RuntimeError as error:
        print(f"{peer.__name__}, {work['work']}: {str(error)[:200]}", file=sys.stderr)
        return None
    finally:
        torch.cuda.empty_cache()


cudnn = {}
for work in ours:
    if work["cached"] > 0:
        continue  # the peers have no queries that begin behind cached keys
    shape = (work["batch"], work["tokens"], work["dim"])
    if shape not in cudnn:
        cudnn[shape] = attempt(time_cudnn, work)
    if cudnn[shape]:
        dense = 4 * work["dim"] * work["heads"] * work["batch"] * work["tokens"] * (work["tokens"] + 1) / 2
        work["peerCudnnDenseMs"] = round(cudnn[shape], 4)
        work["peerCudnnDenseTFLOPs"] = round(dense / cudnn[shape] / 1e9, 1)
        work["overCudnnDense"] = round(cudnn[shape] / work["ms"], 3)
    if work["density"] == 0.25 and shape == (1, 32768, 128):
        flex = attempt(time_flex, work)
        if flex:
            work["peerFlexMs"] = round(flex, 4)
            work["overFlex"] = round(flex / work["ms"], 3)
    print(json.dumps(work), flush=True)

merged = {
    "device": torch.cuda.get_device_name(),
    "date": date,
    "command": "build-cuda/prefill_bench > prefill.jsonl && python3 bench/cuda/peer_prefill.py prefill.jsonl RESULT DATE",
    "peer": {"torch": torch.__version__},
    "notes": {
        "ms": "packing included, from and to f32 tensors; the peers' are bf16",
        "TFLOPs": "of the pairs that are visible",
        "overCudnnDense": "ratio of times: the peer attends the whole prompt",
        "overFlex": "ratio of times, with the same mask",
    },
    "results": ours,
}
with open(result, "w") as file:
    json.dump(merged, file, indent=1)
    file.write("\n")
