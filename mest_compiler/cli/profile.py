"""`mest profile`: what a sparsity profile means for a model, before anything is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mest_compiler.cli.asked import check_classes, check_device, given
from mest_compiler.cli.model_options import AUTO, Channels, Classes, UsualPlane, Width, plane_of
from mest_compiler.cli.options import (
    Activations,
    Batch,
    Device,
    Json,
    MemoryLimit,
    Model,
    Threads,
    step_options,
    writable,
)
from mest_compiler.cli.output import STANDARD_OUTPUT, say, write_json
from mest_compiler.cli.shared_options import takes
from mest_compiler.cli.sparse_model import sparse_model
from mest_compiler.cli.sparse_request import SparseRequest
from mest_compiler.cli.tables import mib, show
from mest_compiler.errors import MestError, ProfileError
from mest_compiler.files import write_text

if TYPE_CHECKING:
    import numpy as np

    from mest_compiler.cli.network_layers import NetworkLayers
    from mest_compiler.sparsity.profile import LayerPlan

KIB = 2**10
_WEIGHT = ".weight"

SHOWN = "unstructured"
"""Scheme under which a model is shown where nothing says one."""

WeightBits = Annotated[int, typer.Option(min=1, max=64, help="Bits of a weight and of a gradient.")]
IndexBits = Annotated[
    int,
    typer.Option(min=1, max=64, help="Bits of an index, counted as the paper does: whether or not it could hold all."),
]
Program = Annotated[
    bool,
    typer.Option(
        "--program",
        help="Also plan the compiled step and show the bytes that it really allocates for each layer: weights, "
        "gradients, momentum and all index arrays. Takes some seconds.",
    ),
]
Memory = Annotated[
    bool,
    typer.Option(
        "--memory",
        help="Also compile the step and run it: bytes of all training memory by kind, planned and measured, beside "
        "dense PyTorch's. Takes a minute or so, and as much memory as the step.",
    ),
]
Dump = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        callback=writable,
        help="Write the profile as YAML with one entry a layer, - for standard output.",
    ),
]


@takes(start=SparseRequest)
def command(
    context: typer.Context,
    model: Model,
    start: SparseRequest,
    width: Width = 1.0,
    channels: Channels = 3,
    plane: UsualPlane = None,
    classes: Classes = 10,
    weight_bits: WeightBits = 32,
    index_bits: IndexBits = 16,
    program: Program = False,
    memory: Memory = False,
    memory_limit: MemoryLimit = None,
    activations: Activations = None,
    batch: Batch = 64,
    device: Device = "cpu",
    threads: Threads = None,
    dump: Dump = None,
    json: Json = None,
) -> None:
    """Show which layers of a model a profile makes sparse, how, and how much memory that takes.

    A profile in YAML gives schemes and ratios to kinds of layers and to single ones:

    ```yaml
    scheme: block
    sparsity: 0.9            # overall, where no ratio is said below
    first: dense             # the first convolution
    ratio: "1.12:1"          # of 3x3 to 1x1 layers; or uniform, proportional
    kinds: {3x3: pattern, 1x1: block, linear: dense}
    layers:
      "layer3.*": {scheme: unstructured, sparsity: 0.95}
      "layer1.0.conv1.weight": dense
    ```

    Layers overrule kinds, and kinds the default. With `ratio: proportional` larger layers lose more. The form
    `prune_ratios: {"layer1.0.conv1.weight": 0.9}` of the MEST authors' scripts is read too, and keys of other methods
    beside it are left; its scheme is the key `scheme` or --scheme, and --profile-ratios kernels reads the ratios of
    their pattern files. A network whose default scheme is pattern keeps layers dense that are not 3x3. Bytes are those
    of the paper's Table A.1: weights, gradients and indices. With --masks or --masks-from the table shows what they
    keep.

    Examples:

    mest profile resnet32 --width 2 --scheme pattern --sparsity 0.9

    mest profile resnet32 --profile hybrid.yaml --dump layers.yaml

    mest profile resnet32 --profile authors.yaml --scheme pattern --profile-ratios kernels

    mest profile resnet20 --masks-from trained.pt --scheme block

    mest profile resnet50_cifar --scheme block --sparsity 0.9 --program

    mest profile resnet32 --width 2 --scheme block --sparsity 0.9 --memory --memory-limit 100MB

    mest profile vgg19_bn --scheme unstructured --sparsity 0.95 --index-bits 8 --json -
    """
    if dump == json == STANDARD_OUTPUT:
        raise ProfileError("--dump and --json cannot both write to standard output: name a file for one of them.")
    from mest_compiler import models
    from mest_compiler.cli.network_layers import network_layers
    from mest_compiler.sparsity.profile import LayerPlan
    from mest_compiler.sparsity.profile import Profile as Rules

    if not memory and (memory_limit is not None or activations is not None):
        raise MestError("--memory-limit and --activations are about the compiled step: add --memory.")
    for name in () if program or memory else ("batch", "device", "threads"):
        if given(context, name):
            raise MestError(f"--{name} is about the compiled step: add --program or --memory.")
    if start.scheme == AUTO:
        raise ProfileError("Scheme 'auto' is decided by measuring when a model is compiled: mest compile prints it.")
    network = models.build(model, classes=classes, in_channels=channels, width=width)
    input_shape = (channels, *(models.usual_plane(model) if plane is None else plane_of(plane)))
    sparse = sparse_model(
        network,
        input_shape,
        start,
        otherwise=SHOWN,
    )
    rules = sparse.profile or Rules(LayerPlan(SHOWN, 0.0))
    layers = network_layers(network, input_shape)
    if given(context, "classes"):
        check_classes(layers, classes, f"--classes asks for {classes}")
    check_device(device, threads)
    decisions = rules.decide(layers.convolutions, layers.linears, layers.dense)
    plan = decisions.plans
    rows = described(layers, plan, weight_bits, index_bits, sparse.masks)
    if program:
        from mest_compiler.compile import planned_bytes

        planned = planned_bytes(
            network,
            input_shape=input_shape,
            batch=batch,
            profile=rules,
            masks=sparse.masks,
            device=device,
            threads=threads,
        )
        # A dense linear layer has no kernels of ours: its weight, gradient and momentum are whole.
        for row in rows:
            whole = dict.fromkeys(("weights", "gradients", "optimizer"), 4 * row["weights"]) | {"indices": 0}
            row["program_bytes"] = planned.get(row["name"], whole)
    totals = summed(rows)
    found = None
    if memory:
        from mest_compiler.bench.torch_network import NetworkCase
        from mest_compiler.cli.profile_memory import profiled_memory, show_profiled
        from mest_compiler.devices import get_device

        threads = get_device(device, threads).threads
        case = NetworkCase(model, classes, input_shape, batch, 0, width)
        options = step_options(memory_limit, activations)
        found = profiled_memory(
            case, rules if plan else None, options, device=device, threads=threads, masks=sparse.masks
        )
    for sentence in sparse.said:
        say(sentence)
    # Nothing is written and shown before all is known: a limit may be one that no step can meet.
    if dump is not None:
        _write(dump, rules.resolved(layers.convolutions, layers.linears).dump())
    _show(model, rows, totals)
    for sentence in decisions.sentences():
        say(sentence)
    if found is not None:
        show_profiled(found)
        totals |= {"training_memory": found}
    if json is not None:
        facts = {"model": model, "input_shape": input_shape, "weight_bits": weight_bits, "index_bits": index_bits}
        start = {"weights_file": sparse.weights, "masks": sparse.start, "profile_notes": list(rules.notes)}
        write_json(json, {**facts, **start, **totals, "layers": rows})


def described(
    layers: NetworkLayers,
    plan: Mapping[str, LayerPlan],
    weight_bits: int,
    index_bits: int,
    masks: Mapping[str, np.ndarray] | None = None,
) -> list[dict[str, Any]]:
    """What each layer gets, in network order. masks: of the layers of the plan, where they are known.

    Keys: name, shape, scheme ("dense" too), sparsity (of the units that will be kept; `asked` as the profile has it),
    units and kept_units (None of a dense layer), weights and kept_weights, bytes and dense_bytes of Table A.1.
    """
    from math import prod

    from mest_compiler.sparsity.footprint import dense_footprint, kept_footprint
    from mest_compiler.sparsity.schemes import get_scheme

    rows = []
    for name in layers.order:
        shape, wanted = layers.shape(name), plan.get(name)
        row = {"name": name, "shape": layers.linears.get(name, shape), "scheme": "dense", "asked": 0.0}
        weights = kept_weights = prod(shape)
        units = kept = None
        footprint = dense = dense_footprint(shape)
        if wanted is not None:
            scheme = get_scheme(wanted.scheme)
            units = scheme.most_kept(shape)
            kept = len(scheme.units_of(masks[name])) if masks else scheme.kept_units(shape, wanted.sparsity)
            kept_weights, footprint = kept * scheme.unit_size(shape), kept_footprint(shape, scheme.name, kept)
            row |= {"scheme": scheme.name, "asked": wanted.sparsity}
        rows.append(
            {
                **row,
                "sparsity": 1 - kept_weights / weights,
                "units": units,
                "kept_units": kept,
                "weights": weights,
                "kept_weights": kept_weights,
                "bytes": footprint.bytes(weight_bits, index_bits),
                "dense_bytes": dense.bytes(weight_bits, index_bits),
            }
        )
    return rows


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Totals of `described`: weights, kept_weights, bytes, dense_bytes, and the sparsity of the weights of all layers
    and of the sparse ones alone."""
    totals: dict[str, Any] = {
        key: sum(row[key] for row in rows) for key in ("weights", "kept_weights", "bytes", "dense_bytes")
    }
    if rows and "program_bytes" in rows[0]:
        kinds = rows[0]["program_bytes"]
        totals["program_bytes"] = {kind: sum(row["program_bytes"][kind] for row in rows) for kind in kinds}
    sparse = [row for row in rows if row["units"] is not None]
    return {
        **totals,
        "sparsity": _zeros(rows),
        "sparsity_of_sparse_layers": _zeros(sparse),
        "sparse_layers": len(sparse),
    }


