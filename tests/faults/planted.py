"""Twenty faults of the kind that slips into this code: each imports, runs, and computes something slightly else.

Plain data. A fault changes as little text as it can, so that it outlives changes around it; where its text is gone,
`test_faults` fails until the fault is written anew.
"""

from __future__ import annotations

from .fault import Fault

FAULTS = (
    # ---- kernels
    Fault(
        name="nesterov-sign",
        file="mest_compiler/optimizers/sgd.py",
        old='(g + velocity * h["momentum"] if self.nesterov',
        new='(g - velocity * h["momentum"] if self.nesterov',
        breaks="Nesterov's step looks ahead in the wrong direction.",
        tests=("tests/schedules/test_update.py", "tests/whole_step"),
    ),
    Fault(
        name="decay-without-momentum",
        file="mest_compiler/optimizers/sgd.py",
        old="if self.weight_decay:",
        new="if self.weight_decay and self.momentum:",
        breaks="Weight decay is dropped where there is no momentum.",
        tests=("tests/schedules/test_update.py", "tests/whole_step"),
    ),
    Fault(
        name="swapped-parities",
        file="mest_compiler/kernels/geometry.py",
        old="self.dx.at(py, px)",
        new="self.dx.at(px, py)",
        breaks="Backward-data of a strided convolution writes the pixels of one parity class over another's.",
        tests=("tests/kernels/test_geometry.py", "tests/schedules", "tests/whole_step"),
    ),
    # ---- schedules/cpu
    Fault(
        name="lost-remainder",
        file="schedules/cpu/update.py",
        old="with T.serial(count - vectors * vec.lanes) as i:",
        new="with T.serial(T.max(count - vectors * vec.lanes - 1, 0)) as i:",
        breaks="The last weight of a tensor that does not fill its vectors is never updated.",
        tests=("tests/schedules/test_update.py", "tests/whole_step"),
    ),
    Fault(
        name="biased-running-variance",
        file="schedules/cpu/normalise.py",
        old="var * const(momentum * unbiased)",
        new="var * const(momentum)",
        breaks="Batch norm's running variance is that of the batch and not the unbiased one.",
        tests=("tests/schedules/test_normalise.py", "tests/whole_step"),
    ),
    Fault(
        name="accumulate-onto-leftovers",
        file="schedules/cpu/accumulate.py",
        old="T.Select(first, vec.const(0), a[at]) + g[at]",
        new="a[at] + g[at]",
        breaks="The first micro-batch adds its gradient to that of the step before.",
        tests=("tests/schedules/test_accumulate.py", "tests/whole_step/test_micro_batches.py"),
    ),
    Fault(
        name="unscaled-dropout",
        file="schedules/cpu/dropout.py",
        old="vec.load(source, r * d.x.cols + q) * vec.const(1 / (1 - d.p))",
        new="vec.load(source, r * d.x.cols + q)",
        breaks="What a dropout keeps is not scaled by 1 / (1 - p).",
        tests=("tests/schedules/test_dropout.py", "tests/whole_step"),
    ),
    # ---- schedules/opencl
    Fault(
        name="missing-barrier",
        file="schedules/opencl/planes.py",
        old="from tvm import tirx\n",
        new="""import tvm
from tvm import tirx

tvm.register_global_func(
    "tvm_callback_opencl_postproc",
    lambda code, _: code.replace("barrier(CLK_LOCAL_MEM_FENCE);", "", 1),
    override=True,
)
""",
        breaks="The first barrier of every OpenCL kernel is missing, so items read sums that others have yet to write.",
        tests=("tests/schedules/opencl/test_normalise.py", "tests/schedules/opencl", "tests/whole_step/test_opencl.py"),
    ),
    Fault(
        name="lost-tail-of-a-quad",
        file="schedules/opencl/each_number.py",
        old="for k in range(QUAD - 1):",
        new="for k in range(QUAD - 2):",
        breaks="Of three numbers that are left over behind the last quad, OpenCL's optimisers update two.",
        tests=("tests/schedules/opencl/test_update.py", "tests/whole_step/test_opencl.py"),
    ),
    Fault(
        name="lost-split",
        file="schedules/opencl/weight_gradient.py",
        old="for split in range(1, splits):",
        new="for split in range(1, max(splits - 1, 2)):",
        breaks="Where more than two work-groups share a weight gradient's image rows, the last's sums are left out.",
        tests=("tests/schedules/opencl/test_sparse_gradient.py", "tests/schedules/opencl", "tests/whole_step"),
    ),
    # ---- passes
    Fault(
        name="memory-reused-too-early",
        file="mest_compiler/passes/plan_memory.py",
        old="(last >= first[i])",
        new="(last > first[i])",
        breaks="A kernel may write its result over the input that it still reads.",
        tests=("tests/passes/test_plan_memory.py", "tests/passes"),
    ),
    Fault(
        name="weaker-verifier",
        file="mest_compiler/passes/verify_plan.py",
        old='memory.last, side="right")',
        new='memory.last, side="left")',
        breaks="The check of plans lets a tensor lie where the call that writes it still reads another.",
        tests=("tests/passes/test_verify_plan.py", "tests/passes/test_verified_plans.py"),
    ),
    Fault(
        name="clip-taken-for-relu",
        file="mest_compiler/passes/fuse_normalise.py",
        old='if bounds["low"] == 0 and',
        new='if bounds["low"] <= 0 and',
        breaks="A clip from below zero behind a batch norm is computed as a ReLU with the same upper bound.",
        tests=("tests/passes/test_fuse_normalise.py", "tests/passes"),
    ),
    # ---- sparsity
    Fault(
        name="grows-what-is-there",
        file="mest_compiler/sparsity/mutation.py",
        old="noise[taken] = 2.0",
        new="noise[taken] = 0.5",
        breaks="Where few units are left to grow, a mutation draws one that is kept already.",
        tests=("tests/sparsity/test_mutation.py", "tests/whole_step/test_mutation.py"),
    ),
    Fault(
        name="smallest-stay",
        file="mest_compiler/sparsity/mutation.py",
        old="np.lexsort((kept, weight))",
        new="np.lexsort((kept, -weight))",
        breaks="A layer keeps its least important units and removes the most important ones.",
        tests=("tests/sparsity/test_mutation.py", "tests/sparsity"),
    ),
    Fault(
        name="values-of-other-units",
        file="mest_compiler/sparsity/structure.py",
        old="ascending[ascending_to_entries(self.order, self.row_ptr)] = values[: self.entries]",
        new="ascending[:] = values[ascending_to_entries(self.order, self.row_ptr)]",
        breaks="Values are brought into the order of unit ids by the inverse of the permutation that does it.",
        tests=("tests/runtime/test_checkpoint.py", "tests/sparsity", "tests/whole_step/test_mutation.py"),
    ),
    # ---- runtime
    Fault(
        name="momentum-not-loaded",
        file="mest_compiler/runtime/trainer.py",
        old="for slot, arrays in content.slots.items()",
        new="for slot, arrays in ()",
        breaks="A run that goes on from a checkpoint starts without momentum.",
        tests=("tests/runtime/test_checkpoint.py", "tests/whole_step/test_mutation.py"),
    ),
    Fault(
        name="first-remote-step-twice",
        file="mest_compiler/runtime/remote_session.py",
        old="        there.copyfrom(self._here)\n        self.there = there",
        new="        self.there = there",
        breaks="The first step over RPC, which only finds where tensors are, trains as well.",
        tests=("tests/whole_step/test_remote.py", "tests/runtime/remote"),
    ),
    # ---- training
    Fault(
        name="resume-forgets-the-order",
        file="mest_compiler/training/feed.py",
        old="made_ahead(prepare, range(first_step, len(chosen)))",
        new="made_ahead(prepare, range(len(chosen) - first_step))",
        breaks="A run that goes on within an epoch sees the epoch's first batches again and its last ones never.",
        tests=("tests/training/test_feed.py", "tests/training/test_resume.py"),
    ),
    Fault(
        name="smoothing-dropped",
        file="mest_compiler/losses/cross_entropy.py",
        old="(1 - self.label_smoothing) * total + self.label_smoothing * even, len(labels)",
        new="total, len(labels)",
        breaks="Labels are not smoothed, whatever the recipe says.",
        tests=("tests/training/test_torch_engine.py", "tests/frontend"),
    ),
)
