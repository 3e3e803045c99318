"""The command line's one way of failing, and its promise to start quickly."""

import errno
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
from typer.testing import CliRunner, Result

from mest_compiler.cli import main, options
from mest_compiler.errors import ArtifactError, MestError


@pytest.fixture
def mest(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `mest tiny ...` where tiny is a command made for the test."""

    def run(command: Callable[..., None], *arguments: str) -> Result:
        module = ModuleType("mest_compiler.cli.tiny")
        module.command = command
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(main, "COMMANDS", ("tiny",))
        return CliRunner().invoke(main.app, ["tiny", *arguments])

    return run


def _raise(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (ArtifactError("a [b] is\ndamaged; build it anew"), 2, "mest: a [b] is damaged; build it anew\n"),
        (MestError("x" * 300), 2, f"mest: {'x' * 300}\n"),
        (KeyboardInterrupt(), 130, "mest: interrupted\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a.json"),
            2,
            "mest: cannot use 'runs/a.json': No space left on device; choose another place or make room\n",
        ),
        (
            OSError(errno.EROFS, "Read-only file system"),
            2,
            "mest: cannot use 'the output': Read-only file system; choose another place or make room\n",
        ),
    ],
)
def test_errors_are_one_sentence(mest, error: BaseException, status: int, sentence: str) -> None:
    result = mest(_raise(error))
    assert result.stderr == sentence
    assert result.stdout == ""
    assert result.exit_code == status


@pytest.mark.parametrize("error", [ValueError("ours"), OSError(errno.EBADF, "Bad file descriptor")])
def test_mistakes_of_ours_keep_their_traceback(mest, error: Exception) -> None:
    assert mest(_raise(error)).exception is error


def test_wrong_usage_is_status_2(mest) -> None:
    assert mest(_raise(MestError("not reached")), "--colour").exit_code == 2
    assert CliRunner().invoke(main.app, ["no-such-command"]).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--sparsity", "1"], "1 is not a fraction of zeros"),
        (["--threads", "0"], "Invalid value for '--threads'"),
        (["--json", "/no/such/folder/a.json"], "the folder '/no/such/folder' does not exist"),
        (["--json", "/"], "'/' is a folder"),
        (["--profile", "/no/such/profile.yaml"], "does not exist"),
    ],
)
def test_shared_options_check_what_they_are_given(mest, arguments: list[str], complaint: str) -> None:
    def command(
        sparsity: options.Sparsity = 0.9,
        threads: options.Threads = None,
        profile: options.Profile = None,
        json: options.Json = None,
    ) -> None:
        raise AssertionError("the command must not be reached")

    result = mest(command, *arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.replace("│", " ").split())


def test_shared_options_arrive(mest) -> None:
    seen = {}

    def command(
        model: options.Model,
        device: options.Device = "cpu",
        batch: options.Batch = 64,
        scheme: options.Scheme = "block",
        seed: options.Seed = 0,
        json: options.Json = None,
    ) -> None:
        seen.update(locals())

    assert mest(command, "resnet20", "--batch", "8", "--json", "-").exit_code == 0
    assert {name: seen[name] for name in ("model", "device", "batch", "json")} == {
        "model": "resnet20",
        "device": "cpu",
        "batch": 8,
        "json": "-",
    }


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in main.COMMANDS)])
def test_help_does_not_load_the_machinery(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom mest_compiler.cli.main import app\n"
        f"result = CliRunner().invoke(app, {arguments!r})\n"
        "assert result.exit_code == 0, result.exception\n"
        "print(sorted({'torch', 'tvm', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
