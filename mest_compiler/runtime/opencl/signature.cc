#include "signature.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/dtype.h>

#include <algorithm>
#include <cstring>

#include "errors.h"

namespace mest::opencl {
namespace {

namespace ffi = tvm::ffi;

enum class ExtraTag : int {};

// The form of TVM's own object of this name, whose header the wheel keeps among its sources; the check of versions
// when the library is loaded holds the two together.
class FunctionInfoObj : public ffi::Object {
 public:
  ffi::String name;
  ffi::Array<DLDataType> types;
  ffi::Array<ffi::String> tags;
  ffi::Array<ExtraTag> extra_tags;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("runtime.FunctionInfo", FunctionInfoObj, ffi::Object);
};

// Little endian, as every machine here is; a text is its length and its bytes, a list its length and its items.
class Writer {
 public:
  template <typename T>
  void Plain(const T& value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void Text(const std::string& text) {
    Plain<uint64_t>(text.size());
    bytes += text;
  }
  std::string bytes;
};

class Reader {
 public:
  explicit Reader(const std::string& bytes) : bytes_(bytes) {}
  template <typename T>
  T Plain() {
    T value;
    Need(sizeof value);
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  std::string Text() {
    uint64_t size = Plain<uint64_t>();
    Need(size);
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }
  template <typename Item>
  auto List(Item item) {
    std::vector<decltype(item())> items;
    for (uint64_t left = Plain<uint64_t>(); left > 0; --left) items.push_back(item());
    return items;
  }
  bool AtEnd() const { return at_ == bytes_.size(); }

 private:
  void Need(uint64_t size) const {
    if (bytes_.size() - at_ < size) Damaged();
  }
  [[noreturn]] static void Damaged() {
    Fail("The OpenCL part of a compiled library is cut off or of another TVM version: export the library again.");
  }
  const std::string& bytes_;
  size_t at_ = 0;
};

// Where an extent belongs: 0-2 work-groups, 3-5 items; -1: nowhere.
int Place(const std::string& tag) {
  for (int base : {0, 3}) {
    std::string prefix = base == 0 ? "blockIdx." : "threadIdx.";
    if (tag.size() != prefix.size() + 1 || tag.compare(0, prefix.size(), prefix) != 0) continue;
    int axis = tag.back() - 'x';
    if (axis >= 0 && axis < 3) return base + axis;
  }
  return -1;
}

}  // namespace

void Signature::Validate() const {
  for (size_t i = 0; i < types.size(); ++i) {
    const DLDataType& type = types[i];
    bool known = type.code == kDLOpaqueHandle ||
                 ((type.code == kDLInt || type.code == kDLUInt || type.code == kDLBool) && type.bits % 8 == 0) ||
                 (type.code == kDLFloat && (type.bits == 32 || type.bits == 64));
    if (type.lanes != 1 || !known || type.bits > 64) {
      Fail("Argument " + std::to_string(i) + " of kernel '" + name +
           "' is neither a buffer nor an integer, a float32 or a float64: pass it in a buffer.");
    }
  }
  for (const std::string& tag : tags) {
    if (Place(tag) < 0) Fail("Kernel '" + name + "' is to be launched with '" + tag + "', which OpenCL has not.");
  }
}

Grid Signature::GridOf(const std::vector<int64_t>& extents) const {
  Grid grid;
  for (size_t i = 0; i < tags.size(); ++i) {
    int place = Place(tags[i]);
    auto& side = place < 3 ? grid.groups : grid.items;
    side[place % 3] = static_cast<size_t>(std::max<int64_t>(extents[i], 1));  // a shape may be empty at run time
    grid.dimensions = std::max<cl_uint>(grid.dimensions, place % 3 + 1);
  }
  return grid;
}

Signatures SignaturesOf(const ffi::Map<ffi::String, ffi::ObjectRef>& functions) {
  Signatures found;
  for (const auto& [key, value] : functions) {
    const auto* info = value.as<FunctionInfoObj>();
    if (info == nullptr) {
      Fail("TVM describes kernel '" + std::string(key) + "' in a form that this library does not know.");
    }
    Signature signature;
    signature.name = info->name;
    for (const DLDataType& type : info->types) signature.types.push_back(type);
    for (const ffi::String& tag : info->tags) signature.tags.push_back(tag);
    for (ExtraTag tag : info->extra_tags) signature.extra_tags.push_back(static_cast<int32_t>(tag));
    found.emplace_back(key, std::move(signature));
  }
  return found;
}

std::string ToBytes(const ModuleContent& content) {
  Writer to;
  to.Text(content.format);
  to.Plain<uint64_t>(content.kernels.size());
  for (const auto& [key, kernel] : content.kernels) {
    to.Text(key);
    to.Text(kernel.name);
    to.Plain<uint64_t>(kernel.types.size());
    for (const DLDataType& type : kernel.types) {
      to.Plain<uint8_t>(type.code);
      to.Plain<uint8_t>(type.bits);
      to.Plain<uint16_t>(type.lanes);
    }
    to.Plain<uint64_t>(kernel.tags.size());
    for (const std::string& tag : kernel.tags) to.Text(tag);
    to.Plain<uint64_t>(kernel.extra_tags.size());
    for (int32_t tag : kernel.extra_tags) to.Plain<int32_t>(tag);
  }
  to.Text(content.code);
  return to.bytes;
}

ModuleContent FromBytes(const std::string& bytes) {
  Reader from(bytes);
  ModuleContent content;
  content.format = from.Text();
  content.kernels = from.List([&] {
    std::string key = from.Text();
    Signature kernel;
    kernel.name = from.Text();
    kernel.types = from.List([&] {
      DLDataType type;
      type.code = from.Plain<uint8_t>();
      type.bits = from.Plain<uint8_t>();
      type.lanes = from.Plain<uint16_t>();
      return type;
    });
    kernel.tags = from.List([&] { return from.Text(); });
    kernel.extra_tags = from.List([&] { return from.Plain<int32_t>(); });
    return std::make_pair(key, kernel);
  });
  content.code = from.Text();
  if (!from.AtEnd()) Fail("The OpenCL part of a compiled library is longer than it says: export the library again.");
  return content;
}

}  // namespace mest::opencl
