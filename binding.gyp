{
  'variables': {
    'isa_sources': ['<!@(node scripts/sources.mjs isa)'],
    'sanitize%': '0',
  },
  'target_defaults': {
    'include_dirs': ['native'],
    'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17', '-std=gnu++20'],
    'cflags_cc': ['-std=c++17', '-O3', '-fexceptions', '-fvisibility=hidden', '-fno-math-errno', '-fno-trapping-math', '-ffp-contract=fast', '-Wall', '-Wextra', '-Wno-psabi'],
    'xcode_settings': {
      'CLANG_CXX_LANGUAGE_STANDARD': 'c++17',
      'GCC_ENABLE_CPP_EXCEPTIONS': 'YES',
      'GCC_SYMBOLS_PRIVATE_EXTERN': 'YES',
      'GCC_OPTIMIZATION_LEVEL': '3',
      'MACOSX_DEPLOYMENT_TARGET': '11.0',
      'OTHER_CFLAGS': ['-fno-math-errno', '-fno-trapping-math', '-ffp-contract=fast', '-Wno-psabi'],
    },
    'conditions': [
      ['sanitize==1', {
        'cflags_cc': ['-O1', '-g', '-fno-omit-frame-pointer', '-fsanitize=address,undefined', '-fno-sanitize-recover=undefined'],
        'ldflags': ['-fsanitize=address,undefined'],
      }],
    ],
  },
  'targets': [
    {
      'target_name': 'cpu_portable',
      'type': 'static_library',
      'sources': ['<@(isa_sources)'],
      'defines': ['SPKV_ISA=portable'],
    },
    {
      'target_name': 'spkv',
      'sources': ['<!@(node scripts/sources.mjs common)'],
      'include_dirs': ["<!(node -p \"require('node-addon-api').include_dir\")"],
      'defines': [
        'NAPI_VERSION=9', 'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS', 'NAPI_CPP_EXCEPTIONS',
        'SPKV_CUDA_VERSION="<!(node scripts/interface.mjs)"',
      ],
      'dependencies': ['cpu_portable'],
      'conditions': [
        ['target_arch=="x64"', { 'dependencies': ['cpu_avx2', 'cpu_avx512'] }],
      ],
    },
  ],
  'conditions': [
    ['target_arch=="x64"', {
      'targets': [
        {
          'target_name': 'cpu_avx2',
          'type': 'static_library',
          'sources': ['<@(isa_sources)'],
          'defines': ['SPKV_ISA=avx2'],
          'cflags_cc': ['-mavx2', '-mfma', '-mf16c'],
          'xcode_settings': { 'OTHER_CFLAGS': ['-mavx2', '-mfma', '-mf16c'] },
        },
        {
          'target_name': 'cpu_avx512',
          'type': 'static_library',
          'sources': ['<@(isa_sources)'],
          'defines': ['SPKV_ISA=avx512'],
          'cflags_cc': ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mfma', '-mprefer-vector-width=512'],
          'xcode_settings': { 'OTHER_CFLAGS': ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mfma'] },
        },
      ],
    }],
  ],
}
