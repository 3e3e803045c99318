#include "device.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "errors.h"

namespace mest::opencl {
namespace {

// TVM never flushes: without it a mobile driver may hold a whole step back, or kill it as one long job.
constexpr int kFlushEvery = 10;

std::atomic<bool> exiting{false}, forked{false};

std::string Bytes(uint64_t bytes) {
  constexpr uint64_t kMiB = 1 << 20;
  return bytes < 10 * kMiB ? std::to_string(bytes) + " bytes" : std::to_string(bytes / kMiB) + " MiB";
}

std::string Extents(const std::array<size_t, 3>& of) {
  return std::to_string(of[0]) + "x" + std::to_string(of[1]) + "x" + std::to_string(of[2]);
}

using Devices = std::vector<std::unique_ptr<Device>>;

Devices* open_devices = nullptr;

void FinishAll() {
  for (auto& device : *open_devices) {
    try {
      device->Finish();
    } catch (...) {  // the process ends anyway
    }
  }
}

// Python frees tensors while the process ends, after drivers have gone: from here on nothing is called any more.
void Close() {
  if (!forked) {
    try {
      std::thread(FinishAll).join();  // this thread's thread-local objects, and so those of drivers, are gone already
    } catch (...) {
    }
  }
  exiting = true;
}

Devices* Open() {
  auto devices = std::make_unique<Devices>();
  for (const DeviceInfo& info : ChosenDevices()) devices->push_back(std::make_unique<Device>(info));
  open_devices = devices.release();  // never deleted: drivers may be gone before static objects are
  std::atexit(Close);
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
  return open_devices;
}

Devices& All() {
  static Devices* devices = Open();
  if (forked) {
    Fail("OpenCL was used before this process was forked and does not work in the child: start it as a process of its "
         "own, or use OpenCL in the child only.");
  }
  return *devices;
}

}  // namespace

std::string Grid::Text() const {
  return "a grid of " + Extents(groups) + " work-groups of " + Extents(items) + " = " +
         std::to_string(items[0] * items[1] * items[2]) + " items";
}

Device::Device(const DeviceInfo& info) : info_(info) {
  cl_int code = CL_SUCCESS;
  cl_context_properties on[] = {CL_CONTEXT_PLATFORM, reinterpret_cast<cl_context_properties>(info.platform_id), 0};
  context_ = Cl().clCreateContext(on, 1, &info.id, nullptr, nullptr, &code);
  Check(code, "make a context for " + info.Title());
  plain_ = Cl().clCreateCommandQueue(context_, info.id, 0, &code);
  Check(code, "make a queue for " + info.Title());
}

cl_command_queue Device::Queue() { return recorders_.empty() ? plain_ : timed_; }

std::string Device::LastLaunch() {
  std::lock_guard<std::mutex> lock(queue_lock_);
  return last_launch_.empty() ? "" : "; the last kernel launched was '" + last_launch_ + "'";
}

template <typename Enqueue>
cl_int Device::Submit(const std::string& name, cl_event* event, Enqueue enqueue) {
  std::lock_guard<std::mutex> lock(queue_lock_);
  cl_command_queue queue = Queue();
  std::vector<Recorder*> wanting;
  for (Recorder* recorder : recorders_) {
    if (recorder->Wants(std::this_thread::get_id())) wanting.push_back(recorder);
  }
  cl_event made = nullptr;
  cl_int code = enqueue(queue, event != nullptr || !wanting.empty() ? &made : nullptr);
  if (code != CL_SUCCESS) return code;
  if (event != nullptr) *event = made;
  for (size_t i = 0; i < wanting.size(); ++i) {
    if (event != nullptr || i > 0) Cl().clRetainEvent(made);
    wanting[i]->Add(name, made);
  }
  if (++unflushed_ >= kFlushEvery) {
    unflushed_ = 0;
    Cl().clFlush(queue);
  }
  return CL_SUCCESS;
}

void Device::Wait(cl_event event, const std::string& doing) {
  cl_int code = Cl().clWaitForEvents(1, &event);
  Cl().clReleaseEvent(event);
  if (code != CL_SUCCESS) Check(code, doing + " on " + info_.Title() + LastLaunch());
}

void Device::Write(const void* from, Buffer* to, size_t offset, size_t bytes) {
  cl_event done = nullptr;
  cl_int code = Submit("copy to the device", &done, [&](cl_command_queue queue, cl_event* event) {
    return Cl().clEnqueueWriteBuffer(queue, to->memory, CL_FALSE, offset, bytes, from, 0, nullptr, event);
  });
  Check(code, "copy " + Bytes(bytes) + " to " + info_.Title());
  Wait(done, "copy " + Bytes(bytes) + " to a buffer");
}

void Device::Read(Buffer* from, size_t offset, void* to, size_t bytes) {
  cl_event done = nullptr;
  cl_int code = Submit("copy to the host", &done, [&](cl_command_queue queue, cl_event* event) {
    return Cl().clEnqueueReadBuffer(queue, from->memory, CL_FALSE, offset, bytes, to, 0, nullptr, event);
  });
  Check(code, "copy " + Bytes(bytes) + " from " + info_.Title());
  Wait(done, "copy " + Bytes(bytes) + " from a buffer");
}

void Device::Copy(Buffer* from, size_t from_offset, Buffer* to, size_t to_offset, size_t bytes) {
  cl_int code = Submit("copy on the device", nullptr, [&](cl_command_queue queue, cl_event* event) {
    return Cl().clEnqueueCopyBuffer(queue, from->memory, to->memory, from_offset, to_offset, bytes, 0, nullptr, event);
  });
  Check(code, "copy " + Bytes(bytes) + " between buffers of " + info_.Title());
}

void Device::Launch(const Kernel& kernel, const Argument* arguments, size_t count, const Grid& grid) {
  auto refuse = [&](const std::string& why) {
    Fail("Kernel '" + kernel.name + "' cannot run on " + info_.Title() + " in " + grid.Text() + ": " + why + ".");
  };
  size_t items = grid.items[0] * grid.items[1] * grid.items[2];
  size_t most = std::min(info_.max_group, kernel.max_group);
  if (items > most) {
    refuse("a work-group has at most " + std::to_string(most) + " items there" +
           (most < info_.max_group ? " with this kernel's registers" : ""));
  }
  for (int i = 0; i < 3; ++i) {
    if (info_.max_items[i] != 0 && grid.items[i] > info_.max_items[i]) {
      refuse("a work-group extends over at most " + std::to_string(info_.max_items[i]) + " items in dimension " +
             std::to_string(i));
    }
  }
  std::array<size_t, 3> global;
  for (int i = 0; i < 3; ++i) global[i] = grid.groups[i] * grid.items[i];
  int wrong = -1;
  cl_int code = Submit(kernel.name, nullptr, [&](cl_command_queue queue, cl_event* event) {
    for (cl_uint i = 0; i < count; ++i) {  // under the queue's lock: a kernel holds one set of arguments
      cl_int set = Cl().clSetKernelArg(kernel.kernel, i, arguments[i].size, arguments[i].value);
      if (set != CL_SUCCESS) {
        wrong = static_cast<int>(i);
        return set;
      }
    }
    last_launch_ = kernel.name;
    return Cl().clEnqueueNDRangeKernel(queue, kernel.kernel, grid.dimensions, nullptr, global.data(), grid.items.data(),
                                       0, nullptr, event);
  });
  if (wrong >= 0) refuse("its argument " + std::to_string(wrong) + " was refused with " + CodeName(code));
  if (code != CL_SUCCESS) {
    refuse("the driver answered " + CodeName(code) + (IsOutOfMemory(code) ? ", " + Bytes(memory().now) + " are allocated" : ""));
  }
  std::lock_guard<std::mutex> lock(counts_lock_);
  counts_.launches += 1;
}

void Device::Finish() {
  cl_command_queue queue;
  {
    std::lock_guard<std::mutex> lock(queue_lock_);
    queue = Queue();
    unflushed_ = 0;
  }
  cl_int code = Cl().clFinish(queue);
  if (code != CL_SUCCESS) Check(code, "finish what was launched on " + info_.Title() + LastLaunch());
}

void Device::Attach(Recorder* recorder) {
  std::lock_guard<std::mutex> lock(queue_lock_);
  if (timed_ == nullptr) {
    cl_int code = CL_SUCCESS;
    timed_ = Cl().clCreateCommandQueue(context_, info_.id, CL_QUEUE_PROFILING_ENABLE, &code);
    Check(code, "make a queue that takes times for " + info_.Title());
  }
  if (recorders_.empty()) Check(Cl().clFinish(plain_), "finish before it takes times");  // commands stay in order
  recorders_.push_back(recorder);
}

void Device::Detach(Recorder* recorder) {
  std::lock_guard<std::mutex> lock(queue_lock_);
  auto at = std::find(recorders_.begin(), recorders_.end(), recorder);
  if (at == recorders_.end()) return;
  recorders_.erase(at);
  if (recorders_.empty()) Cl().clFinish(timed_);  // what failed is said by the next call
}

void Device::Collect(Recorder* recorder) {
  std::lock_guard<std::mutex> lock(queue_lock_);
  recorder->active = false;
  recorder->Collect(true);
}

Buffer* Device::TryAllocate(size_t bytes, cl_int* code) {
  size_t least = std::max<size_t>(bytes, 1);  // OpenCL has no empty buffers
  cl_mem memory = Cl().clCreateBuffer(context_, CL_MEM_READ_WRITE, least, nullptr, code);
  if (*code != CL_SUCCESS) return nullptr;
  std::lock_guard<std::mutex> lock(memory_lock_);
  memory_.now += bytes;
  memory_.peak = std::max(memory_.peak, memory_.now);
  memory_.buffers += 1;
  return new Buffer{memory, bytes};
}

Buffer* Device::Allocate(size_t bytes) {
  cl_int code = CL_SUCCESS;
  Buffer* buffer = TryAllocate(bytes, &code);
  if (buffer == nullptr && IsOutOfMemory(code) && memory().pooled > 0) {
    ReleaseWorkspaces();
    Finish();  // memory of released buffers comes back when the commands that use them are done
    buffer = TryAllocate(bytes, &code);
  }
  if (buffer != nullptr) return buffer;
  if (!IsOutOfMemory(code)) Check(code, "make a buffer of " + Bytes(bytes) + " on " + info_.Title());
  Fail(info_.Title() + " is out of memory: a buffer of " + Bytes(bytes) + " was asked for with " + Bytes(memory().now) +
       " allocated, and it has " + Bytes(info_.global_bytes) + ", at most " + Bytes(info_.max_allocation) +
       " a buffer (" + CodeName(code) + "); take a smaller batch or a smaller model.");
}

void Device::Release(Buffer* buffer) {
  {
    std::lock_guard<std::mutex> lock(memory_lock_);
    memory_.now -= buffer->bytes;
    memory_.buffers -= 1;
  }
  Cl().clReleaseMemObject(buffer->memory);
  delete buffer;
}

void Device::Free(Buffer* buffer) {
  if (buffer != nullptr && !Closed()) Release(buffer);
}

Buffer* Device::TakeWorkspace(size_t bytes) {
  {
    std::lock_guard<std::mutex> lock(memory_lock_);
    auto best = workspaces_.end();
    for (auto at = workspaces_.begin(); at != workspaces_.end(); ++at) {
      if ((*at)->bytes >= bytes && (best == workspaces_.end() || (*at)->bytes < (*best)->bytes)) best = at;
    }
    if (best != workspaces_.end()) {
      Buffer* buffer = *best;
      workspaces_.erase(best);
      memory_.pooled -= buffer->bytes;
      return buffer;
    }
  }
  return Allocate(bytes);
}

// Kernels that still use it are in the queue before whatever its next owner launches.
void Device::GiveWorkspace(Buffer* buffer) {
  if (buffer == nullptr || Closed()) return;
  std::lock_guard<std::mutex> lock(memory_lock_);
  workspaces_.push_back(buffer);
  memory_.pooled += buffer->bytes;
}

void Device::ReleaseWorkspaces() {
  std::vector<Buffer*> unused;
  {
    std::lock_guard<std::mutex> lock(memory_lock_);
    unused.swap(workspaces_);
    memory_.pooled = 0;
  }
  for (Buffer* buffer : unused) Release(buffer);
}

Memory Device::memory() {
  std::lock_guard<std::mutex> lock(memory_lock_);
  return memory_;
}

void Device::ResetPeak() {
  std::lock_guard<std::mutex> lock(memory_lock_);
  memory_.peak = memory_.now;
}

Counts Device::counts() {
  std::lock_guard<std::mutex> lock(counts_lock_);
  return counts_;
}

void Device::CountBuilt(bool from_cache) {
  std::lock_guard<std::mutex> lock(counts_lock_);
  (from_cache ? counts_.cached : counts_.built) += 1;
}

Device& GetDevice(int index) {
  Devices& devices = All();
  if (index < 0 || index >= static_cast<int>(devices.size())) {
    Fail("There is no device opencl(" + std::to_string(index) + "): OpenCL has " + std::to_string(devices.size()) +
         " here that MEST_OPENCL_DEVICE allows, counted from 0.");
  }
  return *devices[index];
}

Device* FindDevice(int index) noexcept {
  try {
    return &GetDevice(index);
  } catch (...) {  // no driver, no device, another one asked for: all the same to who asks whether it exists
    return nullptr;
  }
}

bool Closed() { return exiting || forked; }

}  // namespace mest::opencl
