#include "program.h"

#include <sstream>
#include <vector>

#include "binaries.h"
#include "errors.h"

namespace mest::opencl {
namespace {

constexpr int kLogLines = 12;
constexpr size_t kLogColumns = 200;

// Everything that a binary depends on.
std::string CacheKey(const DeviceInfo& info, const std::string& source) {
  std::string key;
  for (const std::string& part : {info.platform, info.name, info.vendor, info.version, info.driver, source}) {
    key += part + '\0';
  }
  return key;
}

// The first lines of a build log that say something.
std::string BuildLog(cl_program program, cl_device_id device) {
  size_t size = 0;
  Cl().clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, 0, nullptr, &size);
  std::string log(size, '\0');
  if (size > 0) Cl().clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, size, log.data(), nullptr);
  std::istringstream lines(log.c_str());
  std::string text, line;
  for (int count = 0; count < kLogLines && std::getline(lines, line);) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    text += "\n  " + line.substr(0, kLogColumns);
    ++count;
  }
  return text.empty() ? "\n  (the driver left its build log empty)" : text;
}

// A program from a binary that an earlier process left; nullptr: there is none, or the driver does not take it.
cl_program FromBinary(Device& device, const std::string& key) {
  std::string binary = LoadBinary(key);
  if (binary.empty()) return nullptr;
  const auto* data = reinterpret_cast<const unsigned char*>(binary.data());
  size_t size = binary.size();
  cl_device_id id = device.info().id;
  cl_int status = CL_SUCCESS, code = CL_SUCCESS;
  cl_program program = Cl().clCreateProgramWithBinary(device.context(), 1, &id, &size, &data, &status, &code);
  if (code != CL_SUCCESS) return nullptr;
  if (status == CL_SUCCESS && Cl().clBuildProgram(program, 1, &id, nullptr, nullptr, nullptr) == CL_SUCCESS) {
    return program;
  }
  Cl().clReleaseProgram(program);
  return nullptr;
}

cl_program FromSource(Device& device, const std::string& name, const std::string& source, const std::string& key) {
  const DeviceInfo& info = device.info();
  const char* text = source.c_str();
  size_t size = source.size();
  cl_int code = CL_SUCCESS;
  cl_program program = Cl().clCreateProgramWithSource(device.context(), 1, &text, &size, &code);
  Check(code, "take the source of kernel '" + name + "'");
  code = Cl().clBuildProgram(program, 1, &info.id, nullptr, nullptr, nullptr);
  if (code != CL_SUCCESS) {
    std::string log = BuildLog(program, info.id);
    Cl().clReleaseProgram(program);
    Fail("Kernel '" + name + "' does not compile for " + info.Title() + ", " + CodeName(code) + "; its build log begins:" +
         log);
  }
  size_t length = 0;
  code = Cl().clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof length, &length, nullptr);
  if (code == CL_SUCCESS && length > 0) {
    std::string binary(length, '\0');
    auto* data = reinterpret_cast<unsigned char*>(binary.data());
    code = Cl().clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof data, &data, nullptr);
    if (code == CL_SUCCESS) SaveBinary(key, binary);
  }
  return program;
}

}  // namespace

Kernel BuildKernel(Device& device, const std::string& name, const std::string& source) {
  const DeviceInfo& info = device.info();
  std::string key = CacheKey(info, source);
  Kernel kernel;
  kernel.name = name;
  cl_int code = CL_SUCCESS;
  kernel.program = FromBinary(device, key);
  if (kernel.program != nullptr) {
    kernel.kernel = Cl().clCreateKernel(kernel.program, name.c_str(), &code);
    if (code != CL_SUCCESS) {  // a binary of something else: the source decides
      Cl().clReleaseProgram(kernel.program);
      kernel.program = nullptr;
    }
  }
  bool from_cache = kernel.program != nullptr;
  if (!from_cache) {
    kernel.program = FromSource(device, name, source, key);
    kernel.kernel = Cl().clCreateKernel(kernel.program, name.c_str(), &code);
    if (code != CL_SUCCESS) {
      Cl().clReleaseProgram(kernel.program);
      Check(code, "find kernel '" + name + "' in its program on " + info.Title());
    }
  }
  code = Cl().clGetKernelWorkGroupInfo(kernel.kernel, info.id, CL_KERNEL_WORK_GROUP_SIZE, sizeof kernel.max_group,
                                       &kernel.max_group, nullptr);
  if (code != CL_SUCCESS) kernel.max_group = info.max_group;
  device.CountBuilt(from_cache);
  return kernel;
}

void ReleaseKernel(const Kernel& kernel) {
  if (Closed()) return;
  if (kernel.kernel != nullptr) Cl().clReleaseKernel(kernel.kernel);
  if (kernel.program != nullptr) Cl().clReleaseProgram(kernel.program);
}

}  // namespace mest::opencl
