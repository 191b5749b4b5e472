"""Layers of the model by a kernel of our own, on processors: `native.cpp`, which torch compiles when it is first needed (paper 6).

Few rows take the time in which the weights are read from memory, and none of it goes to small operations between the products. The
outcome of a row does not depend on what else is in a step. Without a compiler, or for shapes that the kernel does not take, the
model's own layers do the work.
"""

import ctypes
import math
import mmap
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openherd.core.compiled import Compiled
from openherd.inference.repack import Int8Linear, with_modules
from openherd.model.attention import Attend
from openherd.model.layers import Linear
from openherd.model.transformer import Layer, Transformer

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-ftree-loop-vectorize")  # two of which torch would not want for its own
WIDTH, HEAD = 64, 32  # the kernel reads vectors: what matrices' and heads' widths are multiples of
CHUNK = 16  # rows that are computed at once
BLOCK = CHUNK  # tokens of the cache, or a multiple
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
Pointer, Number = ctypes.c_void_p, ctypes.c_int32


class Matrix(ctypes.Structure):
    """As in the kernel's source, like the three below."""

    _fields_ = (("rows", Pointer), ("scales", Pointer))


class LayerWeights(ctypes.Structure):
    """Matrices in the order of `matrices_of`."""

    _fields_ = (("matrices", Matrix * 7), ("norms", Pointer * 2))


class Shape(ctypes.Structure):
    """Of every layer."""

    _fields_ = (
        *((name, Number) for name in ("d", "heads", "groups", "width", "feed_forward", "kind")),
        ("epsilon", ctypes.c_float),
        ("threads", Number),
    )


class Cache(ctypes.Structure):
    """Keys and values of one layer, and where each row's text has its own."""

    _fields_ = (
        *((name, Pointer) for name in ("keys", "values")),
        ("places", ctypes.c_int64),
        *((name, Number) for name in ("size", "most")),
        *((name, Pointer) for name in ("table", "text", "position")),
    )


class HasCache(Protocol):
    """An `attend` that keeps keys and values in blocks."""

    def cache(self, layer: int) -> Cache:
        """Those of one layer."""


class Library(Compiled):
    """The kernel for the processor that it runs on."""

    def __init__(self, *flags: str) -> None:
        """With more flags for the compiler."""
        super().__init__(SOURCE, *FLAGS, *flags)

    def opened(self) -> Any:
        """The functions, without the matrix unit where the system keeps it to itself."""
        functions = super().opened()
        if not functions.ready():
            self.flags = (*self.flags, "-mno-amx-tile", "-mno-amx-bf16", "-mno-amx-int8")
            functions = super().opened()
        return functions


library = Library()


def matrices_of(layer: Layer) -> list[nn.Module]:
    """In the kernel's order."""
    own, more = layer.attention, layer.feed_forward
    return [own.query, own.key, own.value, own.output, more.gate, more.up, more.down]


