// Reads and checks the arguments of one operation, then enqueues it. Shapes are written as letters; a letter
// stands for the same number wherever it occurs in a call, and the message of a mismatch names both places.
//
//   Call call(info, "rms_norm");
//   params.out = call.tensor("out", kF32, "T C");
//   params.x = call.tensor("x", kF32, "T C");
//   params.weight = call.tensor("weight", kF32 | kBF16, "C");
//   params.epsilon = call.number("epsilon");
//   call.enqueue(params, &Operations::rms_norm);
#pragma once

#include <napi.h>

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binding/addon.h"
#include "ops/operations.h"

namespace spkv {
namespace binding {

// Sets of element types.
constexpr unsigned kF32 = 1u << static_cast<int>(DType::kF32);
constexpr unsigned kBF16 = 1u << static_cast<int>(DType::kBF16);
constexpr unsigned kI32 = 1u << static_cast<int>(DType::kI32);
constexpr unsigned kU8 = 1u << static_cast<int>(DType::kU8);

// The element type that a tensor has, where another one must have it too.
inline unsigned type_of(const View& view) { return 1u << static_cast<int>(view.dtype); }

class Call {
 public:
  Call(const Napi::CallbackInfo& info, const char* operation)
      : info_(info), env_(info.Env()), operation_(operation) {}

  // Each reads the next argument. What is given for an output must be writable, not mapped from a file.
  View tensor(const char* name, unsigned dtypes, const char* shape, bool packed = false);
  View output(const char* name, unsigned dtypes, const char* shape, bool packed = false);
  View optional_output(const char* name, unsigned dtypes, const char* shape);
  View optional_tensor(const char* name, unsigned dtypes, const char* shape);  // null or undefined: absent
  // An activation or its gradient: f32, or bf16 where the device computes in it.
  View activation(const char* name, const char* shape);
  View activation_output(const char* name, const char* shape);
  // Dimensions of argument `index`, for operations that take several ranks; at least 1.
  int rank(size_t index) const;
  double number(const char* name);
  int64_t integer(const char* name, int64_t min, int64_t max);
  bool boolean(const char* name);
  CacheHandle& cache(const char* name);
  // Binds the letters of a cache's geometry: "L" layers, "G" KV heads, "D" head size.
  const CacheGeometry& bind_geometry(const Cache& cache);
  // Reads "slots" and "offsets": which sequences a step is for, and which of its tokens are whose.
  template <typename Params>
  void batch(Params* params) {
    params->slots = tensor("slots", kI32, "B");
    params->offsets = tensor("offsets", kI32, "O");
    check(dimension('O') == dimension('B') + 1, Code::kShape, "Expected one more offset than slots");
  }
  // A tensor of any shape whose elements lie one after another.
  View contiguous(const char* name, bool written);
  const Operations& operations() const { return state_->device->operations(); }
  // The next argument as a handle that is held while the work is in flight.
  template <typename Handle>
  Handle& handle(const char* name) {
    Handle& handle = unwrap<Handle>(env_, next(), name);
    check(handle.resource() != nullptr, Code::kDisposed,
          std::string("the ") + Handle::kName + " has been disposed");
    hold(handle.state, handle.resource(), name);
    return handle;
  }

  // The number that a letter stands for.
  int64_t dimension(char letter) const;
  // Binds a letter to a number that does not come from a tensor ("L", of the cache).
  void bind(char letter, int64_t value, const std::string& where);

  // `output` may be the very tensor given for `input`. Apart from that no output may overlap another
  // argument; enqueue checks it.
  void in_place(const char* output, const char* input) { in_place_.push_back({output, input}); }
  void check(bool condition, Code code, const std::string& message);

  // A command that is no operation of the device.
  void enqueue(Command command) {
    check_overlaps();
    state_->device->stream().enqueue([command = std::move(command), held = std::move(held_)](
                                         Execution& execution) { return command(execution); });
  }

  template <typename Params>
  void enqueue(const Params& params, Status (*Operations::*operation)(const Params&, Execution&)) {
    check_overlaps();
    auto function = state_->device->operations().*operation;
    state_->device->stream().enqueue([params, function, held = std::move(held_)](Execution& execution) {
      return function(params, execution);
    });
  }

 private:
  struct Dimension {
    char letter;
    int64_t value;
    std::string where;
  };
  struct Argument {
    const char* name;
    View view;
    bool written;
  };
  struct InPlace {
    const char *output, *input;
  };

  Napi::Value next() { return info_[index_++]; }
  unsigned activation_types(const char* name) const;
  View read(Napi::Value value, const char* name, unsigned dtypes, const char* shape, bool packed,
            bool written);
  void check_overlaps();
  bool may_share(const Argument& output, const Argument& input) const;
  void hold(const std::shared_ptr<DeviceState>& state, std::shared_ptr<void> resource, const char* name);
  [[noreturn]] void refuse(Code code, const std::string& message);

  const Napi::CallbackInfo& info_;
  Napi::Env env_;
  const char* operation_;
  size_t index_ = 0;
  std::shared_ptr<DeviceState> state_;
  std::vector<std::shared_ptr<void>> held_;
  std::vector<Dimension> dimensions_;
  std::vector<Argument> arguments_;
  std::vector<InPlace> in_place_;
};

}  // namespace binding
}  // namespace spkv
