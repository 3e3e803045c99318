"""Compiler passes from the traced step to kernels: one pass a file, their order in `pipeline`."""

import tvm_ffi

from mest_compiler.errors import ModelError

# An error raised inside a pass comes back through TVM, which would turn a class it does not know into RuntimeError.
tvm_ffi.register_error("ModelError", ModelError)
