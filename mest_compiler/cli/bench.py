"""`mest bench`: a layer, a network's iteration or an artifact, side by side with PyTorch and our own dense step."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mest_compiler.cli.asked import Said, check_classes, check_device, given, say_all, say_otherwise, say_start
from mest_compiler.cli.bars import turn_bar
from mest_compiler.cli.bench_artifacts import bench_artifacts, opponent_paths
from mest_compiler.cli.devices.options import Adb, Key, Server, TrackerAt
from mest_compiler.cli.measuring import measured, measured_remotely
from mest_compiler.cli.model_options import AUTO, Channels, Classes, Plane, Width, plane_of, profile_of
from mest_compiler.cli.options import (
    Activations,
    Batch,
    Device,
    Json,
    MemoryLimit,
    Seed,
    Threads,
    step_options,
)
from mest_compiler.cli.output import say, write_json
from mest_compiler.cli.shared_options import takes
from mest_compiler.cli.sparse_model import SparseModel, sparse_model
from mest_compiler.cli.sparse_request import SparseRequest
from mest_compiler.cli.tables import mib, show_comparison, show_kernels, show_memory, show_remote
from mest_compiler.errors import BenchError, MemoryLimitError

if TYPE_CHECKING:
    from mest_compiler.bench.layer_spec import LayerSpec
    from mest_compiler.bench.torch_network import NetworkCase
    from mest_compiler.passes.options import StepOptions
    from mest_compiler.runtime.remote.where import Where
    from mest_compiler.sparsity.automatic import Automatic
    from mest_compiler.sparsity.profile import Profile as Rules

LAYER_ROUNDS, NETWORK_ROUNDS = 15, 7
OF_NETWORKS = (
    "profile", "profile_ratios", "weights", "weights_key", "masks", "masks_from",
    "width", "channels", "plane", "classes", "memory_limit", "activations",
)  # fmt: skip
OF_LAYERS = ("uneven",)
OF_PLACES = ("tracker", "key", "server", "adb", "rest")
OF_MASKS = ("uneven",)
OF_MODELS = (*OF_NETWORKS, *OF_LAYERS, "scheme", "sparsity")
"""Options that say nothing about a layer, about a network, about this machine, about a dense layer, and about an
artifact."""

What = Annotated[
    str,
    typer.Argument(
        metavar="WHAT",
        help="layer:CHANNELS,FILTERS,KERNEL,HEIGHTxWIDTH (with ,s2 at its end for stride 2); a model's name; "
        "FILE.py:CALLABLE; or the path of an artifact that mest compile wrote.",
    ),
]
Compare = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Whom to compare with: torch (the fastest of PyTorch's dense variants), dense (our own dense kernels), "
        "unordered (a layer whose rows are not reordered by their work), untuned (a network's step with the kernels' "
        "default knobs, whatever tuning logs say), tvm (the dense step as TVM itself schedules "
        "it for an OpenCL device), or several, as in torch,dense. Of a network "
        "also one of the compiler's rewrites, such as forward-sums: the same step compiled with just that rewrite "
        "turned the other way round, off where it is usual and on where it is not; a wrong name lists them all. Of an "
        "artifact the path of another one, such as the dense step.",
        show_default="torch; an artifact runs alone",
    ),
]
Rounds = Annotated[
    int | None,
    typer.Option(
        min=1, help="Alternating rounds, of whose times medians are taken.", show_default="15 for a layer, 7 else"
    ),
]
Rest = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", help="Pause between rounds on a device behind RPC: a phone gets hot.")
]
Uneven = Annotated[
    bool,
    typer.Option("--uneven", help="Draw a layer's mask with rows of very different length, for --compare unordered."),
]
ProfileKernels = Annotated[
    bool,
    typer.Option(
        "--profile-kernels",
        help="Show how long each kernel takes and how much it moves, slowest first, beside what memory can move "
        "(kernel_ms and bandwidth in JSON).",
    ),
]


@takes(start=SparseRequest)
def command(
    context: typer.Context,
    what: What,
    start: SparseRequest,
    batch: Batch = 64,
    device: Device = "cpu",
    threads: Threads = None,
    compare: Compare = None,
    rounds: Rounds = None,
    width: Width = 1.0,
    channels: Channels = 3,
    plane: Plane = "32x32",
    classes: Classes = 10,
    memory_limit: MemoryLimit = None,
    activations: Activations = None,
    seed: Seed = 0,
    tracker: TrackerAt = None,
    key: Key = None,
    server: Server = None,
    adb: Adb = None,
    rest: Rest = 0.0,
    uneven: Uneven = False,
    profile_kernels: ProfileKernels = False,
    json: Json = None,
) -> None:
    """Time a layer, a network's whole training iteration or an artifact against PyTorch.

    Every contestant runs in a process of its own, on the same data and threads, in alternating rounds; what is
    reported are medians. A layer's time is that of its forward convolution and both gradients, an iteration's that of
    forward, loss, backward and update. Without --scheme the model is dense. Bytes of all training memory, as planned,
    as measured and as PyTorch's profiler counts PyTorch's, are beside the times; --memory-limit and --activations are
    about all steps of ours.

    Examples:

    mest bench layer:64,64,3,16x16 --scheme block --sparsity 0.9 --threads 1 --compare torch,dense --json -

    mest bench resnet32 --width 2 --scheme block --sparsity 0.9 --compare torch --profile-kernels

    mest bench net.py:make --plane 28x28 --channels 1 --scheme unstructured --sparsity 0.8

    mest bench resnet32 --width 2 --scheme block --sparsity 0.9 --memory-limit 100MB --activations bf16

    mest bench resnet32 --width 2 --scheme block --sparsity 0.9 --compare forward-sums,weight-gradients

    mest bench layer:64,64,3,16x16 --scheme block --sparsity 0.9 --uneven --compare unordered --threads 2

    mest bench runs/step --threads 2

    mest bench resnet32 --width 2 --scheme block --sparsity 0.9 --device opencl --compare dense,tvm

    mest bench runs/phone --compare runs/phone-dense --tracker 127.0.0.1:9190 --key galaxy-s20 --rest 20
    """
    from mest_compiler.bench.compare import REWRITES, TORCH, TVM, UNORDERED, UNTUNED, read_opponents
    from mest_compiler.bench.layer_spec import PREFIX
    from mest_compiler.devices import available_cores, get_device
    from mest_compiler.models import available
    from mest_compiler.runtime.device_runtimes import device_runtime
    from mest_compiler.runtime.remote.where import Where

    where = Where.of(tracker, key, server, adb)
    if Path(what).exists() and what not in available() and not what.startswith(PREFIX):
        _refuse(context, OF_MODELS, "an artifact")
        _refuse(context, ("rest",) if where is None else ("threads",), _place(where))
        result = bench_artifacts(
            [Path(what), *map(Path, opponent_paths(compare))],
            batch if given(context, "batch") else None,
            device if given(context, "device") else None,
            **{"seed": seed, "threads": threads, "rounds": rounds or NETWORK_ROUNDS},
            **{"profile_kernels": profile_kernels, "where": where, "rest": rest},
        )
        _show_and_write(what, result, profile_kernels, json)
        return
    target = get_device(device, threads)
    opponents = read_opponents(("torch" if where is None else "") if compare is None else compare)
    # PyTorch, beside an OpenCL device, takes the CPU.
    if TORCH not in opponents:
        check_device(device, threads)
    threads = target.threads if device_runtime(target.kind).threaded else threads or available_cores()
    if where is not None:
        _refuse_opponents(opponents, (TORCH,), "this machine")
    if what.startswith(PREFIX):
        _refuse(context, (*OF_NETWORKS, *OF_PLACES), "a single layer")
        _refuse(context, OF_MASKS if not start.sparsity else (), "a dense layer")
        _refuse_opponents(opponents, (*REWRITES, TVM, UNTUNED), "a whole network")
        result = _layer(
            what, start.scheme, start.sparsity, batch, seed, uneven, opponents, threads, rounds or LAYER_ROUNDS, device
        )
    else:
        from mest_compiler.bench.torch_network import NetworkCase

        _refuse(context, OF_LAYERS, "a network")
        _refuse(context, ("rest",) if where is None else (), _place(where))
        _refuse_opponents(opponents, (UNORDERED,), "a single layer")
        # the same weights in every process
        file = start.weights or start.masks_from
        case = NetworkCase(
            what, classes, (channels, *plane_of(plane)), batch, seed, width,
            weights=file and str(file.resolve()), weights_key=start.weights_key,
        )  # fmt: skip
        sparse = sparse_model(
            case.network(),
            case.input_shape,
            start,
        )
        options = step_options(memory_limit, activations)
        said = _said(case, sparse, classes if given(context, "classes") else None)
        turns = rounds or NETWORK_ROUNDS
        result = _network(case, sparse, options, device, opponents, threads, turns, profile_kernels, where, rest)
        say_otherwise(said, result)
        result |= sparse.facts()
    _show_and_write(what, result, profile_kernels, json)


def _layer(
    what: str,
    scheme: str | None,
    sparsity: float | None,
    batch: int,
    seed: int,
    uneven: bool,
    opponents: tuple[str, ...],
    threads: int,
    rounds: int,
    device: str,
) -> dict[str, Any]:
    from mest_compiler.bench.compare import LayerCase, compare_layer
    from mest_compiler.bench.layer_spec import LayerSpec
    from mest_compiler.bench.report import report

    spec, sparse = LayerSpec.parse(what), profile_of(scheme, sparsity, None) is not None
    if sparse and scheme == AUTO:
        from mest_compiler.bench.compiled_layer import fastest_scheme

        scheme = fastest_scheme(spec, batch=batch, sparsity=sparsity, threads=threads, device=device)
        say(f"fastest scheme here: {scheme}")
    said = _said_of_layer(what, spec, scheme if sparse else None, sparsity or 0.0)
    case = LayerCase(spec, batch, seed, scheme if sparse else None, sparsity or 0.0, uneven)
    with turn_bar("timing") as progress:
        comparison = compare_layer(case, opponents, threads=threads, rounds=rounds, progress=progress, device=device)
    facts = {"layer": what, "batch": batch, "scheme": case.scheme, "sparsity": case.sparsity, "seed": seed}
    return {**facts, **said, **report(comparison, device=device, threads=threads)}


def _network(
    case: NetworkCase,
    sparse: SparseModel,
    options: StepOptions,
    device: str,
    opponents: tuple[str, ...],
    threads: int,
    rounds: int,
    profile_kernels: bool,
    where: Where | None,
    rest: float,
) -> dict[str, Any]:
    from mest_compiler.bench.compare import DENSE, REWRITES, SPARSE, TORCH, TVM, UNTUNED, turned
    from mest_compiler.cli.compiling import compiled, say_plan, settled
    from mest_compiler.sparsity.masks import save_masks
    from mest_compiler.tuning.database import no_logs

    rules = sparse.profile
    with TemporaryDirectory(prefix="mest-") as folder:
        artifacts, paths = {}, {}

        def add(name: str, its_rules: Rules | Automatic | None, its_options: StepOptions = options) -> None:
            asked = {
                "device": device,
                "threads": threads,
                "title": name,
                "options": its_options,
                "measure": where is None,
                "masks": None if its_rules is None else sparse.masks,
            }
            try:
                artifacts[name] = compiled(case, its_rules, **asked)
            except MemoryLimitError as error:
                if not artifacts:
                    raise
                raise MemoryLimitError(f"--compare {name}: {error}", error.smallest) from error
            say_plan(artifacts[name].manifest["memory"], name)
            paths[name] = artifacts[name].save(Path(folder, name))

        if rules is not None:
            add(SPARSE, rules)
            zeros = Path(folder, "masks.safetensors")
            save_masks(zeros, {name: s.to_mask() for name, s in artifacts[SPARSE].structures.items()})
            case = replace(case, masks=str(zeros))  # the others start from the same zeros
            rules = settled(rules, artifacts[SPARSE])
        if rules is None or DENSE in opponents:
            add(DENSE, None)
        if TVM in opponents:
            add(TVM, None, replace(options, schedules=TVM))
        if UNTUNED in opponents:
            with no_logs():
                add(UNTUNED, rules)
        for name in opponents:
            if name in REWRITES:
                its_options = turned(options, name)
                on = getattr(its_options, REWRITES[name])
                say(f"{name}: the {DENSE if rules is None else SPARSE} step {'with' if on else 'without'} this rewrite")
                add(name, rules, its_options)
        # a model of one's own may have another number of classes than it was asked for
        classes = next(iter(artifacts.values())).manifest["classes"]
        torch_case = replace(case, classes=classes) if TORCH in opponents else None
        if where is not None:
            return measured_remotely(artifacts, paths, where, case.seed, rounds, rest, profile_kernels)
        return measured(artifacts, paths, torch_case, case.seed, threads, rounds, profile_kernels)


def _said_of_layer(what: str, spec: LayerSpec, scheme: str | None, sparsity: float) -> Said:
    """What of the asked sparsity a layer will have, printed; ProfileError where its scheme cannot have it."""
    from mest_compiler.sparsity.decisions import all_dense
    from mest_compiler.sparsity.profile import LayerPlan, Profile, Rule

    layers = {what: spec.weight_shape}
    if scheme is None:
        decisions = all_dense(layers)
    else:
        decisions = Profile(LayerPlan(scheme, sparsity), layers={what: Rule(scheme, sparsity)}).decide(layers)
    said = {"asked": decisions.asked(), "done": decisions.done()}
    say_all(said)
    return said


def _said(case: NetworkCase, sparse: SparseModel, classes: int | None) -> Said | None:
    """What of the asked sparsity a network will have, printed. classes: asked for, None: as many as there are.

    Raises:
        ModelError: the model has another number of classes, or cannot be run.
    """
    from mest_compiler.cli.network_layers import network_layers

    layers = network_layers(sparse.model, case.input_shape)
    if classes is not None:
        check_classes(layers, classes, f"--classes asks for {classes}")
    return say_start(sparse, layers, case.seed)


def _refuse(context: typer.Context, names: tuple[str, ...], what: str) -> None:
    """Raise BenchError for the first of these options that was given."""
    for name in names:
        if given(context, name):
            raise BenchError(f"--{name.replace('_', '-')} says nothing about {what}: leave it out.")


def _place(where: Where | None) -> str:
    """Where steps are timed, in words."""
    return "a step on this machine" if where is None else "a step on the device behind RPC"


def _refuse_opponents(opponents: tuple[str, ...], names: Collection[str], what: str) -> None:
    """Raise BenchError for the first opponent with one of these names, which are about something else."""
    for name in opponents:
        if name in names:
            raise BenchError(f"--compare {name} is about {what}: leave it out.")


def _show_and_write(what: str, result: dict[str, Any], profile_kernels: bool, json: str | None) -> None:
    from mest_compiler.bench.bandwidth import memory_bandwidth

    if "where" in result:
        show_remote(what, result)
    else:
        if profile_kernels:
            result["bandwidth"] = memory_bandwidth(result["threads"])
        _show(what, result, profile_kernels)
    if json is not None:
        write_json(json, result)


def _show(what: str, result: dict[str, Any], profile_kernels: bool) -> None:
    show_comparison(f"{what}, batch {result['batch']}, {result['threads']} threads on {result['device']}", result)
    if result["max_rel_error"] is not None:
        say(f"largest relative error against PyTorch: {result['max_rel_error']:.2e}")
    for name, size in result.get("state_bytes", {}).items():
        details, formula = result["state_bytes_details"][name], result["table_a1_bytes"].get(name)
        parts = ", ".join(f"{k} {mib(v)}" for k, v in details.items()) if isinstance(details, dict) else ""
        say(f"weights, gradients and momentum of {name}: {mib(size)} MiB" + (f" ({parts})" if parts else ""))
        if formula is not None:
            say(f"    of it, as Table A.1 counts (weights, gradients and 16-bit indices): {mib(formula)} MiB")
    if "bytes_of" in result:
        show_memory(result["bytes_of"])
    if profile_kernels:
        show_kernels(result["kernel_ms"], result["bandwidth"])
