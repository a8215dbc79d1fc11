// Element by element operations. Outputs may be one of the inputs.
//
//   silu_mul: out = silu(gate) * up,  silu(z) = z / (1 + exp(-z))    (SwiGLU, Shazeer, arXiv 2002.05202)
//   add:      out = a + b                                            (the residual stream)
//   copy:     out = x, converted to the dtype of out                 (rounding to nearest even)
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct SiluMulParams {
  View out;   // [T, F] f32, or bf16 on a GPU
  View gate;  // [T, F] f32
  View up;    // [T, F] f32
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

}  // namespace spkv
