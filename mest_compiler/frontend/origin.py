"""Which torch module a Relax call comes from: the name of its span's source, since every operator has a span, most have
no attributes of our own, and TVM compares and prints modules without it.

Passes hand spans on until LegalizeOps makes kernels of what is left in Relax.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax
from tvm.ir.base import SourceName, Span

OUTSIDE = "(the loss)"
"""Origin of what no module of the model computes."""


def span_of(origin: str) -> Span:
    """The span of what comes from the module of this name; "" is the model's own forward."""
    return Span(SourceName(origin), 0, 0, 0, 0)


def origin_of(expr: relax.Expr) -> str:
    """The name that a call was marked with; "" of anything else."""
    return "" if expr.span is None else str(expr.span.source_name.name)


def marked(call: relax.Call, args: Sequence[relax.Expr], span: Span | None) -> relax.Call:
    """The call with these arguments and this span."""
    return relax.Call(call.op, list(args), call.attrs, call.ty_args, span)
