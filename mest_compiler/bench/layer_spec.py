"""A single convolution layer as the command line names it: `layer:64,64,3,16x16`."""

import re
from dataclasses import dataclass

from mest_compiler.errors import BenchError

PREFIX = "layer:"
_FORM = re.compile(r"layer:(\d+),(\d+),(\d+),(\d+)x(\d+)(?:,s(\d+))?")


@dataclass(frozen=True)
class LayerSpec:
    """Geometry of a layer with square kernel and "same" padding; planes are those of its input."""

    channels: int
    filters: int
    kernel: int
    height: int
    width: int
    stride: int = 1

    def __post_init__(self) -> None:
        if min(self.channels, self.filters, self.kernel, self.height, self.width, self.stride) < 1:
            raise BenchError(f"all numbers of a layer must be at least 1, and '{self}' has a smaller one")

    @property
    def padding(self) -> int:
        """Zeros on each side of the input plane."""
        return self.kernel // 2

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """[F, C, kh, kw]."""
        return (self.filters, self.channels, self.kernel, self.kernel)

    @property
    def out_plane(self) -> tuple[int, int]:
        """Height and width of the output."""
        return tuple((side + 2 * self.padding - self.kernel) // self.stride + 1 for side in (self.height, self.width))

    @classmethod
    def parse(cls, text: str) -> "LayerSpec":
        """Read "layer:C,F,k,HxW" or "layer:C,F,k,HxW,sS" (channels in, channels out, kernel, input plane,
        stride)."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise BenchError(
                f"'{text}' is not a layer; write layer:CHANNELS,FILTERS,KERNEL,HEIGHTxWIDTH and, "
                "if the stride is not 1, add ,sSTRIDE, as in layer:64,128,3,16x16,s2"
            )
        return cls(*(int(number) for number in match.groups(default="1")))

    def __str__(self) -> str:
        stride = "" if self.stride == 1 else f",s{self.stride}"
        return f"layer:{self.channels},{self.filters},{self.kernel},{self.height}x{self.width}{stride}"
