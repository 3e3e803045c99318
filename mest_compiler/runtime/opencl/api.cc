#include "api.h"

#include <dlfcn.h>

#include "errors.h"

namespace mest::opencl {
namespace {

// Debian and its like; Android keeps the vendor's library out of the default search path.
constexpr const char* kNames[] = {
    "libOpenCL.so.1",
    "libOpenCL.so",
    "/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "/system/lib64/libOpenCL.so",
};

Api Load() {
  void* library = nullptr;
  for (const char* name : kNames) {
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
  }
  if (library == nullptr) {
    Fail("There is no libOpenCL on this machine: install an OpenCL driver and the loader (on Debian pocl-opencl-icd and "
         "ocl-icd-libopencl1).");
  }
  Api api{};
#define MEST_LOOK_UP(name)                                                 \
  api.name = reinterpret_cast<decltype(&::name)>(dlsym(library, #name));   \
  if (api.name == nullptr) {                                               \
    Fail("This machine's libOpenCL lacks " #name ": OpenCL 1.2 is needed."); \
  }
  MEST_OPENCL_FUNCTIONS(MEST_LOOK_UP)
#undef MEST_LOOK_UP
  return api;
}

}  // namespace

const Api& Cl() {
  static const Api api = Load();
  return api;
}

}  // namespace mest::opencl
