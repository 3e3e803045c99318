"""TVM's device "opencl" for the stock wheel, which generates OpenCL but cannot run it.

`load()` compiles the C++ of this folder once against the installed TVM's headers and loads it; from then on
`tvm.opencl(0)` is a device like any other. The path that `build()` returns is what an RPC server is given with
`--load-library`.
MEST_OPENCL_DEVICE chooses the device ("platform substring/device substring", or an index of `devices()`). The kernels'
binaries are kept in the cache folder (see `caching.folder`).
"""

from .compiling import build
from .loading import device, devices, load, memory, profile

__all__ = ["build", "device", "devices", "load", "memory", "profile"]
