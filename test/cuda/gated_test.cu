// Gated attention on the matrix units, forward and backward, against float64 from the definition.
#include <algorithm>
#include <string>

#include "cuda/gated_general.h"
#include "cuda/gated_hopper.h"
#include "plain_context.h"
#include "tests.h"

namespace spkv_test {
namespace {

enum class Gates { kAbsent, kOpen, kSoft, kHard, kClosed, kMixed, kTiny, kFirstHalf, kShortOpen };

struct Work {
  std::string name;
  std::vector<int> lengths;
  int dim = 128, group = 2, kv_heads = 1, window = 128;
  Gates gates = Gates::kSoft;
  double size = 1;       // of q
  bool apart = false;    // there are other rows between the rows
  bool general = false;  // the kernels for any GPU
};

// A tensor [T, heads, D] or [T, heads] with rows some way apart, filled with NaN where nothing is written.
struct Rows {
  std::vector<float> values;  // as the device has them
  DeviceArray<uint8_t> memory;
  spkv::View view;

  Rows(int tokens, int heads, int dim, bool bf16_rows, int row_stride = 0) {
    view.dtype = bf16_rows ? spkv::DType::kBF16 : spkv::DType::kF32;
    view.rank = dim ? 3 : 2;
    view.shape[0] = tokens;
    view.shape[1] = heads;
    view.shape[2] = dim ? dim : 1;
    view.stride[1] = dim ? dim : 1;
    view.stride[0] = row_stride ? row_stride : heads * view.stride[1];
    memory =
        DeviceArray<uint8_t>(static_cast<size_t>(tokens) * view.stride[0] * spkv::dtype_bytes(view.dtype));
    view.data = memory.get();
    values.resize(static_cast<size_t>(tokens) * heads * view.shape[2]);
  }
  void write(const std::vector<float>& numbers) {
    values = numbers;
    std::vector<uint8_t> bytes(memory.size());
    for_all([&](size_t from, size_t to) {
      bf16 rounded = __float2bfloat16(numbers[from]);
      if (view.dtype == spkv::DType::kF32) {
        memcpy(&bytes[to * 4], &numbers[from], 4);
      } else {
        memcpy(&bytes[to * 2], &rounded, 2);
      }
    });
    memory.write(bytes);
  }
  const std::vector<float>& read() {
    std::vector<uint8_t> bytes = memory.read();
    for_all([&](size_t to, size_t from) {
      bf16 rounded;
      if (view.dtype == spkv::DType::kF32) {
        memcpy(&values[to], &bytes[from * 4], 4);
      } else {
        memcpy(&rounded, &bytes[from * 2], 2);
        values[to] = __bfloat162float(rounded);
      }
    });
    return values;
  }

