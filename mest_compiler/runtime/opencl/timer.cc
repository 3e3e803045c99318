#include "timer.h"

#define TVM_RUNTIME_TENSOR_H_  // timer.h includes tensor.h without need, and the wheel lacks headers of that
#include <tvm/runtime/timer.h>

#include <thread>

#include "device.h"
#include "recorder.h"

namespace mest::opencl {
namespace {

namespace ffi = tvm::ffi;

// Adds up the device time of what its own thread sends to the device.
class EventTimer final : public tvm::runtime::TimerNode {
 public:
  explicit EventTimer(DLDevice device) : device_(GetDevice(device.device_id)) {}
  ~EventTimer() { Detach(); }

  void Start() final {
    device_.Attach(&recorder_);
    attached_ = true;
  }
  void Stop() final { recorder_.active = false; }
  int64_t SyncAndGetElapsedNanos() final {
    device_.Collect(&recorder_);
    Detach();
    uint64_t total = 0;
    for (const auto& [name, sum] : recorder_.sums()) total += sum.nanoseconds;
    return static_cast<int64_t>(total);
  }

  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("mest.opencl.EventTimer", EventTimer, tvm::runtime::TimerNode);

 private:
  void Detach() {
    if (attached_ && !Closed()) device_.Detach(&recorder_);
    attached_ = false;
  }

  Device& device_;
  Recorder recorder_{std::this_thread::get_id()};
  bool attached_ = false;
};

}  // namespace

ffi::ObjectRef NewTimer(DLDevice device) { return tvm::runtime::Timer(ffi::make_object<EventTimer>(device)); }

}  // namespace mest::opencl
