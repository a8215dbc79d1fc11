#include "cuda/operations.h"

namespace spkv {
namespace cuda {

const Operations operations = {
#define SPKV_ENTRY(name, Params) name,
    SPKV_OPERATIONS(SPKV_ENTRY)
#undef SPKV_ENTRY
};

}  // namespace cuda
}  // namespace spkv
