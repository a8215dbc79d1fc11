"""cuDNN's dense causal attention, through PyTorch, on the prompts of prefill_bench. Prints JSON lines.
Usage: peer_prefill.py [prefill.jsonl], the output of prefill_bench, to be compared with"""
import json
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.testing import do_bench

ours = [json.loads(line) for line in open(sys.argv[1])] if len(sys.argv) > 1 else []
shapes = {(1, 32768, 128, 32, 8), (1, 8192, 128, 32, 8), (1, 32768, 64, 32, 8), (16, 512, 128, 32, 8)}
torch.manual_seed(0)

for batch, tokens, dim, heads, kv_heads in sorted(shapes):
    q, k, v = (torch.randn(batch, h, tokens, dim, device="cuda", dtype=torch.bfloat16) for h in (heads, kv_heads, kv_heads))
    row = dict(what="cudnn", batch=batch, tokens=tokens, dim=dim, heads=heads, kvHeads=kv_heads,
               torch=torch.__version__, device=torch.cuda.get_device_name())
    try:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            f = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            f()
            row["ms"] = do_bench(f, warmup=100, rep=300, return_mode="median")
        row["TFLOPs"] = 4 * dim * heads * batch * tokens * (tokens + 1) / 2 / row["ms"] / 1e9
    except RuntimeError as error:
        row["error"] = str(error)[:200]
    print(json.dumps(row), flush=True)
    for mine in ours:
        same = (mine["batch"], mine["tokens"], mine["dim"], mine["cached"]) == (batch, tokens, dim, 0)
        if same and "ms" in row:
            print(json.dumps(dict(what="ratio", work=mine["work"], density=mine["density"], ours_ms=mine["ms"],
                                  cudnn_ms=row["ms"], cudnn_over_ours=row["ms"] / mine["ms"])), flush=True)
    del q, k, v
    torch.cuda.empty_cache()
