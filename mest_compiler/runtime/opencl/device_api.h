// OpenCL as TVM's runtime sees a device.
#pragma once

#include <tvm/runtime/device_api.h>

namespace mest::opencl {

tvm::runtime::DeviceAPI* OpenClDeviceApi();

}  // namespace mest::opencl
