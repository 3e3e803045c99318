"""The verifier of planned memory: each kind of fault, planted in a right plan, is found and named."""

from __future__ import annotations

import pytest

from mest_compiler.devices import get_device, local_cpu
from mest_compiler.errors import PlanError
from mest_compiler.passes.verify_plan import verify_plan

from .programs import parsed

KERNELS = """
    @T.prim_func(private=True)
    def double(x: T.Buffer((64,), "float32"), y: T.Buffer((64,), "float32")):
        for i in range(64):
            y[i] = x[i] * T.float32(2)

    @T.prim_func(private=True)
    def add(a: T.Buffer((64,), "float32"), b: T.Buffer((64,), "float32"), y: T.Buffer((64,), "float32")):
        for i in range(64):
            y[i] = a[i] + b[i]

    @T.prim_func(private=True)
    def take(x: T.Buffer((64,), "float32"), places: T.handle, y: T.Buffer((64,), "float32")):
        n = T.int32()
        at = T.match_buffer(places, (n,), "uint16")
        for i in range(64):
            y[i] = x[T.Cast("int32", at[i])]

    @T.prim_func(private=True)
    def update(w: T.Buffer((64,), "float32"), g: T.Buffer((64,), "float32")):
        for i in range(64):
            w[i] = w[i] - g[i]
"""
PLANNED = f"""
@I.ir_module
class Module:{KERNELS}
    @R.function
    def step(w: R.Tensor((64,), "float32"), x: R.Tensor((64,), "float32"), at: R.Tensor((64,), "uint16")):
        R.func_attr({{"relax.force_pure": True}})
        cls = Module
        arena: R.Any = R.memory.alloc_storage(R.shape([768]), 0, "global", "uint8")
        a_part = R.memory.alloc_tensor(arena, 0, R.shape([64]), "float32")
        a = R.memory.ensure_zero_offset(a_part)
        _1 = cls.double(x, a)
        a1 = a
        b_part = R.memory.alloc_tensor(arena, 256, R.shape([64]), "float32")
        b = R.memory.ensure_zero_offset(b_part)
        _2 = cls.double(a1, b)
        b1 = b
        c_part = R.memory.alloc_tensor(arena, 512, R.shape([64]), "float32")
        c = R.memory.ensure_zero_offset(c_part)
        _3 = cls.add(a1, b1, c)
        c1 = c
        d_part = R.memory.alloc_tensor(arena, 0, R.shape([64]), "float32")
        d = R.memory.ensure_zero_offset(d_part)
        _4 = cls.take(c1, at, d)
        d1 = d
        g_part = R.memory.alloc_tensor(arena, 256, R.shape([64]), "float32")
        g = R.memory.ensure_zero_offset(g_part)
        _5 = cls.add(w, d1, g)
        g1 = g
        _6 = cls.update(w, g1)
        w1 = w
        out = R.builtin.alloc_tensor(R.shape([64]), "float32", 0, "global")
        _7 = cls.double(g1, out)
        out1 = out
        results = (out1, w1)
        return results

    @R.function
    def predict(w: R.Tensor((64,), "float32"), x: R.Tensor((64,), "float32")):
        R.func_attr({{"relax.force_pure": True}})
        cls = Module
        block: R.Any = R.memory.alloc_storage(R.shape([256]), 0, "global", "uint8")
        e_part = R.memory.alloc_tensor(block, 0, R.shape([64]), "float32")
        e = R.memory.ensure_zero_offset(e_part)
        _1 = cls.double(x, e)
        e1 = e
        y = R.builtin.alloc_tensor(R.shape([64]), "float32", 0, "global")
        _2 = cls.add(w, e1, y)
        y1 = y
        return y1
"""
DONATED = {"step": {0}}
B, C, G = (f"{name}_part = R.memory.alloc_tensor(arena, {at}," for name, at in (("b", 256), ("c", 512), ("g", 256)))
FAULTS = {
    "two live tensors in one place": (
        B, B.replace("256", "0"),
        r"plan of step is wrong: a \(bytes 0 to 256 of arena\), which lives from double \(call 1\) to add \(call 3\), "
        r"and b \(bytes 0 to 256 of arena\), which lives from double \(call 2\) to add \(call 3\), share 256 bytes;",
    ),
    "two live tensors overlap a little": (B, B.replace("256", "192"), r"a .* and b .* share 64 bytes"),
    "a tensor reaches beyond its block": (
        "R.shape([768])", "R.shape([704])",
        r"c_part \(bytes 512 to 768 of arena\) does not lie inside the 704 bytes of its block",
    ),
    "a tensor starts before its block": (B, B.replace("256", "-64"), r"b_part \(bytes -64 to 192 of arena\) does not"),
    "a tensor in a block of its own function alone": (
        "alloc_tensor(block,", "alloc_tensor(x,", r"plan of predict .* e_part .* lies in a block that was not allocated"
    ),
    "a place is given away too early": (
        "cls.add(w, d1, g)", "cls.add(w, a1, g)",
        r"a \(.*from double \(call 1\) to add \(call 5\), and d .*from take \(call 4\) to take \(call 4\), share 256",
    ),
    "a result over its own input": (G, G.replace("256", "0"), r"d .* to add \(call 5\), and g .*from add \(call 5\)"),
    "an address that vectors cannot be loaded from": (
        C, C.replace("512", "480"),
        r"argument 2 of add \(call 3\) has to start at a multiple of 64 .* c starts at byte 480"
    ),
    "an update before its weight was last read": (
        "_5 = cls.add(w, d1, g)", "_9 = cls.update(w, d1)\n        w0 = w\n        _5 = cls.add(w, d1, g)",
        r"add \(call 6\) reads w as it was before update \(call 5\) wrote it in place",
    ),
    "an update of an activation that is read again": (
        "_4 = cls.take(c1, at, d)", "_9 = cls.update(c1, b1)\n        c2 = c1\n        _4 = cls.take(c1, at, d)",
        r"take \(call 5\) reads c as it was before update \(call 4\) wrote it in place",
    ),
    "an update of what belongs to the caller": (
        "cls.update(w, g1)", "cls.update(x, g1)", r"update \(call 6\) writes x, an argument that is not donated"
    ),
    "an update in a prediction": (
        "_2 = cls.add(w, e1, y)", "_3 = cls.update(w, e1)\n        w1 = w\n        _2 = cls.add(w1, e1, y)",
        r"plan of predict is wrong: update \(call 2\) writes w, an argument that is not donated",
    ),
    "an update that is gone": (
        "_6 = cls.update(w, g1)\n", "\n", "argument 0, w, is donated to be updated, and no call writes it"
    ),
    "one tensor is written and read by one call": (
        "cls.update(w, g1)", "cls.update(w, w)", r"update \(call 6\) writes its argument 0, w, which is its argument 1"
    ),
    "a read before anything was written": (
        "_1 = cls.double(x, a)\n", "\n", r"double \(call 1\) reads a, which nothing has written"
    ),
    "a result that nothing wrote": ("_7 = cls.double(g1, out)\n", "\n", "out is returned, and nothing has written it"),
    "a result in the arena": (
        "(out1, w1)", "(g1, w1)", r"g \(bytes 256 to 512 of arena\) is returned, and the next call"
    ),
    "an argument's old value as its new one": (
        "(out1, w1)", "(out1, w)", r"w is returned as it was before update \(call 6\) wrote it in place"
    ),
    "memory that is not planned": (
        "(out1, w1)", "(w1, w1)", r"out \(256 bytes\) has no place in a block though it is not returned"
    ),
    "a call of something that is no kernel": (
        "_1 = cls.double(x, a)\n", "_1 = cls.predict(w, x)\n", r"predict \(call 1\) is no kernel"
    ),
    "an operator that was not lowered": (
        "a1 = a\n", "a1 = R.reshape(a, R.shape([64]))\n", r"nothing is known of what relax\.reshape does to memory"
    ),
}  # fmt: skip