 private:
  template <typename Act>
  void for_all(const Act& act) const {
    size_t i = 0;
    for (int64_t t = 0; t < view.shape[0]; t++)
      for (int64_t h = 0; h < view.shape[1]; h++)
        for (int64_t d = 0; d < view.shape[2]; d++)
          act(i++, static_cast<size_t>(t * view.stride[0] + h * view.stride[1] + d));
  }
};

// A result, and what the terms of its sums add up to without their signs: rounding errors grow with that.
struct Sums {
  std::vector<double> value, size;
  explicit Sums(size_t count) : value(count), size(count) {}
  void add(size_t i, double term, double magnitude) {
    value[i] += term;
    size[i] += std::abs(magnitude);
  }
};

struct Expected {
  Sums out, log_sum_exp, dq, dk, dv, d_gates;
};

Expected reference(const Work& w, const std::vector<float>& q, const std::vector<float>& keys,
                   const std::vector<float>& values, const std::vector<float>& gates,
                   const std::vector<float>& d_out) {
  size_t G = static_cast<size_t>(w.kv_heads), H = G * static_cast<size_t>(w.group),
         D = static_cast<size_t>(w.dim);
  size_t T = keys.size() / G / D;
  Expected e = {Sums(T * H * D), Sums(T * H), Sums(T * H * D), Sums(T * G * D), Sums(T * G * D), Sums(T * G)};
  double scale = 1 / std::sqrt(static_cast<double>(D));
  size_t first = 0;
  for (int length : w.lengths) {
    for (size_t t = first; t < first + static_cast<size_t>(length); t++) {
      for (size_t h = 0; h < H; h++) {
        size_t g = h / static_cast<size_t>(w.group), row = (t * H + h) * D;
        std::vector<double> weight(t - first + 1), d_weight(t - first + 1);
        double top = -INFINITY, sum = 0, product = 0, product_size = 0;
        for (size_t s = first; s <= t; s++) {
          double score = 0;
          for (size_t d = 0; d < D; d++) {
            score += static_cast<double>(q[row + d]) * keys[(s * G + g) * D + d];
            d_weight[s - first] += static_cast<double>(d_out[row + d]) * values[(s * G + g) * D + d];
          }
          bool far = t - s >= static_cast<size_t>(w.window);
          weight[s - first] = score * scale + (far && !gates.empty() ? gates[s * G + g] : 0.0);
          top = std::max(top, weight[s - first]);
        }
        for (double& x : weight) sum += x = std::exp(x - top);
        e.log_sum_exp.add(t * H + h, top + std::log(sum), 1);
        for (size_t i = 0; i < weight.size(); i++) {
          weight[i] /= sum;
          product += weight[i] * d_weight[i];
          product_size += weight[i] * std::abs(d_weight[i]);
          for (size_t d = 0; d < D; d++) {
            double term = weight[i] * values[((first + i) * G + g) * D + d];
            e.out.add(row + d, term, term);
            double back = weight[i] * d_out[row + d];
            e.dv.add(((first + i) * G + g) * D + d, back, back);
          }
        }
        // `out` is rounded to bf16, by 2^-9 of each component: a quarter of that of the tolerance is left.
        for (size_t d = 0; d < D; d++) product_size += std::abs(e.out.value[row + d] * d_out[row + d]) / 4;
        for (size_t s = first; s <= t; s++) {
          double ds = weight[s - first] * (d_weight[s - first] - product);
          double size = weight[s - first] * (std::abs(d_weight[s - first]) + product_size);
          for (size_t d = 0; d < D; d++) {
            size_t at = (s * G + g) * D + d;
            e.dq.add(row + d, scale * ds * keys[at], scale * size * keys[at]);
            e.dk.add(at, scale * ds * q[row + d], scale * size * q[row + d]);
          }
          if (t - s >= static_cast<size_t>(w.window)) e.d_gates.add(s * G + g, ds, size);
        }
      }
    }
    first += static_cast<size_t>(length);
  }
  return e;
}

std::string compare(const char* what, const Sums& expected, const std::vector<float>& got, double tolerance) {
  double worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < got.size(); i++) {
    double error = std::abs(got[i] - expected.value[i]) / (tolerance * expected.size[i] + 1e-6);
    if (std::isnan(error)) error = INFINITY;
    if (error > worst) worst = error, at = i;
  }
  if (worst <= 1) return "";
  char text[160];
  snprintf(text, sizeof(text), " %s[%zu]: %g, expected %g (%.3g of what is allowed)", what, at,
           static_cast<double>(got[at]), expected.value[at], worst);
  return text;
}

float gate_of(Gates kind, int position, int length, Random* random) {
  double u = random->uniform();
  switch (kind) {
    case Gates::kAbsent:
    case Gates::kOpen:
      return 0;
    case Gates::kSoft:
      return static_cast<float>(std::log(u + 1e-3));
    case Gates::kHard:
      return u < 0.4 ? 0 : -INFINITY;
    case Gates::kClosed:
      return -INFINITY;
    case Gates::kMixed:
      return u < 0.3 ? -INFINITY : static_cast<float>(-3 * u);
    case Gates::kTiny:
      return u < 0.5 ? -1e30f : -80;
    case Gates::kShortOpen:
      return length < 200 || u < 0.4 ? 0 : -INFINITY;
    case Gates::kFirstHalf:
      return position < length / 2 ? 0 : -INFINITY;
  }
  return 0;
}

// Numbers that bf16 holds exactly.
std::vector<float> numbers(size_t count, double size, Random* random) {
  return widened(random->normals(count, size));
}

void run_case(const Work& w) {
  Random random(w.lengths.size() * 1000 + static_cast<uint64_t>(w.window));
  int tokens = 0, heads = w.group * w.kv_heads;
  std::vector<int32_t> offsets = {0};
  for (int length : w.lengths) offsets.push_back(tokens += length);
  // As views of rows that hold more, like the parts of one tensor of queries, keys and values.
  auto make = [&](int n, int dim) { return Rows(tokens, n, dim, true, n * dim + (w.apart ? 3 * dim : 0)); };
  Rows q = make(heads, w.dim), keys = make(w.kv_heads, w.dim), values = make(w.kv_heads, w.dim);
  Rows out = make(heads, w.dim), dq = make(heads, w.dim), dk = make(w.kv_heads, w.dim),
       dv = make(w.kv_heads, w.dim);
  Rows d_out = make(heads, w.dim);
  Rows gates(tokens, w.kv_heads, 0, false), d_gates(tokens, w.kv_heads, 0, false),
      sums(tokens, heads, 0, false);
  auto count = [&](int n) { return static_cast<size_t>(tokens) * n * w.dim; };
  q.write(numbers(count(heads), w.size, &random));
  keys.write(numbers(count(w.kv_heads), 1, &random));
  values.write(numbers(count(w.kv_heads), 1, &random));
  d_out.write(numbers(count(heads), 1, &random));
  std::vector<float> gate;
  for (int length : w.lengths)
    for (int i = 0; i < length * w.kv_heads; i++)
      gate.push_back(gate_of(w.gates, i / w.kv_heads, length, &random));
  gates.write(gate);
  if (w.gates == Gates::kAbsent) gate.clear();
  DeviceArray<int32_t> device_offsets(offsets);
  spkv::View offsets_view;
  offsets_view.data = device_offsets.get();
  offsets_view.dtype = spkv::DType::kI32;
  offsets_view.rank = 1;
  offsets_view.shape[0] = static_cast<int64_t>(offsets.size());

  PlainContext context(true);
  spkv::GatedAttentionParams forward;
  forward.out = out.view;
  forward.log_sum_exp = sums.view;
  forward.q = q.view;
  forward.keys = keys.view;
  forward.values = values.view;
  if (!gate.empty()) forward.gates = gates.view;
  forward.offsets = offsets_view;
  forward.window = w.window;
  forward.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(w.dim)));
  spkv::GatedAttentionBackwardParams backward;
  backward.dq = dq.view;
  backward.dk = dk.view;
  backward.dv = dv.view;
  if (!gate.empty()) backward.d_gates = d_gates.view;
  backward.d_out = d_out.view;
  backward.out = out.view;
  backward.log_sum_exp = sums.view;
  backward.q = q.view;
  backward.keys = keys.view;
  backward.values = values.view;
  backward.gates = forward.gates;
  backward.offsets = offsets_view;
  backward.window = forward.window;
  backward.scale = forward.scale;
  std::string wrong;
  if (w.general) {
    if (!gated_general(forward, context).ok()) wrong += " forward fails";
    if (!gated_general(backward, context).ok()) wrong += " backward fails";
  } else {
    if (!gated_hopper_takes(forward, context) || !gated_hopper_takes(backward, context))
      wrong += " not taken";
    if (!gated_hopper(forward, offsets.data(), context).ok()) wrong += " forward fails";
    if (!gated_hopper(backward, offsets.data(), context).ok()) wrong += " backward fails";
  }
  CHECK_CUDA(cudaDeviceSynchronize());

  Expected e = reference(w, q.values, keys.values, values.values, gate, d_out.values);
  // A weight, and its gradient, are rounded to bf16 (2^-9); so are `out` and the results.
  wrong += compare("out", e.out, out.read(), 0x1p-7);
  wrong += compare("log_sum_exp", e.log_sum_exp, sums.read(), 1e-4 * std::max(1.0, w.size));
  wrong += compare("dq", e.dq, dq.read(), 0x1p-6);
  wrong += compare("dk", e.dk, dk.read(), 0x1p-6);
  wrong += compare("dv", e.dv, dv.read(), 0x1p-6);
  if (!gate.empty()) wrong += compare("d_gates", e.d_gates, d_gates.read(), 0x1p-6);
  std::string name = "gated " + w.name + ", D " + std::to_string(w.dim);
  printf("%s %s%s\n", wrong.empty() ? "pass" : "FAIL", name.c_str(), wrong.c_str());
  fflush(stdout);
  expect(wrong.empty(), name);
}

}  // namespace

