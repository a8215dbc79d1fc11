"""Joins decode.json (ours) and peer.json (PyTorch) of one folder. Usage: merge_results.py FOLDER RESULT DATE"""
import json
import sys

folder, result, date = sys.argv[1:]
ours = json.load(open(f"{folder}/decode.json"))
head, *rows = json.load(open(f"{folder}/peer.json"))
peers = {row["work"]: row for row in rows}
for row in ours["results"]:
    peer = peers.get(row["work"]) if row["what"] == "decode" else None
    if peer and "varlen_us" in peer:
        row["peerVarlenUs"] = round(peer["varlen_us"], 1)
        row["peerVarlenGBps"] = round(peer["varlen_GBps"], 1)
        row["overVarlen"] = round(peer["varlen_over_ours"], 3)
    if peer and "cudnn_dense_us" in peer:
        row["peerCudnnDenseUs"] = round(peer["cudnn_dense_us"], 1)
        row["overCudnnDense"] = round(peer["cudnn_dense_over_ours"], 3)
merged = {
    "device": ours["device"],
    "sms": ours["sms"],
    "date": date,
    "command": "sh bench/cuda/run_decode.sh OUT && python3 bench/cuda/peer_decode.py OUT",
    "peer": {"torch": head["torch"], "readSumGBps": round(head["GBps"], 1)},
    "notes": {
        "us": "per layer, in a graph of all layers; nothing is read before the launch ahead has ended",
        "usOverlapped": "the same, but pages are read ahead of that: within a step the cache does not change",
        "overVarlen": "ratio of bandwidths: the peer has the lengths of the first layer, ours is the mean of all",
        "overCudnnDense": "ratio of times: the peer reads the whole context",
    },
    "results": ours["results"],
}
with open(result, "w") as file:
    json.dump(merged, file, indent=1)
    file.write("\n")
