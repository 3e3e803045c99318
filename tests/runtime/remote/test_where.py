"""Where a device is, as options say it."""

import pytest

from mest_compiler.errors import DeviceError
from mest_compiler.runtime.remote.where import Address, Where


def test_ways() -> None:
    assert Where.of() is None
    assert Where.of(tracker="host:9190", key="s20") == Where(tracker=Address("host", 9190), key="s20")
    assert Where.of(server="[::1]:9090") == Where(server=Address("::1", 9090))
    assert str(Address("::1", 9090)) == "[::1]:9090"
    assert Where.of(adb="") == Where(adb="")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tracker": "host"}, "'host' is no address of a tracker: write HOST:PORT"),
        ({"tracker": "host:0", "key": "k"}, "'host:0' is no address"),
        ({"tracker": "host:70000", "key": "k"}, "'host:70000' is no address"),
        ({"server": ":9090"}, "':9090' is no address of a server"),
        ({"server": "host:x"}, "'host:x' is no address"),
        ({"tracker": "host:1"}, "say which one, with --key"),
        ({"key": "k"}, "The key 'k' needs a tracker"),
        ({"tracker": "host:1", "key": "k", "server": "host:2"}, "in one way"),
        ({"server": "host:1", "adb": ""}, "in one way"),
    ],
)
def test_what_is_no_way(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(DeviceError, match=sentence):
        Where.of(**options)