def _zeros(rows: list[dict[str, Any]]) -> float:
    weights = sum(row["weights"] for row in rows)
    return 1 - sum(row["kept_weights"] for row in rows) / weights if weights else 0.0


def _show(model: str, rows: list[dict[str, Any]], totals: dict[str, Any]) -> None:
    with_program = "program_bytes" in totals
    lines = [
        (
            row["name"].removesuffix(_WEIGHT),
            "x".join(str(size) for size in row["shape"]),
            row["scheme"],
            f"{row['sparsity']:.1%}" if row["units"] else "",
            f"{row['kept_units']} / {row['units']}" if row["units"] else "",
            f"{row['bytes'] / KIB:.1f}",
            *([f"{sum(row['program_bytes'].values()) / KIB:.1f}"] if with_program else []),
        )
        for row in rows
    ]
    show(
        f"{model}, layers by the names of their weights without {_WEIGHT}",
        ("layer", "shape", "scheme", "zeros", "units kept / all", "KiB", *(["program's KiB"] if with_program else [])),
        lines,
    )
    say(
        f"{totals['sparse_layers']} of {len(rows)} layers are sparse, with {totals['sparsity_of_sparse_layers']:.2%} "
        f"zeros; with the dense ones it is {totals['sparsity']:.2%}: {totals['kept_weights']:,} of "
        f"{totals['weights']:,} weights are kept."
    )
    if with_program:
        parts = ", ".join(f"{kind} {mib(size)}" for kind, size in totals["program_bytes"].items())
        say(f"The compiled step allocates {mib(sum(totals['program_bytes'].values()))} MiB for them: {parts} MiB.")
    smaller = totals["dense_bytes"] / totals["bytes"] if totals["bytes"] else 1.0
    say(
        f"Weights, gradients and indices (Table A.1): {mib(totals['bytes'])} MiB, dense "
        f"{mib(totals['dense_bytes'])} MiB ({smaller:.1f} times smaller)."
    )


def _write(target: str, text: str) -> None:
    if target == STANDARD_OUTPUT:
        typer.echo(text, nl=False)
    else:
        write_text(target, text)