def zeros(shape: Sequence[int], dtype: torch.dtype, large: bool = False) -> Tensor:
    """Zeros in memory that is taken when it is first written to, which torch's own is at once; in large pages where wanted."""
    # Python's default is memory that is shared, which has no large pages.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, **private)
    if large and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class Packed:
    """Weights in the kernel's order, copied to memory in large pages."""

    def __init__(self, linear: nn.Module) -> None:
        rows_FD = linear.rows_FD if isinstance(linear, Int8Linear) else cast("Tensor", linear.weight).detach()
        self.kind, (self.height, self.width) = KINDS[rows_FD.dtype], rows_FD.shape
        rows_FD = rows_FD.contiguous()
        whole, bytes_of_row = -(-self.height // CHUNK) * CHUNK, self.width * rows_FD.element_size()
        self.rows = zeros((whole, self.width), rows_FD.dtype, large=True)  # in the kernel's order
        addresses = Pointer(rows_FD.data_ptr()), Pointer(self.rows.data_ptr())
        library.functions.pack(
            addresses[0], self.height, ctypes.c_int64(bytes_of_row), self.kind, torch.get_num_threads(), addresses[1]
        )
        self.scales = F.pad(linear.scale_F, (0, whole - self.height)) if isinstance(linear, Int8Linear) else None
        self.matrix = Matrix(self.rows.data_ptr(), None if self.scales is None else self.scales.data_ptr())


class NativeLayer(nn.Module):
    """One layer, computed by the kernel. What it is given stays as it is."""

    def __init__(self, layer: Layer, model: Transformer) -> None:
        super().__init__()
        config = model.config
        self.index = layer.attention.index
        self.packed = [Packed(linear) for linear in matrices_of(layer)]
        self.shape = Shape(
            config.d_model, config.n_heads, config.n_kv_heads, config.head_width, config.d_feed_forward,
            self.packed[0].kind, config.norm_epsilon,
        )  # fmt: skip
        self.norms = [norm.weight.detach().float().contiguous() for norm in (layer.attention_norm, layer.feed_forward_norm)]
        self.weights = LayerWeights(
            (Matrix * 7)(*(p.matrix for p in self.packed)), (Pointer * 2)(*(n.data_ptr() for n in self.norms))
        )

    def forward(self, x_BTD: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """Shape (1, T, D), returned in fp32."""
        x_BTD = x_BTD.to(torch.float32, copy=True).contiguous()
        cos, sin = cos.contiguous(), sin.contiguous()
        cache = cast("HasCache", attend).cache(self.index)
        self.shape.threads = torch.get_num_threads()
        library.functions.layer(
            ctypes.byref(self.shape), ctypes.byref(self.weights), ctypes.byref(cache), x_BTD.shape[1],
            *(Pointer(t.data_ptr()) for t in (x_BTD, cos, sin)),
        )  # fmt: skip
        return x_BTD


class NativeLinear(nn.Module):
    """x W^T by the kernel, in fp32."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.packed = Packed(linear)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shape (..., D) to (..., F)."""
        own = self.packed
        x_TD = x_BTD.reshape(-1, own.width).float().contiguous()
        out_TF = x_TD.new_empty(len(x_TD), len(own.rows))
        library.functions.linear(
            ctypes.byref(own.matrix), own.kind, out_TF.shape[1], own.width, torch.get_num_threads(), Pointer(x_TD.data_ptr()),
            len(x_TD), Pointer(out_TF.data_ptr()),
        )  # fmt: skip
        return out_TF[:, : own.height].view(*x_BTD.shape[:-1], -1)


def takes(model: Transformer) -> bool:
    """Whether the kernel computes a model of this shape, on its device."""
    config, weight = model.config, model.embed.weight
    widths = (config.d_model, config.d_feed_forward, config.n_heads * config.head_width, config.n_kv_heads * config.head_width)
    whole = not any(width % WIDTH for width in widths) and not config.head_width % HEAD
    linears = [m for layer in model.layers.values() for m in matrices_of(cast("Layer", layer))] + [model.head]
    plain = all(isinstance(m, Int8Linear) or (type(m).forward is Linear.forward and m.bias is None) for m in linears)
    # A layer is told one kind; beside int8 its keys and values are bf16, and the cache is of the embedding's type.
    kinds = {torch.int8 if isinstance(m, Int8Linear) else m.weight.dtype for m in linears}
    alike = kinds == {weight.dtype} or (kinds == {torch.int8} and weight.dtype == torch.bfloat16)
    return weight.device.type == "cpu" and weight.dtype in KINDS and whole and plain and alike


@torch.no_grad()
def native(model: Transformer) -> Transformer:
    """A model that computes the same by the kernel, from a copy of the weights; the model itself where that is impossible."""
    if is_native(model) or not takes(model) or not library.load():
        return model

    def made(module: nn.Module) -> nn.Module | None:
        if isinstance(module, Layer):
            return NativeLayer(module, model)
        return NativeLinear(module) if module is model.head else None

    return with_modules(model, made)


def is_native(model: Transformer) -> bool:
    """Whether the kernel computes it."""
    return isinstance(model.head, NativeLinear)


class Compiling:
    """A model on its way to the kernel: compiled, and copied, in the background, while it already answers."""

    def __init__(self, model: Transformer, then: Callable[[], None] = lambda: None) -> None:
        """`then` is done in the background too, when the model is ready."""
        self.model, self.config, self.then = model, model.config, then
        self.thread = threading.Thread(target=self._prepare, daemon=True)
        self.thread.start()
        weakref.finalize(self, leave, self.thread)

    def _prepare(self) -> None:
        self.model = native(self.model)
        if not library.stopped:
            self.then()

    def wait(self) -> Transformer:
        """The model when it is ready."""
        self.thread.join()
        return self.model


def leave(thread: threading.Thread) -> None:
    """End the work in the background, which may not outlive Python."""
    if thread.is_alive() and thread is not threading.current_thread():  # which may be the last to know the model
        library.stop()
        thread.join()
