// What TVM says of a kernel beside its source, and the bytes that an exported library holds it in.
#pragma once

#include <tvm/ffi/container/map.h>
#include <tvm/ffi/object.h>
#include <tvm/ffi/string.h>

#include <string>
#include <utility>
#include <vector>

#include "device.h"

namespace mest::opencl {

struct Signature {
  std::string name;
  std::vector<DLDataType> types;  // of the arguments, in the kernel's order
  std::vector<std::string> tags;  // what each int64 after the arguments is: "blockIdx.x", ...
  std::vector<int32_t> extra_tags;

  // Checks that every argument and tag is one that a launch can pass on.
  void Validate() const;
  // The grid of a launch; `extents`: the integers after the arguments.
  Grid GridOf(const std::vector<int64_t>& extents) const;
};

// Kernels by the name that host code looks them up under.
using Signatures = std::vector<std::pair<std::string, Signature>>;

Signatures SignaturesOf(const tvm::ffi::Map<tvm::ffi::String, tvm::ffi::ObjectRef>& functions);

struct ModuleContent {
  std::string format;
  Signatures kernels;
  std::string code;
};

std::string ToBytes(const ModuleContent& content);
ModuleContent FromBytes(const std::string& bytes);

}  // namespace mest::opencl
