#include "recorder.h"

#include <algorithm>

#include "errors.h"

namespace mest::opencl {
namespace {

constexpr size_t kTidyAt = 256;   // pending events: time to sum those that are done
constexpr size_t kMostOf = 4096;  // drivers keep memory for each, so from here on wait

bool IsDone(cl_event event) {
  cl_int status = CL_QUEUED;
  cl_int code = Cl().clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, nullptr);
  return code != CL_SUCCESS || status <= CL_COMPLETE;  // below zero: it failed
}

}  // namespace

void Recorder::Add(const std::string& name, cl_event event) {
  pending_.emplace_back(name, event);
  if (pending_.size() >= kTidyAt && pending_.size() % kTidyAt == 0) Collect(pending_.size() >= kMostOf);
}

void Recorder::Collect(bool all) {
  if (all && !pending_.empty()) {
    Check(Cl().clWaitForEvents(1, &pending_.back().second), "wait for the kernels that are timed");  // queues are in order
  }
  while (!pending_.empty() && IsDone(pending_.front().second)) {
    auto [name, event] = pending_.front();
    pending_.pop_front();
    cl_ulong start = 0, end = 0;
    const Api& cl = Cl();
    cl_int code = cl.clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof start, &start, nullptr);
    if (code == CL_SUCCESS) {
      code = cl.clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof end, &end, nullptr);
    }
    cl.clReleaseEvent(event);
    Check(code, "say how long '" + name + "' took");
    Sum& sum = sums_[name];
    sum.launches += 1;
    sum.nanoseconds += end > start ? end - start : 0;
    begin_ = begin_ == 0 ? start : std::min<uint64_t>(begin_, start);
    end_ = std::max<uint64_t>(end_, end);
  }
}

void Recorder::Clear() {
  for (auto& [name, event] : pending_) Cl().clReleaseEvent(event);
  pending_.clear();
}

}  // namespace mest::opencl
