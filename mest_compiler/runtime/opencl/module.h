// OpenCL kernels as a TVM module.
#pragma once

#include <tvm/ffi/extra/module.h>

namespace mest::opencl {

// From the bytes in an exported library.
tvm::ffi::Module ModuleFromBytes(const tvm::ffi::Bytes& bytes);

// From the code generator of this process: code, its format, what TVM knows of each kernel, sources to look at.
tvm::ffi::Module CreateModule(const tvm::ffi::Bytes& code, const tvm::ffi::String& format,
                              const tvm::ffi::Map<tvm::ffi::String, tvm::ffi::ObjectRef>& functions,
                              const tvm::ffi::Map<tvm::ffi::String, tvm::ffi::String>& sources);

// The device that the calling thread's launches go to, as host code sets it.
void SetCurrentDevice(int index);
int CurrentDevice();

}  // namespace mest::opencl