void gated_test(bool quick) {
  for (int dim : {64, 128, 256, 80}) {
    Work general = {"general", {70, 0, 150}, dim, 2, 2, 37, Gates::kMixed, 1, true, true};
    run_case(general);
  }
  int capability = 0;
  CHECK_CUDA(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, 0));
  if (capability != 9) return;
  for (int dim : {128, 64}) {
    run_case({"soft", {300}, dim, 2, 1, 128, Gates::kSoft});
    run_case({"hard, two documents", {150, 270}, dim, 2, 2, 64, Gates::kHard});
    if (quick) continue;
    run_case({"dense", {200}, dim, 2, 1, 128, Gates::kAbsent});
    run_case({"open gates", {385}, dim, 1, 2, 100, Gates::kOpen});
    run_case({"closed gates", {500}, dim, 1, 1, 100, Gates::kClosed});
    run_case({"mixed gates", {130, 513}, dim, 3, 1, 37, Gates::kMixed});
    run_case({"tiny gates", {400}, dim, 1, 1, 50, Gates::kTiny});
    run_case({"half of the keys kept", {640}, dim, 1, 1, 64, Gates::kFirstHalf});
    run_case({"documents that drop keys among others",
              {300, 20, 150, 210, 1, 199},
              dim,
              1,
              2,
              16,
              Gates::kShortOpen});
    run_case({"window 1", {260}, dim, 2, 1, 1, Gates::kHard});
    run_case({"window 200", {450}, dim, 1, 1, 200, Gates::kSoft});
    run_case({"window beyond the text", {150}, dim, 1, 1, 1 << 30, Gates::kClosed});
    run_case({"lengths around tiles",
              {1, 0, 63, 64, 65, 127, 128, 129, 0, 191, 192, 193, 2},
              dim,
              1,
              1,
              32,
              Gates::kMixed});
    run_case({"groups of 8", {200}, dim, 8, 1, 64, Gates::kSoft});
    run_case({"large scores", {300}, dim, 1, 1, 64, Gates::kSoft, 20});
    run_case({"rows apart", {333}, dim, 2, 2, 64, Gates::kMixed, 1, true});
  }
}

}  // namespace spkv_test
