"""The passes of TVM that a device leaves out would change nothing: without them the others give the same code."""

from __future__ import annotations

import pytest
import tvm
import tvm_ffi
from torch import nn
from tvm import tirx

from mest_compiler.devices import local_cpu

from ..whole_step.networks import ManyNormalisations, OddActivations, PreActivation
from .test_lowered_steps import lowered

NETWORKS = [
    (PreActivation, (3, 5, 5), "channel"),
    pytest.param(OddActivations, (3, 9, 7), "channel", marks=pytest.mark.slow),
    pytest.param(ManyNormalisations, (3, 9, 7), "block", marks=pytest.mark.slow),
    pytest.param(PreActivation, (3, 5, 5), "pattern", marks=pytest.mark.slow),
    pytest.param(ManyNormalisations, (3, 9, 7), "unstructured", marks=pytest.mark.slow),
]


def finished(kernels: tvm.IRModule, without: tuple[str, ...]) -> dict[str, tirx.PrimFunc]:
    """Kernels after TVM's passes but some, by name."""
    target, (passes, *_) = local_cpu().target, tirx.get_tir_pipeline(local_cpu().pipeline)
    with tvm.transform.PassContext(disabled_pass=list(without)):
        module = passes(tirx.transform.BindTarget(target.with_host(target))(kernels))
    return {gvar.name_hint: function for gvar, function in module.functions.items()}


@pytest.mark.parametrize(("network", "shape", "scheme"), NETWORKS)
def test_the_code_is_the_same(network: type[nn.Module], shape: tuple[int, int, int], scheme: str) -> None:
    module = lowered(network(), shape, scheme)[1].module
    kernels = tvm.IRModule(
        {
            gvar: function.with_attr("global_symbol", gvar.name_hint)
            for gvar, function in module.functions.items()
            if isinstance(function, tirx.PrimFunc)
        }
    )
    left_out = local_cpu().needless_passes
    assert left_out
    found, wanted = finished(kernels, left_out), finished(kernels, ())
    assert found.keys() == wanted.keys() and len(wanted) > 20
    assert [name for name in wanted if not tvm_ffi.structural_equal(found[name], wanted[name])] == []
