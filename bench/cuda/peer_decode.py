"""PyTorch on the lists that decode_bench wrote to lengths.json: varlen attention over the ragged lists, and
cuDNN's dense attention over the whole context. Prints JSON lines and a table. Usage: peer_decode.py FOLDER"""
import json
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn
from triton.testing import do_bench

folder = sys.argv[1]
works = json.load(open(f"{folder}/lengths.json"))
device = "cuda"
torch.manual_seed(0)
results = []


def median(f):
    f()
    return do_bench(f, warmup=50, rep=200, return_mode="median") * 1e3


def out(**row):
    results.append(row)
    print(json.dumps(row), flush=True)


data = torch.randn(2**31, device=device, dtype=torch.bfloat16)
us = median(lambda: data.view(-1, 2**20).sum(dim=1))
out(what="read_sum", GBps=data.numel() * 2 / us / 1e3, torch=torch.__version__, device=torch.cuda.get_device_name())
del data

for name, work in works.items():
    batch, heads, kv_heads, dim, length = (work[k] for k in ("batch", "heads", "kvHeads", "dim", "T"))
    row = dict(work=name, ours_us=work["us"])
    q = torch.randn(batch, heads, 1, dim, device=device, dtype=torch.bfloat16)
    lengths = torch.tensor(work["lengths"], dtype=torch.int32, device=device)
    offsets = F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    total, longest = int(offsets[-1]), int(lengths.max())
    keys = torch.randn(total, 1, dim, device=device, dtype=torch.bfloat16)
    values = torch.randn_like(keys)
    rows = torch.arange(batch * kv_heads + 1, dtype=torch.int32, device=device)
    queries = q.view(batch * kv_heads, heads // kv_heads, dim)
    try:
        try:
            f = lambda: varlen_attn(queries, keys, values, rows, offsets, 1, longest, enable_gqa=True)
            f()
        except TypeError:
            f = lambda: varlen_attn(queries, keys, values, rows, offsets, 1, longest)
            f()
        row["varlen_us"] = median(f)
        # Ours is the mean of several layers, this the first of them: so bandwidths are compared, not times.
        row["varlen_GBps"] = total * dim * 4 / row["varlen_us"] / 1e3
        row["varlen_over_ours"] = work["GBps"] / row["varlen_GBps"]
    except Exception as error:
        row["varlen_error"] = str(error)[:120]
    del keys, values
    try:
        k = torch.randn(batch, kv_heads, length, dim, device=device, dtype=torch.bfloat16)
        v = torch.randn_like(k)
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            row["cudnn_dense_us"] = median(lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
        row["cudnn_dense_GBps"] = k.numel() * 4 / row["cudnn_dense_us"] / 1e3
        del k, v
    except Exception as error:
        row["cudnn_error"] = str(error)[:120]
    torch.cuda.empty_cache()
    if "cudnn_dense_us" in row:
        row["cudnn_dense_over_ours"] = row["cudnn_dense_us"] / work["us"]
    out(**row)

json.dump(results, open(f"{folder}/peer.json", "w"), indent=1)
for row in results[1:]:
    print(f"{row['work']:28s} ours {row['ours_us']:8.1f} us  varlen {row.get('varlen_us', 0):8.1f} us "
          f"({row.get('varlen_over_ours', 0):.2f}x)  cudnn dense {row.get('cudnn_dense_us', 0):8.1f} us "
          f"({row.get('cudnn_dense_over_ours', 0):.2f}x)")
