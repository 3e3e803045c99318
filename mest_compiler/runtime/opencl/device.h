// A device in use: its context and queues, its buffers, and every command that goes to it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api.h"
#include "devices.h"
#include "recorder.h"

namespace mest::opencl {

// What TVM holds as a tensor's address on the device.
struct Buffer {
  cl_mem memory;
  size_t bytes;
};

// A built kernel of one device.
struct Kernel {
  std::string name;
  cl_program program = nullptr;
  cl_kernel kernel = nullptr;
  size_t max_group = 0;      // items that its registers allow
  cl_ulong local_bytes = 0;  // of local memory a work-group
};

struct Argument {
  size_t size;
  const void* value;
};

struct Grid {
  cl_uint dimensions = 1;
  std::array<size_t, 3> groups{1, 1, 1}, items{1, 1, 1};
  std::string Text() const;  // "a grid of 4x1x1 work-groups of 16x16x1 = 256 items"
};

struct Memory {
  uint64_t now = 0, peak = 0, buffers = 0, pooled = 0;  // bytes; pooled: those of workspaces that nobody uses
};

struct Counts {
  uint64_t launches = 0, built = 0, cached = 0;  // kernels: built from source, taken from the cache of binaries
};

class Device {
 public:
  explicit Device(const DeviceInfo& info);

  const DeviceInfo& info() const { return info_; }
  cl_context context() const { return context_; }

  Buffer* Allocate(size_t bytes);
  void Free(Buffer* buffer);
  Buffer* TakeWorkspace(size_t bytes);
  void GiveWorkspace(Buffer* buffer);
  void ReleaseWorkspaces();

  // The first two return when the data is there, the third when the copy is in the queue.
  void Write(const void* from, Buffer* to, size_t offset, size_t bytes);
  void Read(Buffer* from, size_t offset, void* to, size_t bytes);
  void Copy(Buffer* from, size_t from_offset, Buffer* to, size_t to_offset, size_t bytes);

  void Launch(const Kernel& kernel, const Argument* arguments, size_t count, const Grid& grid);
  void Finish();

  // While a recorder is attached, commands go through a queue that takes times.
  void Attach(Recorder* recorder);
  void Detach(Recorder* recorder);
  // Stops a recorder and sums what it has seen.
  void Collect(Recorder* recorder);

  Memory memory();
  void ResetPeak();
  Counts counts();
  void CountBuilt(bool from_cache);

 private:
  // Sends one command to the queue in use; `event`: set to the command's event, which the caller releases.
  template <typename Enqueue>
  cl_int Submit(const std::string& name, cl_event* event, Enqueue enqueue);
  void Wait(cl_event event, const std::string& doing);
  cl_command_queue Queue();
  Buffer* TryAllocate(size_t bytes, cl_int* code);
  void Release(Buffer* buffer);
  std::string LastLaunch();

  DeviceInfo info_;
  cl_context context_ = nullptr;
  std::mutex queue_lock_;
  cl_command_queue plain_ = nullptr, timed_ = nullptr;
  std::vector<Recorder*> recorders_;
  int unflushed_ = 0;
  std::string last_launch_;
  std::mutex memory_lock_;
  Memory memory_;
  std::vector<Buffer*> workspaces_;  // unused ones
  std::mutex counts_lock_;
  Counts counts_;
};

// The device that TVM calls opencl(index). OpenCL is first touched here, not when the library is loaded, so that
// a server may load it and fork. Fails with a sentence where there is no such device.
Device& GetDevice(int index);

// The same, or nullptr; never fails.
Device* FindDevice(int index) noexcept;

// Whether OpenCL must not be called any more: the process ends, or it is a fork of one that used OpenCL.
bool Closed();

}  // namespace mest::opencl