DOUBLE = KERNELS[: KERNELS.index("@T", 10)]
OTHERS = {
    "made for another shape": (
        "double", DOUBLE.replace("64", "63"),
        r"argument 0 of double \(call 1\) is float32 \[63\], and it gets x, float32 \[64\]",
    ),
    "made for another rank": (
        "double", DOUBLE.replace('y: T.Buffer((64,)', 'y: T.Buffer((8, 8)').replace("y[i]", "y[i // 8, i % 8]"),
        r"argument 1 of double \(call 1\) is float32 \[8, 8\], and it gets a, float32 \[64\]",
    ),
    "made for another dtype of an index array": (
        "take", KERNELS.replace("uint16", "int32"),
        r"argument 1 of take \(call 4\) is int32 \[n\], and it gets at, uint16 \[64\]",
    ),
    "made for an index array of another length": (
        "take", KERNELS.replace("(n,)", "(65,)"),
        r"argument 1 of take \(call 4\) is uint16 \[65\], and it gets at, uint16 \[64\]",
    ),
    "made for an index array of another rank": (
        "take",
        KERNELS.replace("n = T", "m = T.int32()\n        n = T").replace("(n,)", "(n, m)").replace("at[i]", "at[i, 0]"),
        r"argument 1 of take \(call 4\) is uint16 \[n, m\], and it gets at, uint16 \[64\]",
    ),
    "made for fewer arguments": (
        "add", KERNELS.replace('a: T.Buffer((64,), "float32"), b', "b").replace("a[i]", "b[i]"),
        r"add \(call 3\) takes 2 arguments and gets 3",
    ),
    "made for a number": (
        "double", DOUBLE.replace('x: T.Buffer((64,), "float32")', "x: T.int32").replace("x[i]", 'T.Cast("float32", x)'),
        r"argument 0 of double \(call 1\) is no tensor",
    ),
}  # fmt: skip


def test_a_right_plan_passes() -> None:
    verify_plan(parsed(PLANNED), local_cpu(1), DONATED)


@pytest.mark.parametrize(("right", "wrong", "said"), FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_found(right: str, wrong: str, said: str) -> None:
    assert PLANNED.count(right) == 1 or right in (B, C, G)
    with pytest.raises(PlanError, match=said):
        verify_plan(parsed(PLANNED.replace(right, wrong)), local_cpu(1), DONATED)


@pytest.mark.parametrize(("name", "kernels", "said"), OTHERS.values(), ids=OTHERS)
def test_a_kernel_that_was(name: str, kernels: str, said: str) -> None:
    planned = parsed(PLANNED)
    planned.update_func(planned.get_global_var(name), parsed(f"@I.ir_module\nclass Module:{kernels}")[name])
    with pytest.raises(PlanError, match=said):
        verify_plan(planned, local_cpu(1), DONATED)


def test_what_was_written_in_place_is_read_by_its_new_name() -> None:
    right = "_4 = cls.take(c1, at, d)"
    changed = PLANNED.replace(right, f"_9 = cls.update(c1, b1)\n        c2 = c1\n        {right.replace('c1', 'c2')}")
    verify_plan(parsed(changed), local_cpu(1), DONATED)


def test_blocks_that_have_no_addresses_inside() -> None:
    with pytest.raises(PlanError, match=r"b_part .* starts inside a block, which opencl devices cannot address"):
        verify_plan(parsed(PLANNED), get_device("opencl"), DONATED)
