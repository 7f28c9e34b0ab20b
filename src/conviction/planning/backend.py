"""What a run holds on its device beside its tensors: kernels' scratch memory, library workspaces, the context.

None of it can be seen without the device, so each has a low, an expected and a high figure. Not yet checked on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from conviction.planning.devices import Device
from conviction.planning.step_trace import Setting

_MIB = 1 << 20
# What the CUDA context and the loaded kernels take outside the allocator; drivers differ (0.3 to 0.7 GiB are usual).
_CONTEXT_BYTES = (300 * _MIB, 480 * _MIB, 760 * _MIB)
# The interpreter with torch loaded, in host memory.
_PROCESS_BYTES = (200 * _MIB, 350 * _MIB, 600 * _MIB)
# cuBLAS holds a workspace for each handle, one in the forward's thread and one in the backward's (torch's defaults).
_CUBLAS_BYTES, _CUBLAS_HOPPER_BYTES, _CUBLAS_HANDLES = 8_519_680, 32 * _MIB, 2

# Scratch of a convolution's kernel, as a share of the tensors that it works on. Where tensor cores read NHWC, NCHW
# tensors are copied into that order and back: all of them once. Without tensor cores implicit products need little and
# transformed ones (Winograd, FFT) several times the tensors; torch lets cuDNN's heuristics choose.
_COPIED = (0.0, 1.0, 2.0)
_IN_ORDER = (0.0, 0.1, 1.0)
_WITHOUT_TENSOR_CORES = (0.0, 0.3, 2.0)
_HOST = (0.0, 0.5, 1.5)


@dataclass(frozen=True)
class Unseen:
    """Memory that no trace shows, as (low, expected, high).

    `scratch` scales the measure of a convolution's scratch (`Watcher`); `fixed_bytes` are blocks that the allocator
    holds from the first step on; `outside_bytes` lie outside the allocator.
    """

    scratch: tuple[float, float, float]
    fixed_bytes: tuple[int, ...]
    outside_bytes: tuple[int, int, int]


def unseen_memory(device: Device, setting: Setting) -> Unseen:
    """Return what a run in `setting` holds on `device` beside its tensors."""
    if device.kind == "cpu":
        return Unseen(_HOST, (), _PROCESS_BYTES)
    capability = device.compute_capability or (8, 0)
    workspace = _CUBLAS_HOPPER_BYTES if capability >= (9, 0) else _CUBLAS_BYTES
    low_precision = setting.precision != "fp32"
    tensor_cores = capability >= ((7, 0) if low_precision else (8, 0))
    with_cores = _IN_ORDER if setting.channels_last else _COPIED
    scratch = with_cores if tensor_cores else _WITHOUT_TENSOR_CORES
    return Unseen(scratch, (workspace,) * _CUBLAS_HANDLES, _CONTEXT_BYTES)
