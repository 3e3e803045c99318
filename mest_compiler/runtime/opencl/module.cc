#include "module.h"

#include <array>
#include <map>
#include <memory>
#include <mutex>

#include "device.h"
#include "errors.h"
#include "program.h"
#include "signature.h"

namespace mest::opencl {
namespace {

namespace ffi = tvm::ffi;

constexpr char kMark[] = "// Function: ";  // how TVM's code generator heads each kernel's own source
constexpr size_t kMostArguments = 128;

// The source of each kernel; see `Whole`.
std::map<std::string, std::string> Split(const std::string& code) {
  std::map<std::string, std::string> sources;
  for (size_t at = code.find(kMark); at != std::string::npos;) {
    size_t line = code.find('\n', at);
    if (line == std::string::npos) break;
    std::string name = code.substr(at + sizeof kMark - 1, line - at - (sizeof kMark - 1));
    at = code.find(kMark, line);
    sources[name] = code.substr(line + 1, at == std::string::npos ? at : at - line - 1);
  }
  return sources;
}

thread_local int current_device = 0;

// One kernel, built for a device when it is first launched there.
class LazyKernel {
 public:
  LazyKernel(Signature signature, std::string source, std::shared_ptr<Whole> whole)
      : signature_(std::move(signature)), source_(std::move(source)), whole_(std::move(whole)) {}
  ~LazyKernel() {
    for (auto& [device, kernel] : built_) ReleaseKernel(kernel);
  }

  void Launch(ffi::PackedArgs args) {
    size_t count = signature_.types.size();
    if (static_cast<size_t>(args.size()) != count + signature_.tags.size()) {
      Fail("Kernel '" + signature_.name + "' takes " + std::to_string(count) + " arguments and " +
           std::to_string(signature_.tags.size()) + " extents, and was launched with " + std::to_string(args.size()) +
           ".");
    }
    // Host code passes the arguments in TVM's plain form: integers as int64, floats as float64, buffers as addresses.
    const auto* raw = reinterpret_cast<const TVMFFIAny*>(args.data());
    std::array<Argument, kMostArguments> arguments;
    std::array<Scalar, kMostArguments> scalars;
    for (size_t i = 0; i < count; ++i) arguments[i] = Take(raw[i], i, &scalars[i]);
    std::vector<int64_t> extents;
    for (size_t i = count; i < static_cast<size_t>(args.size()); ++i) extents.push_back(raw[i].v_int64);
    Device& device = GetDevice(current_device);
    device.Launch(Built(device), arguments.data(), count, signature_.GridOf(extents));
  }

 private:
  union Scalar {
    int64_t integer;
    double number;
    float number32;
    cl_mem memory;
  };

  Argument Take(const TVMFFIAny& value, size_t index, Scalar* scalar) const {
    const DLDataType& type = signature_.types[index];
    if (type.code == kDLOpaqueHandle) {
      if (value.type_index != kTVMFFIOpaquePtr) {
        Fail("Argument " + std::to_string(index) + " of kernel '" + signature_.name +
             "' is not a buffer: launch it through the compiled function that it belongs to.");
      }
      scalar->memory = static_cast<const Buffer*>(value.v_ptr)->memory;
      return {sizeof scalar->memory, &scalar->memory};
    }
    if (type.code == kDLFloat && type.bits == 32) {
      scalar->number32 = static_cast<float>(value.v_float64);
    } else {
      scalar->integer = value.v_int64;  // its low bytes are the narrower integers
    }
    return {static_cast<size_t>(type.bits / 8), scalar};
  }

  const Kernel& Built(Device& device) {
    std::lock_guard<std::mutex> lock(lock_);
    auto at = built_.find(&device);
    if (at == built_.end()) at = built_.emplace(&device, BuildKernel(device, signature_.name, source_, *whole_)).first;
    return at->second;
  }

  Signature signature_;
  std::string source_;
  std::shared_ptr<Whole> whole_;
  std::mutex lock_;
  std::map<Device*, Kernel> built_;
};

class ModuleObj final : public ffi::ModuleObj {
 public:
  ModuleObj(ModuleContent content, std::map<std::string, std::string> sources)
      : content_(std::move(content)), sources_(std::move(sources)) {
    if (content_.format != "cl") {
      Fail("This library runs OpenCL C, and the compiled module holds '" + content_.format +
           "': compile it for the target opencl.");
    }
    std::map<std::string, std::string> of = Split(content_.code);
    auto whole = std::make_shared<Whole>(content_.code);
    for (const auto& [key, signature] : content_.kernels) {
      signature.Validate();
      if (signature.types.size() > kMostArguments) {
        Fail("Kernel '" + signature.name + "' has more than " + std::to_string(kMostArguments) + " arguments.");
      }
      auto own = of.find(signature.name);
      kernels_[key] = std::make_shared<LazyKernel>(signature, own == of.end() ? content_.code : own->second, whole);
    }
  }

  const char* kind() const final { return "opencl"; }
  int GetPropertyMask() const final { return ffi::Module::kBinarySerializable | ffi::Module::kRunnable; }

  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    auto at = kernels_.find(name);
    if (at == kernels_.end()) return std::nullopt;
    std::shared_ptr<LazyKernel> kernel = at->second;
    return ffi::Function::FromPacked([kernel](ffi::PackedArgs args, ffi::Any*) { kernel->Launch(args); });
  }

  ffi::Bytes SaveToBytes() const final { return ffi::Bytes(ToBytes(content_)); }

  ffi::String InspectSource(const ffi::String& format) const final {
    auto at = sources_.find(format.empty() ? "cl" : std::string(format));
    if (at != sources_.end()) return at->second;
    return format.empty() || format == "cl" ? content_.code : "";
  }

 private:
  ModuleContent content_;
  std::map<std::string, std::string> sources_;
  std::map<std::string, std::shared_ptr<LazyKernel>> kernels_;
};

}  // namespace

ffi::Module ModuleFromBytes(const ffi::Bytes& bytes) {
  ModuleContent content = FromBytes(std::string(bytes.data(), bytes.size()));
  return ffi::Module(ffi::make_object<ModuleObj>(std::move(content), std::map<std::string, std::string>()));
}

ffi::Module CreateModule(const ffi::Bytes& code, const ffi::String& format,
                         const ffi::Map<ffi::String, ffi::ObjectRef>& functions,
                         const ffi::Map<ffi::String, ffi::String>& sources) {
  ModuleContent content{format, SignaturesOf(functions), std::string(code.data(), code.size())};
  std::map<std::string, std::string> texts;
  for (const auto& [name, text] : sources) texts[name] = text;
  return ffi::Module(ffi::make_object<ModuleObj>(std::move(content), std::move(texts)));
}

void SetCurrentDevice(int index) {
  GetDevice(index);  // fails where there is none
  current_device = index;
}

int CurrentDevice() { return current_device; }

}  // namespace mest::opencl
