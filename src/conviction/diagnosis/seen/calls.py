"""Calls of modules: hooks on all of them while a step is looked into, else a stand-in for calls that counts nets."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from conviction.diagnosis.seen.guard import Guard
from conviction.diagnosis.seen.passes import Passes

Wrapper = Callable[..., Any]
_CALL = vars(nn.Module)["__call__"]
_HUNG: list[Calls] = []  # those that are in force now


class Calls:
    """Watches the modules of a program being called, in one of two ways; `check` may stop the program."""

    def __init__(self, passes: Passes, guard: Guard, check: Callable[[], None]) -> None:
        self._passes, self._guard, self._check = passes, guard, check
        self._handles: list[Any] = []
        self._quick_call: Any = None

    def hang(self) -> None:
        """Begin to watch."""
        for other in _HUNG:
            other.set_quiet(False)  # of two that stand in for a method the first to leave would take the other along
        _HUNG.append(self)
        self._hook()

    def take_off(self) -> None:
        """Watch no more; all is as it was."""
        self.set_quiet(False)
        while self._handles:
            self._handles.pop().remove()
        if self in _HUNG:
            _HUNG.remove(self)

    def set_quiet(self, quiet: bool) -> None:
        """Change between hooks, which every layer of a net pays for, and a stand-in for calls that only counts nets."""
        if quiet == self._passes.quiet or (quiet and len(_HUNG) > 1):
            return
        self._passes.quiet = quiet
        if quiet:
            while self._handles:
                self._handles.pop().remove()
            self._quick_call = self._make_call(_CALL)
            setattr(nn.Module, "__call__", self._quick_call)  # noqa: B010
        else:
            if vars(nn.Module)["__call__"] is self._quick_call:
                setattr(nn.Module, "__call__", _CALL)  # noqa: B010
            self._hook()

    def _make_call(self, original: Wrapper) -> Wrapper:
        passes, guard, compiling = self._passes, self._guard, torch.compiler.is_compiling

        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            if compiling() or passes.inside is not None or not guard.active or not guard.here:
                return original(module, *args, **kwargs)
            if not guard.run(passes.pass_quickly, module, args):
                if guard.run(passes.nets.of, module) is not None:
                    self.set_quiet(False)
                return original(module, *args, **kwargs)
            try:
                return original(module, *args, **kwargs)
            finally:
                passes.inside = None

        return functools.wraps(original)(__call__)

    def _hook(self) -> None:
        passes, guard, compiling = self._passes, self._guard, torch.compiler.is_compiling

        def enter(module: nn.Module, args: Any) -> None:
            if compiling() or passes.inside is not None or not guard.active:
                return
            guard.run(passes.enter_net, module, args, sys._getframe(1))
            if passes.inside is not None:
                self._check()

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if compiling() or passes.inside is None or not guard.active:
                return
            error = sys.exc_info()[1] if output is None else None
            if error is not None and passes.current is not None:
                guard.run(passes.looks.note_failure, passes.current.record, module, error)
            if module is passes.inside:
                guard.run(passes.leave_net, output, error is not None)
            elif passes.looking:
                guard.run(passes.look, module, output)

        self._handles.append(register_module_forward_pre_hook(enter))
        self._handles.append(register_module_forward_hook(leave, always_call=True))
