// Device times for TVM's time_evaluator.
#pragma once

#include <tvm/ffi/object.h>

namespace mest::opencl {

// A TVM timer (runtime.Timer) that adds up the event times of the calling thread's commands.
tvm::ffi::ObjectRef NewTimer(DLDevice device);

}  // namespace mest::opencl
