"""Reading a pasted traceback: the user's own line, the phase of a training step, the operation that was running."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from conviction.text import printable

_HEADER = "Traceback (most recent call last)"
# A line is cut before it is searched and the number of lines is bounded, so that no text takes long.
_LONGEST_LINE, _LONGEST_BLOCK = 400, 100_000
_FRAMES = tuple(
    re.compile(pattern)
    for pattern in (
        r'File "(?P<file>[^"]+)", line (?P<line>\d{1,9}), in (?P<function>[\w<>.]+)',
        r"File (?P<file>[^\s:]+|[A-Za-z]:[^\s:]+):(?P<line>\d{1,9}), in (?P<function>[\w<>.]+)",  # IPython
        r"(?P<file>(?:Cell In|Input In) ?\[\d{1,6}\]), (?:line|in <cell line:) (?P<line>\d{1,9})(?P<function>)",
        r"^(?P<file>(?:[~/\\]|[A-Za-z]:\\|<ipython-input)[^\s:]*) in (?P<function>[\w<>.]+)(?P<line>)",  # older IPython
        r"^[│|] *(?P<file>[^\s:]+|[A-Za-z]:[^\s:]+):(?P<line>\d{1,9}) in (?P<function>[\w<>.]+)",  # rich
    )
)
_ARROW = re.compile(r"(?:-+>|❱|^>) *(?P<line>\d{1,9})(?P<code> .*|$)")
_LIBRARY = re.compile(
    r"[/\\](?:site-packages|dist-packages|torchinductor_\w*)[/\\]"
    r"|[/\\]lib(?:64)?[/\\]python\d"
    r"|[/\\]torch[/\\](?:nn|autograd|optim|utils|cuda|_?tensor\.py|functional\.py)"  # built from source
    r"|(?:python|conda)[^/\\]*[/\\](?:envs[/\\][^/\\]+[/\\])?lib[/\\]"
    r"|^<(?!stdin|ipython|string)",
    re.IGNORECASE,
)
_BACKWARD = re.compile(r"\.backward\(|autograd\.grad\(")
_OPTIMIZER = re.compile(r"\b(?:\w*optim\w*|opt|scaler)\.step\(")
_EVALUATION = re.compile(
    r"(?:^|_)(?:val|valid|validate|validation|eval|evaluate|evaluation|predict|infer|inference)(?:_|$)"
    r"|^(?:test|test_step|test_epoch|no_grad)$"
)
_NO_GRADIENT = re.compile(r"no_grad|inference_mode")
_TRAINING = re.compile(r"train|fit(?:_|$)")
_CALL = re.compile(r"([A-Za-z_][\w.]{0,80})\(")


@dataclass(frozen=True)
class Source:
    """One frame of a traceback: file, line (0 where not told), function and the line's text, all safe to print."""

    file: str
    line: int
    function: str
    code: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.code}" if self.code else where


class Trace(NamedTuple):
    """What a traceback tells; None where it does not.

    `source` is the last frame outside installed packages. `phase` is "setup" (weights on their way to the device),
    "forward", "backward", "optimizer" or "evaluation". `operation` is the last call, as in "F.conv2d".
    """

    source: Source | None
    phase: str | None
    operation: str | None


def read_trace(text: str, position: int) -> Trace:
    """Read the traceback that ends at `position`, or else the one that begins after it."""
    start = text.rfind(_HEADER, max(0, position - _LONGEST_BLOCK), position)
    frames = _frames(text[start:position]) if start >= 0 else []
    if not frames:
        start = text.find(_HEADER, position, position + _LONGEST_BLOCK // 5)
        frames = _frames(text[start : start + _LONGEST_BLOCK]) if start >= 0 else []
    own = [frame for frame in frames if not _LIBRARY.search(frame.file)]
    call = _CALL.search(frames[-1].code) if frames else None
    return Trace(own[-1] if own else None, _phase(frames), call.group(1) if call else None)


def _frames(block: str) -> list[Source]:
    frames: list[Source] = []
    lines = [line[:_LONGEST_LINE] for line in block.splitlines()]
    for number, line in enumerate(lines):
        found = next((match for pattern in _FRAMES if (match := pattern.search(line))), None)
        if found is None:
            _fill_in(frames, line)
            continue
        plain = found.re is _FRAMES[0]  # its code is the next line, which has the same prefix of a log, if any
        code = lines[number + 1][found.start() :] if plain and number + 1 < len(lines) else ""
        if any(pattern.search(code) for pattern in _FRAMES[:1]):
            code = ""
        frames.append(_source(found["file"], int(found["line"] or 0), found["function"], code))
    return frames


def _fill_in(frames: list[Source], line: str) -> None:
    """Take the code of the last frame from the line that an arrow points at."""
    arrow = _ARROW.search(line) if frames and not frames[-1].code else None
    if arrow:
        last = frames.pop()
        frames.append(_source(last.file, int(arrow["line"]), last.function, arrow["code"]))


def _source(file: str, line: int, function: str, code: str) -> Source:
    name = function.rpartition(".")[2]  # IPython names the class too
    return Source(printable(file), line, printable(name), printable(code.strip(" │|\t")))


def _phase(frames: list[Source]) -> str | None:
    if any(frame.function in {"backward", "run_backward"} or _BACKWARD.search(frame.code) for frame in frames):
        return "backward"  # whatever runs inside: recomputed layers, hooks
    forward = _last(frames, [frame.function in {"forward", "_call_impl"} for frame in frames])
    stepping = [bool(_OPTIMIZER.search(frame.code)) or _in_optimizer(frame) for frame in frames]
    if _last(frames, stepping) > forward:  # a step with a closure runs the forward inside
        return "optimizer"
    if _evaluates(frames):
        return "evaluation"
    if forward >= 0:
        return "forward"
    return "setup" if any(frame.function == "_apply" for frame in frames) else None


def _last(frames: list[Source], marks: list[bool]) -> int:
    return max((number for number in range(len(frames)) if marks[number]), default=-1)


def _in_optimizer(frame: Source) -> bool:
    return "torch/optim/" in frame.file.replace("\\", "/") and "lr_scheduler" not in frame.file


def _evaluates(frames: list[Source]) -> bool:
    """Whether the innermost function with a telling name evaluates; `train_and_evaluate` trains."""
    for frame in reversed(frames):
        if _TRAINING.search(frame.function):
            return False
        if _EVALUATION.search(frame.function) or _NO_GRADIENT.search(frame.code):
            return True
        if frame.function == "decorate_context":  # how a function under the no_grad decorator is entered
            return True
    return False
