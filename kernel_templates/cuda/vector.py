"""An activation vector as GPU kernels pass it on: float32, and quantized once by whoever produced it.

Groups of 8 neighbouring elements share a float32 scale. Small groups let a program that computes 8 rows quantize its
own output; they also halve the error of groups of 32.

    int16: q = round(v / s), s = max |v| / 32767;  q = 256 * high + low, high signed and low unsigned
    int8:  q = round(v / s), s = max |v| / 127;    high = q, low unused

Byte order: weights are packed by runs of 32 columns so that one 16-byte load gives 32 nibbles, the low ones of word w
being columns 8w..8w+3 and the high ones 8w+4..8w+7. Planes follow, so that loads are whole words in order too: a thread
has a run, and reads the 16 bytes of its first halves and the 16 of its second ones. Those of LINE_RUNS neighbouring
runs lie together, a line of the first-level cache, since eight threads are served at a time: element e of a block of
256 lies at (e % 8 // 4) * 128 + e // 8 * 4 + e % 4. Planes are whole blocks; nothing reads what is behind the elements.
"""

from dataclasses import dataclass

import torch

from kernel_templates.cuda.traits import BLOCK, LINE_RUNS, RUN

GROUP = 8
LARGEST = {"int16": 32767.0, "int8": 127.0}


@dataclass(frozen=True)
class Vector:
    """values float32 [n], high int8 and low uint8 [n rounded up to blocks], scale float32 [n / 8], squares float32
    [n / 8]; n % 32 == 0.

    The planes and scales hold values * norm, norm being the next consumer's; `squares` sums values^2 by groups, from
    which that consumer takes the RMS factor, and is kept for the residual stream only.
    """

    values: torch.Tensor
    high: torch.Tensor
    low: torch.Tensor
    scale: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def allocate(cls, n: int, device: str | torch.device) -> "Vector":
        """Poisoned: NaN values and scales, so that an element nobody wrote is seen."""
        if n % RUN:
            raise ValueError(f"a vector of {n} elements does not divide into runs of {RUN}")
        nan = float("nan")
        return cls(
            torch.full((n,), nan, device=device),
            torch.full((_whole(n),), -86, dtype=torch.int8, device=device),
            torch.full((_whole(n),), 170, dtype=torch.uint8, device=device),
            torch.full((n // GROUP,), nan, device=device),
            torch.full((n // GROUP,), nan, device=device),
        )

    @property
    def pointers(self) -> tuple[torch.Tensor, ...]:
        """values, high, low, scale, squares as kernels take them: the planes by words, int32."""
        return self.values, self.high.view(torch.int32), self.low.view(torch.int32), self.scale, self.squares

    @property
    def size(self) -> int:
        return self.values.numel()

    def first(self, n: int) -> "Vector":
        """The first n elements, whole runs: the same memory."""
        values, high, low = self.values[:n], self.high[: _whole(n)], self.low[: _whole(n)]
        return Vector(values, high, low, self.scale[: n // GROUP], self.squares[: n // GROUP])

    def fill(self, values: torch.Tensor, norm: torch.Tensor | None = None, activation: str = "int16") -> None:
        """Write float32 values [n] and what follows from them, as kernels do; nothing on torch's "meta" device, where
        some of these steps would import torch's whole compiler."""
        if self.values.is_meta:
            return
        values = values.to(self.values.device, torch.float32)
        groups = (values if norm is None else values * norm.to(values)).view(-1, GROUP)
        scale = groups.abs().amax(1) / LARGEST[activation]
        inverse = torch.where(scale > 1e-34, 1.0 / scale, torch.zeros_like(scale))
        quants = (groups * inverse[:, None]).round().to(torch.int32).view(-1)
        places = byte_places(self.size).to(values.device)
        high = quants >> 8 if activation == "int16" else quants
        self.values.copy_(values)
        self.high[places] = high.to(torch.int8)
        self.low[places] = (quants & 255).to(torch.uint8)
        self.scale.copy_(scale)
        self.squares.copy_(values.view(-1, GROUP).square().sum(1))

    def quantized(self, activation: str = "int16") -> torch.Tensor:
        """float32 [n]: what the planes say."""
        planes = self.high.float() * 256 + self.low.float() if activation == "int16" else self.high.float()
        return planes[byte_places(self.size).to(planes.device)] * self.scale.repeat_interleave(GROUP)


def byte_places(n: int, line: int = LINE_RUNS) -> torch.Tensor:
    """int64 [n]: where each element lies in a plane whose lines have so many runs."""
    e, block = torch.arange(n), RUN * line
    return e // block * block + e % 8 // 4 * (block // 2) + e % block // 8 * 4 + e % 4


def _whole(n: int) -> int:
    """n elements, rounded up to blocks."""
    return -(-n // BLOCK) * BLOCK
