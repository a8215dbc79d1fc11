// Element by element operations. Outputs may be one of the inputs.
//
//   silu_mul: out = silu(gate) * up,  silu(z) = z / (1 + exp(-z))    (SwiGLU, Shazeer, arXiv 2002.05202)
//   add:      out = a + b                                            (the residual stream)
//   copy:     out = x, converted to the dtype of out                 (rounding to nearest even)
//   fill:     out = value
//
// The backward of silu_mul, from its inputs and the gradient dy of its output:
//
//   d_up   = dy * silu(gate)
//   d_gate = dy * up * s * (1 + gate * (1 - s)),  s = sigmoid(gate)
//
// and, since the gradient of the weight behind it needs that, its output once more.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct SiluMulParams {
  View out;   // [T, F] f32, or bf16 on a GPU
  View gate;  // [T, F] f32, or bf16 on a GPU
  View up;    // [T, F] like gate
};

// Where activations may be bf16 (a GPU), all are of one dtype. Outputs may be any of the inputs.
struct SiluMulBackwardParams {
  View d_gate;     // [T, F] f32 or bf16
  View d_up;       // [T, F]
  View dy;         // [T, F]
  View gate;       // [T, F]
  View up;         // [T, F]
  View activated;  // [T, F] silu(gate) * up, or absent
};

struct AddParams {
  View out;  // [T, C] f32
  View a;    // [T, C] f32
  View b;    // [T, C] f32
};

struct CopyParams {
  View out;  // any shape, f32 or bf16, or both sides of the same dtype
  View x;    // the shape of out
};

struct FillParams {
  View out;  // any shape, f32 or bf16
  float value = 0;
};

}  // namespace spkv
