"""Compares the logits that logits.ts wrote with those of transformers in float64. Usage: compare.py FOLDER
In f32 the largest difference must be below 1e-4 of the largest logit; in bf16 the mean difference must be no more
than 1.5 times that of transformers itself in bf16 on this machine."""
import json
import pathlib
import sys

import numpy as np
import torch
import transformers

device = "cuda" if torch.cuda.is_available() else "cpu"
failed = False
for folder in sorted(path.parent for path in pathlib.Path(sys.argv[1]).glob("*/ids.json")):
    ids = torch.tensor([json.loads((folder / "ids.json").read_text())], device=device)

    def logits(dtype):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
        with torch.no_grad():
            return model.to(device).eval()(ids).logits[0].double().cpu().numpy()

    expected = logits(torch.float64)
    row = dict(what="transformers", version=transformers.__version__, model=folder.name, largest=float(np.abs(expected).max()))
    for path in sorted(folder.glob("logits-*.bin")):
        precision = path.stem.split("-")[1]
        ours = np.fromfile(path, np.float32).reshape(expected.shape)
        difference = np.abs(ours - expected)
        row[f"{precision}_max"], row[f"{precision}_mean"] = float(difference.max()), float(difference.mean())
        if precision == "f32":
            good = row["f32_max"] < 1e-4 * row["largest"]
        else:
            row["bf16_mean_of_transformers"] = float(np.abs(logits(torch.bfloat16) - expected).mean())
            good = row["bf16_mean"] < 1.5 * row["bf16_mean_of_transformers"]
        row[f"{precision}_ok"] = bool(good)
        failed = failed or not good
    print(json.dumps(row), flush=True)
sys.exit(failed)
