"""What the tests of the OpenCL runtime share: the device. Without an OpenCL driver they fail, they are not skipped."""

import pytest
import tvm

from mest_compiler.runtime.opencl import load


@pytest.fixture(scope="session")
def opencl() -> tvm.runtime.Device:
    """The first OpenCL device, once the plug-in is loaded."""
    load()
    return tvm.opencl(0)
