"""What PyTorch has for the work of gated_bench, forward and backward: cuDNN's dense attention, without gates, and
flex_attention with the gates as score_mod. Prints JSON lines, and ratios to those of gated_bench.
Usage: peer_gated.py [gated.jsonl]"""
import json
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from triton.testing import do_bench

ours = [json.loads(line) for line in open(sys.argv[1])] if len(sys.argv) > 1 else []
shapes = [(4, 4096, 128, 32, 8), (1, 16384, 128, 32, 8), (4, 4096, 64, 32, 8), (1, 16384, 64, 32, 8), (32, 4096, 64, 4, 2)]
WINDOW = 128
torch.manual_seed(0)


def report(what, shape, run):
    batch, tokens, dim, heads, kv_heads = shape
    row = dict(what=what, batch=batch, tokens=tokens, dim=dim, heads=heads, kvHeads=kv_heads, torch=torch.__version__,
               device=torch.cuda.get_device_name())
    try:
        run()
        row["ms"] = do_bench(run, warmup=50, rep=200, return_mode="median")
        row["TFLOPs"] = 14 * dim * heads * batch * tokens * (tokens + 1) / 2 / row["ms"] / 1e9
    except Exception as error:  # flex_attention raises several kinds where it does not fit
        row["error"] = str(error)[:200]
    print(json.dumps(row), flush=True)
    for mine in ours:
        if (mine["batch"], mine["tokens"], mine["dim"], mine["heads"]) == (batch, tokens, dim, heads) and "ms" in row:
            print(json.dumps(dict(what="ratio", peer=what, work=mine["work"], tokens=tokens, dim=dim, batch=batch,
                                  ours_ms=mine["ms"], peer_ms=row["ms"], peer_over_ours=row["ms"] / mine["ms"])), flush=True)


for shape in shapes:
    batch, tokens, dim, heads, kv_heads = shape
    q, k, v = (torch.randn(batch, h, tokens, dim, device="cuda", dtype=torch.bfloat16, requires_grad=True)
               for h in (heads, kv_heads, kv_heads))
    d_out = torch.randn_like(q)
    gates = torch.log(torch.rand(batch, kv_heads, tokens, device="cuda")).requires_grad_(True)
    group = heads // kv_heads

    def dense():
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        torch.autograd.grad(out, (q, k, v), d_out)

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        report("cudnn dense", shape, dense)

    def gate(score, b, h, i, j):
        return torch.where(i - j < WINDOW, score, score + gates[b, h // group, j])

    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, tokens, tokens, device="cuda")
    compiled = torch.compile(flex_attention, dynamic=False)

    def soft():
        out = compiled(q, k, v, score_mod=gate, block_mask=mask, enable_gqa=True)
        torch.autograd.grad(out, (q, k, v, gates), d_out)

    report("flex soft gates", shape, soft)
    del q, k, v, d_out, gates
    torch.cuda.empty_cache()
