"""Signatures of Relax functions: roles and names are given, shapes and dtypes are the function's."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax

from ..signature import Arg, FunctionSignature, Role


def signed(
    function: relax.Function, arguments: Sequence[tuple[Role, str]], results: Sequence[tuple[Role, str, int | None]]
) -> FunctionSignature:
    """The signature of a function with these roles and names (and aliases), its shapes and dtypes."""
    takes = zip(arguments, (p.ty for p in function.params), strict=True)
    gives = zip(results, fields_of(function.ret_ty), strict=True)
    return FunctionSignature(
        tuple(arg_of(role, name, ty) for (role, name), ty in takes),
        tuple(arg_of(role, name, ty, alias) for (role, name, alias), ty in gives),
    )


def typed_as(function: relax.Function, old: FunctionSignature) -> FunctionSignature:
    """The same signature with a function's shapes and dtypes."""
    return signed(function, [(a.role, a.name) for a in old.arguments], [(r.role, r.name, r.alias) for r in old.results])


def arg_of(role: Role, name: str, ty: relax.TensorType, alias: int | None = None) -> Arg:
    """An argument or a result of this type."""
    return Arg(role, name, tuple(int(n) for n in ty.shape), str(ty.dtype), alias)


def fields_of(ty: tvm.ir.Type) -> list[tvm.ir.Type]:
    """The types of a function's results."""
    return list(ty.fields) if isinstance(ty, relax.TupleType) else [ty]
