"""Artifacts: what is saved is what is loaded, and nothing that is damaged or foreign is taken."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from mest_compiler.errors import ArtifactError, StructureError
from mest_compiler.runtime.artifact import LIBRARY, MANIFEST, SCHEMA, STATE, STRUCTURES, Artifact
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.signature import Role

from ..whole_step.cases import Case, compiled
from ..whole_step.training import batch

CASE = Case("pre-activation", "block")
FILES = (LIBRARY, STATE, STRUCTURES, MANIFEST)
SHORTER = [(name, cut) for name in ("order", "row_ptr", "col") for cut in (slice(-1), slice(0, 1), slice(0, 0))]
"""Arrays of a structure, and what of them is left."""


@pytest.fixture
def artifact() -> Artifact:
    """A small step."""
    return compiled(CASE).artifact


@pytest.fixture(params=["folder", "file.zip"])
def saved(request: pytest.FixtureRequest, tmp_path: Path, artifact: Artifact) -> Path:
    """It as a directory and as a zip."""
    return artifact.save(tmp_path / request.param)


@pytest.fixture
def folder(tmp_path: Path, artifact: Artifact) -> Path:
    """It as a directory."""
    return artifact.save(tmp_path / "folder")


def as_loaded(value: object) -> object:
    """What JSON makes of it."""
    return json.loads(json.dumps(value))


def test_all_is_as_it_was(saved: Path, artifact: Artifact) -> None:
    loaded = Artifact.load(saved)
    manifest = dict(loaded.manifest)
    assert set(manifest.pop("sha256")) == set(FILES)
    assert manifest == as_loaded(dict(artifact.manifest))
    assert loaded.library == artifact.library
    assert list(loaded.tensors) == list(artifact.tensors) and list(loaded.structures) == list(artifact.structures)
    for name, tensor in artifact.tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(loaded.tensors[name], tensor)
    for name, structure in artifact.structures.items():
        for key, array in structure.to_arrays().items():
            np.testing.assert_array_equal(loaded.structures[name].to_arrays()[key], array)


def test_the_loaded_one_trains_alike(saved: Path, artifact: Artifact) -> None:
    here, there = Trainer(artifact), Trainer(Artifact.load(saved))
    for seed in range(2):
        x, y = batch(CASE.batch, CASE.shape, seed)
        ours, theirs = here.step(x.numpy(), y.numpy(), 0.1), there.step(x.numpy(), y.numpy(), 0.1)
        assert ours[0] == theirs[0]
        np.testing.assert_array_equal(ours[1], theirs[1])
    for name, array in here.state().items():
        np.testing.assert_array_equal(there.state()[name], array)


def test_saving_over_an_artifact_leaves_one(saved: Path, artifact: Artifact) -> None:
    changed = {name: tensor + 1 for name, tensor in artifact.tensors.items()}
    artifact.with_state(changed, artifact.structures).save(saved)
    np.testing.assert_array_equal(Artifact.load(saved).tensors["fc.bias"], changed["fc.bias"])
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_saving_over_something_else_is_refused(tmp_path: Path, artifact: Artifact) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep me")
    (tmp_path / "file.zip").write_text("no zip")
    for name in ("notes", "file.zip"):
        with pytest.raises(ArtifactError, match="exists and is no artifact"):
            artifact.save(tmp_path / name)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep me"


def test_a_place_that_cannot_be_written(tmp_path: Path, artifact: Artifact) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file/artifact", "file/artifact.zip"):
        with pytest.raises(ArtifactError, match="could not be written"):
            artifact.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "name",
    [
        LIBRARY,
        STATE,
        STRUCTURES,
        MANIFEST,
    ],
)
def test_one_flipped_byte_anywhere(name: str, folder: Path) -> None:
    path = folder / name
    data = path.read_bytes()
    for place in np.linspace(0, len(data) - 1, 25).astype(int):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(ArtifactError):
            Artifact.load(folder)
    path.write_bytes(data)
    Artifact.load(folder)


def test_one_flipped_byte_in_a_zip(tmp_path: Path, artifact: Artifact) -> None:
    path = artifact.save(tmp_path / "file.zip")
    with zipfile.ZipFile(path) as archive:
        starts = [entry.header_offset for entry in archive.infolist()]
        directory = archive.start_dir
    data = path.read_bytes()
    places = [start + k for start in starts for k in (*range(0, 60, 3), 150)]
    for place in (*places, *range(directory, len(data), 5)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            loaded = Artifact.load(path)
        except ArtifactError:
            continue
        assert loaded.library == artifact.library  # a date, or whatever else in a zip is nobody's business


def test_a_zip_cut_short(tmp_path: Path, artifact: Artifact) -> None:
    path = artifact.save(tmp_path / "file.zip")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="no whole artifact"):
        Artifact.load(path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"There is no artifact at .*{name} is missing"):
        Artifact.load(folder)
    with zipfile.ZipFile(tmp_path / "file.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    with pytest.raises(ArtifactError, match="no whole artifact"):
        Artifact.load(tmp_path / "file.zip")


def test_no_artifact_at_all(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="There is no artifact at"):
        Artifact.load(tmp_path / "nowhere")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ArtifactError, match="no whole artifact"):
        Artifact.load(tmp_path / "text")


def rewrite(folder: Path, file: str | None = None, data: bytes = b"", **changes: object) -> None:
    """Another manifest, and another file with the right checksum: damage that only a closer look finds."""
    manifest = json.loads((folder / MANIFEST).read_text()) | changes
    if file is not None:
        (folder / file).write_bytes(data)
        manifest["sha256"][file] = hashlib.sha256(data).hexdigest()
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    manifest["sha256"][MANIFEST] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_another_schema(folder: Path) -> None:
    rewrite(folder, schema=SCHEMA + 1)
    with pytest.raises(ArtifactError, match=f"schema {SCHEMA + 1}, this version reads {SCHEMA}"):
        Artifact.load(folder)


def test_another_tvm(folder: Path) -> None:
    rewrite(folder, tvm="0.1")
    with pytest.raises(ArtifactError, match=r"was built by TVM 0\.1"):
        Artifact.load(folder)


def test_a_manifest_that_lacks_a_key(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["layers"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="lacks 'layers'"):
        Artifact.load(folder)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"sha256": 3}'])
def test_a_manifest_of_another_form(text: str, folder: Path) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest of artifact .* is damaged"):
        Artifact.load(folder)


def test_a_tensor_of_another_shape(folder: Path) -> None:
    tensors = safetensors.numpy.load((folder / STATE).read_bytes())
    tensors["fc.weight"] = np.ascontiguousarray(tensors["fc.weight"].T)
    rewrite(folder, STATE, safetensors.numpy.save(tensors))
    with pytest.raises(ArtifactError, match=r"Tensor 'fc\.weight' .* has shape"):
        Artifact.load(folder)


def test_a_tensor_of_another_type(folder: Path) -> None:
    tensors = safetensors.numpy.load((folder / STATE).read_bytes())
    tensors["fc.weight"] = tensors["fc.weight"].astype(np.float32)
    rewrite(folder, STATE, safetensors.numpy.save(tensors))
    with pytest.raises(ArtifactError, match=r"Tensor 'fc\.weight'"):
        Artifact.load(folder)


def test_a_missing_tensor(folder: Path) -> None:
    tensors = safetensors.numpy.load((folder / STATE).read_bytes())
    del tensors["fc.weight"]
    rewrite(folder, STATE, safetensors.numpy.save(tensors))
    with pytest.raises(ArtifactError, match="not those its manifest names"):
        Artifact.load(folder)


def test_a_structure_out_of_bounds(folder: Path) -> None:
    arrays = safetensors.numpy.load((folder / STRUCTURES).read_bytes())
    arrays["conv1.weight/col"][0] = 10**6
    rewrite(folder, STRUCTURES, safetensors.numpy.save(arrays))
    with pytest.raises(ArtifactError, match="is damaged"):
        Artifact.load(folder)


@pytest.mark.parametrize(("name", "cut"), SHORTER)
def test_a_short_index_array_in_the_file(name: str, cut: slice, folder: Path) -> None:
    arrays = safetensors.numpy.load((folder / STRUCTURES).read_bytes())
    arrays[f"conv1.weight/{name}"] = np.ascontiguousarray(arrays[f"conv1.weight/{name}"][cut])
    rewrite(folder, STRUCTURES, safetensors.numpy.save(arrays))
    with pytest.raises(
        ArtifactError, match=r"is damaged: (Array|A layer) .*|structure of 'conv1\.weight' .* is of another"
    ):
        Artifact.load(folder)


@pytest.mark.parametrize(("name", "cut"), SHORTER)
def test_a_short_index_array_handed_to_a_trainer(name: str, cut: slice, artifact: Artifact) -> None:
    structure = artifact.structures["conv1.weight"]
    short = replace(structure, **{name: getattr(structure, name)[cut].copy()})
    with pytest.raises(StructureError, match=rf"Array {name} of a structure .* is int32 \(\d+,\), not int32"):
        Trainer(artifact.with_state(artifact.tensors, {**artifact.structures, "conv1.weight": short}))


def test_a_layer_whose_kernel_takes_a_longer_index_array(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (entry,) = (e for e in manifest["signature"]["step"]["arguments"] if e[:2] == ["index", "conv1.weight/back_ptr"])
    entry[2][0] += 1
    rewrite(folder, signature=manifest["signature"])
    with pytest.raises(
        ArtifactError, match=r"'back_ptr' of layer 'conv1\.weight' is uint16 \[\d+\], .* compile it again"
    ):
        Trainer(Artifact.load(folder))


def test_a_layer_that_is_said_to_be_computed_otherwise(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["layers"]["conv1.weight"]["kernels"]["forward"]["knobs"]["groups"] += 1
    rewrite(folder, layers=manifest["layers"])
    with pytest.raises(ArtifactError, match=r"'forward_ptr' of layer 'conv1\.weight' is .* program takes uint16 \[3\]"):
        Trainer(Artifact.load(folder))


def test_the_program_takes_no_short_index_array(artifact: Artifact) -> None:
    trainer = Trainer(artifact)
    indices = artifact.signature["step"].places(Role.INDEX)
    place = next(at for name, at in indices.items() if name.endswith("/offset"))
    (arguments,) = trainer._step_args
    arguments[place] = trainer.session.tensor(arguments[place].numpy()[:-1])
    before = trainer.state()
    x, y = batch(CASE.batch, CASE.shape, 0)
    with pytest.raises(RuntimeError, match=r"offset.*shape\[0\] mismatch"):  # TVM's, before any kernel is called
        trainer.step(x.numpy(), y.numpy(), 0.1)
    for name, array in trainer.state().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_structure_of_another_layer(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["layers"]["conv1.weight"]["shape"][0] += 4
    rewrite(folder, layers=manifest["layers"])
    with pytest.raises(ArtifactError, match=r"structure of 'conv1\.weight' .* is of another layer"):
        Artifact.load(folder)


def test_a_copy_is_an_artifact(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    Artifact.load(tmp_path / "copy")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"features": ["amx-of-tomorrow", "sse2"]},
            r"may use amx-of-tomorrow, which this CPU \(.*\) lacks: compile it",
        ),
        (
            {"triple": "riscv64-unknown-linux-gnu"},
            r"compiled for riscv64-unknown-linux-gnu, and this machine is .*",
        ),
        ({"triple": "x86_64-pc-windows-msvc"}, r"compiled for x86_64-pc-windows-msvc, and this machine is .*: comp"),
    ],
)
def test_code_for_another_machine_is_not_loaded(
    artifact: Artifact, changed: dict[str, object], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tvm.runtime.load_module", None)
    needs = {**artifact.manifest["needs"], **changed}
    with pytest.raises(ArtifactError, match=sentence):
        Trainer(replace(artifact, manifest={**artifact.manifest, "needs": needs}))


def test_what_the_files_hold_comes_in_the_manifests_order(folder: Path) -> None:
    """safetensors sorts by name: here a buffer before a parameter, and the last layer first."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for kind in ("parameters", "layers"):
        manifest[kind] = dict(reversed(manifest[kind].items()))
    rewrite(folder, parameters=manifest["parameters"], layers=manifest["layers"])
    loaded = Artifact.load(folder)
    assert list(loaded.tensors) == [*manifest["parameters"], *manifest["buffers"]]
    sparse = [name for name in manifest["parameters"] if "capacity" in manifest["layers"].get(name, ())]
    assert list(loaded.structures) == sparse and sparse != sorted(sparse)
