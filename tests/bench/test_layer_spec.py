"""Layers as the command line names them."""

import pytest

from mest_compiler.bench.layer_spec import LayerSpec
from mest_compiler.errors import BenchError


def test_parse() -> None:
    layer = LayerSpec.parse("layer:32,64,3,16x12")
    assert layer == LayerSpec(channels=32, filters=64, kernel=3, height=16, width=12, stride=1)
    assert layer.padding == 1
    assert layer.weight_shape == (64, 32, 3, 3)
    assert layer.out_plane == (16, 12)


def test_stride() -> None:
    layer = LayerSpec.parse("layer:32,64,1,16x15,s2")
    assert layer.stride == 2
    assert layer.padding == 0
    assert layer.out_plane == (8, 8)


@pytest.mark.parametrize("text", ["layer:64,64,3,16x16", "layer:64,128,3,16x8,s2"])
def test_text_and_back(text: str) -> None:
    assert str(LayerSpec.parse(text)) == text


@pytest.mark.parametrize("text", ["layer:64,64,3,16", "64,64,3,16x16", "layer:64,64,3,16x16,2", "layer:a,b,c,dxe"])
def test_not_a_layer(text: str) -> None:
    with pytest.raises(BenchError, match=f"'{text}' is not a layer; write layer:CHANNELS,FILTERS"):
        LayerSpec.parse(text)


def test_numbers_too_small() -> None:
    with pytest.raises(BenchError, match="at least 1, and 'layer:64,0,3,16x16' has a smaller one"):
        LayerSpec.parse("layer:64,0,3,16x16")
