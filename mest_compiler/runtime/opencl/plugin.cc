// Registers OpenCL with TVM's runtime when this library is loaded, and the functions by which Python and RPC clients
// ask about devices, memory and times.
#include <dlfcn.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>

#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "device.h"
#include "device_api.h"
#include "errors.h"
#include "json.h"
#include "module.h"
#include "timer.h"

namespace mest::opencl {
namespace {

namespace ffi = tvm::ffi;

// The version in the package that the running libtvm_runtime belongs to; empty: it is not from a wheel.
std::string RunningVersion() {
  Dl_info library{};
  auto* in_runtime = reinterpret_cast<void*>(&tvm::runtime::DeviceAPI::Get);
  if (dladdr(in_runtime, &library) == 0 || library.dli_fname == nullptr) return "";
  std::string path = library.dli_fname;
  size_t folder = path.rfind('/');
  std::ifstream stream(path.substr(0, folder == std::string::npos ? 0 : folder + 1) + "../_version.py");
  for (std::string line; std::getline(stream, line);) {
    if (line.rfind("__version__ = ", 0) != 0) continue;
    size_t end = line.rfind('\''), begin = end == std::string::npos ? end : line.rfind('\'', end - 1);
    if (begin != std::string::npos) return line.substr(begin + 1, end - begin - 1);
  }
  return "";
}

std::string Version(const TVMFFIVersion& version) {
  return std::to_string(version.major) + "." + std::to_string(version.minor) + "." + std::to_string(version.patch);
}

// Why this library cannot serve the TVM that loads it, as a sentence; empty: it can.
std::string Problem() {
  std::string running = RunningVersion(), compiled = MEST_TVM_VERSION;
  const std::string remedy =
      ": C++ libraries of TVM fit one version only; build it again (mest devices --build-opencl).";
  if (!running.empty() && running != compiled) {
    return "The OpenCL plug-in was compiled for TVM " + compiled + " and TVM " + running + " runs" + remedy;
  }
  TVMFFIVersion own{TVM_FFI_VERSION_MAJOR, TVM_FFI_VERSION_MINOR, TVM_FFI_VERSION_PATCH}, there{};
  TVMFFIGetVersion(&there);
  if (Version(own) != Version(there)) {
    return "The OpenCL plug-in was compiled for tvm_ffi " + Version(own) + " and tvm_ffi " + Version(there) + " runs" +
           remedy;
  }
  return "";
}

std::string DevicesJson() {
  std::vector<std::string> all;
  for (const DeviceInfo& info : AllDevices()) all.push_back(info.Json());
  return JsonArray(all);
}

std::string MemoryJson(int device) {
  Memory memory = GetDevice(device).memory();
  return JsonObject()
      .Add("now", memory.now)
      .Add("peak", memory.peak)
      .Add("buffers", memory.buffers)
      .Add("pooled", memory.pooled)
      .Text();
}

std::string CountsJson(int device) {
  Counts counts = GetDevice(device).counts();
  return JsonObject().Add("launches", counts.launches).Add("built", counts.built).Add("cached", counts.cached).Text();
}

// Profiles that run, one a device.
std::mutex profiles_lock;
std::map<int, std::unique_ptr<Recorder>>& Profiles() {
  static auto* profiles = new std::map<int, std::unique_ptr<Recorder>>();
  return *profiles;
}

void ProfileStart(int index) {
  Device& device = GetDevice(index);
  std::lock_guard<std::mutex> lock(profiles_lock);
  std::unique_ptr<Recorder>& recorder = Profiles()[index];
  if (recorder != nullptr) device.Detach(recorder.get());  // one that nobody stopped
  recorder = std::make_unique<Recorder>(std::nullopt);
  device.Attach(recorder.get());
}

std::string ProfileStop(int index) {
  Device& device = GetDevice(index);
  std::unique_ptr<Recorder> recorder;
  {
    std::lock_guard<std::mutex> lock(profiles_lock);
    recorder.swap(Profiles()[index]);
  }
  if (recorder == nullptr) Fail("No profile runs on opencl(" + std::to_string(index) + "): start one first.");
  try {
    device.Collect(recorder.get());
  } catch (...) {
    device.Detach(recorder.get());
    throw;
  }
  device.Detach(recorder.get());
  uint64_t launches = 0, nanoseconds = 0;
  JsonObject commands;
  for (const auto& [name, sum] : recorder->sums()) {
    launches += sum.launches;
    nanoseconds += sum.nanoseconds;
    commands.Raw(name, JsonObject().Add("count", sum.launches).Add("ms", sum.nanoseconds * 1e-6).Text());
  }
  return JsonObject()
      .Add("count", launches)
      .Add("ms", nanoseconds * 1e-6)
      .Add("span_ms", recorder->span() * 1e-6)
      .Raw("commands", commands.Text())
      .Text();
}

void RegisterRuntime() {
  ffi::reflection::GlobalDef()
      .def("device_api.opencl", [] { return static_cast<void*>(OpenClDeviceApi()); })
      .def("ffi.Module.load_from_bytes.opencl", ModuleFromBytes)
      .def("ffi.Module.create.opencl", CreateModule)
      .def("runtime.timer.opencl", NewTimer)
      .def("mest.opencl.devices", DevicesJson)
      .def("mest.opencl.device", [](int device) { return GetDevice(device).info().Json(); })
      .def("mest.opencl.memory", MemoryJson)
      .def("mest.opencl.memory_reset_peak", [](int device) { GetDevice(device).ResetPeak(); })
      .def("mest.opencl.release_workspaces", [](int device) { GetDevice(device).ReleaseWorkspaces(); })
      .def("mest.opencl.counts", CountsJson)
      .def("mest.opencl.profile_start", ProfileStart)
      .def("mest.opencl.profile_stop", ProfileStop);
}

// Whoever asks for OpenCL gets the sentence, in a server that nobody watches too.
void RegisterProblem(const std::string& problem) {
  ffi::reflection::GlobalDef().def("device_api.opencl", [problem]() -> void* { Fail(problem); });
}

TVM_FFI_STATIC_INIT_BLOCK() {
  std::string problem;
  try {
    problem = ffi::Function::GetGlobal("device_api.opencl").has_value()
                  ? "This TVM has an OpenCL runtime already, so the plug-in stays out: use that, or the stock wheel."
                  : Problem();
    if (problem.empty()) {
      RegisterRuntime();
    } else if (!ffi::Function::GetGlobal("device_api.opencl").has_value()) {
      RegisterProblem(problem);
    }
    ffi::reflection::GlobalDef().def("mest.opencl.problem", [problem] { return problem; });
  } catch (const std::exception& error) {  // nothing may leave a constructor of a library
    std::fprintf(stderr, "The OpenCL plug-in could not register itself with TVM: %s\n", error.what());
  }
}

}  // namespace
}  // namespace mest::opencl
