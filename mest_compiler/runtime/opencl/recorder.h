// Sums the device time of commands from their events: for timers and for profiles by kernel.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "api.h"

namespace mest::opencl {

// Not safe by itself: a device calls it under its lock.
class Recorder {
 public:
  struct Sum {
    uint64_t launches = 0;
    uint64_t nanoseconds = 0;
  };

  // `only`: commands of that thread alone; nothing: of all threads.
  explicit Recorder(std::optional<std::thread::id> only) : only_(only) {}
  ~Recorder() { Clear(); }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  bool Wants(std::thread::id thread) const { return active && (!only_ || *only_ == thread); }

  // Takes over the event of a command that has just been enqueued.
  void Add(const std::string& name, cl_event event);

  // Sums the events of commands that are done; `all`: waits for the others first.
  void Collect(bool all);

  const std::map<std::string, Sum>& sums() const { return sums_; }

  // From the start of the first command to the end of the last one: the gaps between them are in it.
  uint64_t span() const { return end_ > begin_ ? end_ - begin_ : 0; }

  bool active = true;

 private:
  void Clear();

  std::optional<std::thread::id> only_;
  std::deque<std::pair<std::string, cl_event>> pending_;
  std::map<std::string, Sum> sums_;
  uint64_t begin_ = 0, end_ = 0;
};

}  // namespace mest::opencl
