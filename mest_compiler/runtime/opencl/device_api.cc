#include "device_api.h"

#include <tvm/ffi/string.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "device.h"
#include "errors.h"
#include "module.h"

namespace mest::opencl {
namespace {

namespace ffi = tvm::ffi;
using tvm::runtime::DeviceAttrKind;

void CheckRange(const Buffer* buffer, size_t offset, size_t bytes, const char* way) {
  if (offset > buffer->bytes || bytes > buffer->bytes - offset) {
    Fail("A copy " + std::string(way) + " bytes " + std::to_string(offset) + " to " + std::to_string(offset + bytes) +
         " of an OpenCL buffer that has " + std::to_string(buffer->bytes) + ".");
  }
}

class DeviceApi final : public tvm::runtime::DeviceAPI {
 public:
  using DeviceAPI::AllocDataSpace;

  void SetDevice(DLDevice device) final { SetCurrentDevice(device.device_id); }

  void GetAttr(DLDevice device, DeviceAttrKind kind, ffi::Any* value) final {
    const Device* found = FindDevice(device.device_id);
    *value = nullptr;  // what a device does not say is None
    if (kind == tvm::runtime::kExist) *value = static_cast<int64_t>(found != nullptr);
    if (found != nullptr && kind != tvm::runtime::kExist) Describe(found->info(), kind, value);
  }

  void GetTargetProperty(DLDevice device, const std::string& property, ffi::Any* value) final {
    const Device* found = FindDevice(device.device_id);
    if (found == nullptr) return;
    const DeviceInfo& info = found->info();
    if (property == "max_num_threads") *value = static_cast<int64_t>(info.max_group);
    if (property == "max_shared_memory_per_block") *value = static_cast<int64_t>(info.local_bytes);
  }

  void* AllocDataSpace(DLDevice device, size_t bytes, size_t, DLDataType) final {
    return GetDevice(device.device_id).Allocate(bytes);
  }

  void FreeDataSpace(DLDevice device, void* data) final {
    Device* found = Closed() ? nullptr : FindDevice(device.device_id);
    if (found != nullptr) found->Free(static_cast<Buffer*>(data));
  }

  void* AllocWorkspace(DLDevice device, size_t bytes, DLDataType) final {
    return GetDevice(device.device_id).TakeWorkspace(bytes);
  }

  void FreeWorkspace(DLDevice device, void* data) final {
    Device* found = Closed() ? nullptr : FindDevice(device.device_id);
    if (found != nullptr) found->GiveWorkspace(static_cast<Buffer*>(data));
  }

  void StreamSync(DLDevice device, TVMStreamHandle) final { GetDevice(device.device_id).Finish(); }

 protected:
  void CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset, size_t bytes,
                      DLDevice from_device, DLDevice to_device, DLDataType, TVMStreamHandle) final {
    if (bytes == 0) return;
    bool reads = from_device.device_type == kDLOpenCL, writes = to_device.device_type == kDLOpenCL;
    auto* source = static_cast<Buffer*>(const_cast<void*>(from));
    auto* target = static_cast<Buffer*>(to);
    if (reads) CheckRange(source, from_offset, bytes, "reads");
    if (writes) CheckRange(target, to_offset, bytes, "writes");
    if (reads && writes && from_device.device_id == to_device.device_id) {
      GetDevice(to_device.device_id).Copy(source, from_offset, target, to_offset, bytes);
    } else if (reads && writes) {
      std::vector<char> between(bytes);  // devices share no context
      GetDevice(from_device.device_id).Read(source, from_offset, between.data(), bytes);
      GetDevice(to_device.device_id).Write(between.data(), target, to_offset, bytes);
    } else if (reads && to_device.device_type == kDLCPU) {
      GetDevice(from_device.device_id).Read(source, from_offset, static_cast<char*>(to) + to_offset, bytes);
    } else if (writes && from_device.device_type == kDLCPU) {
      GetDevice(to_device.device_id).Write(static_cast<const char*>(from) + from_offset, target, to_offset, bytes);
    } else {
      Fail("OpenCL copies between its own buffers and the host's memory only.");
    }
  }

 private:
  static void Describe(const DeviceInfo& info, DeviceAttrKind kind, ffi::Any* value) {
    switch (kind) {
      case tvm::runtime::kMaxThreadsPerBlock:
        *value = static_cast<int64_t>(info.max_group);
        break;
      case tvm::runtime::kWarpSize:
        *value = static_cast<int64_t>(1);  // OpenCL promises nothing about items that run in step
        break;
      case tvm::runtime::kMaxSharedMemoryPerBlock:
        *value = static_cast<int64_t>(info.local_bytes);
        break;
      case tvm::runtime::kComputeVersion:
        *value = ffi::String(Version(info));
        break;
      case tvm::runtime::kDeviceName:
        *value = ffi::String(info.name);
        break;
      case tvm::runtime::kMaxClockRate:
        *value = static_cast<int64_t>(info.clock_mhz) * 1000;  // kHz
        break;
      case tvm::runtime::kMultiProcessorCount:
        *value = static_cast<int64_t>(info.compute_units);
        break;
      case tvm::runtime::kMaxThreadDimensions:
        *value = ffi::String("[" + std::to_string(info.max_items[0]) + ", " + std::to_string(info.max_items[1]) + ", " +
                             std::to_string(info.max_items[2]) + "]");
        break;
      case tvm::runtime::kApiVersion:
        *value = static_cast<int64_t>(CL_TARGET_OPENCL_VERSION);
        break;
      case tvm::runtime::kDriverVersion:
        *value = ffi::String(info.driver);
        break;
      case tvm::runtime::kL2CacheSizeBytes:
        *value = static_cast<int64_t>(info.cache_bytes);
        break;
      case tvm::runtime::kTotalGlobalMemory:
        *value = static_cast<int64_t>(info.global_bytes);
        break;
      default:
        break;
    }
  }

  // "OpenCL 1.2 some words" -> "1.2"
  static std::string Version(const DeviceInfo& info) {
    int major = 0, minor = 0;
    std::sscanf(info.version.c_str(), "OpenCL %d.%d", &major, &minor);
    return std::to_string(major) + "." + std::to_string(minor);
  }
};

}  // namespace

tvm::runtime::DeviceAPI* OpenClDeviceApi() {
  static auto* api = new DeviceApi();  // never deleted: tensors are freed after static objects are
  return api;
}

}  // namespace mest::opencl
