#include "cpu/isa.h"

SPKV_ISA_BEGIN

extern const Operations operations;
const Operations operations = {
#define SPKV_ENTRY(name, Params) name,
    SPKV_OPERATIONS(SPKV_ENTRY)
#undef SPKV_ENTRY
};

SPKV_ISA_END
