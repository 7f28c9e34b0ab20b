"""The hooks: where an observer hangs itself into torch, and takes itself off again."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad
from torch.optim import lr_scheduler
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from conviction.diagnosis.seen.calls import Calls
from conviction.diagnosis.seen.events import Events
from conviction.diagnosis.seen.guard import Guard
from conviction.diagnosis.seen.losses import LOSSES
from conviction.diagnosis.seen.patches import Patches, users_modules
from conviction.diagnosis.seen.schedules import SchedulesSeen

Wrapper = Callable[..., Any]


class Hooks:
    """Everything that is hooked and replaced while a program is observed.

    `check` is called where a program may be stopped: before forward and backward passes, after steps and batches.
    """

    def __init__(self, events: Events, schedules: SchedulesSeen, guard: Guard, check: Callable[[], None]) -> None:
        self.events, self.schedules, self.guard, self.check = events, schedules, guard, check
        self._patches = Patches()
        self._handles: list[Any] = []
        self._calls = Calls(events, guard, check)
        self._iterators: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def hang(self) -> None:
        """Hook and replace; what is done already is undone where something fails."""
        try:
            self._hang_modules()
            self._hang_losses()
            self._hang_backward()
            self._hang_optimizers()
            self._hang_data()
        except BaseException:
            self.take_off()
            raise

    def take_off(self) -> None:
        """Put everything back."""
        self._calls.take_off()
        while self._handles:
            self._handles.pop().remove()
        self._patches.put_back()

    def _hang_modules(self) -> None:
        self._calls.hang()
        self._patches.put(nn.Module, "__init__", self._make_module_init)
        self._patches.put(nn.Module, "load_state_dict", self._make_load)
        self._patches.put(
            nn.Module, "zero_grad", lambda f: self._before(f, self.events.steps.optimizers.note_module_clearing)
        )

    def _hang_losses(self) -> None:
        adopters = users_modules(self.events.places.is_users)
        for name in LOSSES:
            self._patches.put_function(F, name, lambda f, name=name: self._make_loss(f, name), adopters)
        clip = self._make_clip
        original = clip_grad.clip_grad_norm_
        self._patches.put_function(clip_grad, "clip_grad_norm_", clip, adopters)
        if nn.utils.clip_grad_norm_ is original:
            self._patches.put_value(nn.utils, "clip_grad_norm_", clip_grad.clip_grad_norm_)

    def _hang_backward(self) -> None:
        self._patches.put(torch.autograd, "backward", self._make_backward)
        self._patches.put(torch.autograd, "grad", self._make_grad)
        self._patches.put(torch.amp.GradScaler, "scale", lambda f: self._before(f, self.events.note_scaling))

    def _hang_optimizers(self) -> None:
        events, guard = self.events, self.guard

        def begin(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            closure = len(args) > 1 and args[1] is not None
            guard.run(events.begin_step, optimizer, closure or kwargs.get("closure") is not None, sys._getframe(1))

        def end(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            guard.run(events.end_step, optimizer)
            self._calls.set_quiet(events.may_be_quiet)
            self.check()

        self._handles.append(register_optimizer_step_pre_hook(begin))
        self._handles.append(register_optimizer_step_post_hook(end))
        self._patches.put(Optimizer, "__init__", self._make_optimizer_init)
        self._patches.put(Optimizer, "zero_grad", lambda f: self._before(f, events.steps.optimizers.note_clearing))
        for kind in vars(lr_scheduler).values():
            if isinstance(kind, type) and issubclass(kind, lr_scheduler.LRScheduler) and "step" in vars(kind):
                self._patches.put(kind, "step", self._make_scheduler_step)

    def _hang_data(self) -> None:
        self._patches.put(DataLoader, "__init__", self._make_loader_init)
        self._patches.put(DataLoader, "__iter__", self._make_iter)
        self._patches.put(_BaseDataLoaderIter, "__next__", self._make_next)

    def _before(self, original: Wrapper, handler: Callable[[Any], None]) -> Wrapper:
        """Tell `handler` of the object whose method is called, then call it."""

        def call(owner: Any, *args: Any, **kwargs: Any) -> Any:
            self.guard.run(handler, owner)
            return original(owner, *args, **kwargs)

        return call

    def _make_module_init(self, original: Wrapper) -> Wrapper:
        events, guard = self.events, self.guard

        def make(module: nn.Module, frame: Any) -> None:
            events.nets.made[module] = events.places.maker(module, frame)

        def __init__(module: nn.Module, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(module, *args, **kwargs)
            guard.run(make, module, sys._getframe(1))

        return __init__

    def _make_load(self, original: Wrapper) -> Wrapper:
        def load_state_dict(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            result = original(module, *args, **kwargs)
            missing = len(getattr(result, "missing_keys", ()))
            if not missing or missing < 0.5 * len(module.state_dict()):
                self.guard.run(self.events.nets.note_loaded, module)
            return result

        return load_state_dict

    def _make_loss(self, original: Wrapper, name: str) -> Wrapper:
        events, guard, compiling = self.events, self.guard, torch.compiler.is_compiling

        def loss(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if not events.quiet and not compiling() and guard.active:
                guard.run(events.note_loss, name, args, kwargs, result, sys._getframe(1))
            return result

        return loss

    def _make_clip(self, original: Wrapper) -> Wrapper:
        def clip_grad_norm_(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            found = original(parameters, max_norm, *args, **kwargs)
            self.guard.run(self.events.note_clipping, max_norm, found)
            return found

        return clip_grad_norm_

    def _make_backward(self, original: Wrapper) -> Wrapper:
        events, guard = self.events, self.guard

        def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            if not guard.active or guard.busy:
                original(tensors, *args, **kwargs)
                return
            if events.by_hand is not None:
                guard.run(events.settle)
            self.check()
            roots = tensors if isinstance(tensors, (tuple, list)) else (tensors,)
            guard.run(events.begin_backward, roots, sys._getframe(1))
            original(tensors, *args, **kwargs)
            del roots
            if not events.quiet:
                guard.run(events.end_backward)

        return backward

    def _make_grad(self, original: Wrapper) -> Wrapper:
        events, guard = self.events, self.guard

        def grad(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            wanted = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
            trains = not kwargs.get("create_graph") and all(isinstance(one, nn.Parameter) for one in wanted)
            if not trains or not guard.active or guard.busy:
                return original(outputs, inputs, *args, **kwargs)
            roots = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
            guard.run(events.settle)
            guard.run(events.begin_backward, roots, sys._getframe(1))
            found = original(outputs, inputs, *args, **kwargs)
            guard.run(events.end_backward)
            return found

        return grad

    def _make_optimizer_init(self, original: Wrapper) -> Wrapper:
        def __init__(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(optimizer, *args, **kwargs)
            self.guard.run(self.events.note_optimizer, optimizer, sys._getframe(1))

        return __init__

    def _make_scheduler_step(self, original: Wrapper) -> Wrapper:
        events, guard, schedules = self.events, self.guard, self.schedules

        def note(schedule: Any, frame: Any) -> None:
            schedules.note(schedule, frame, events.places)

        def step(schedule: Any, *args: Any, **kwargs: Any) -> Any:
            guard.run(note, schedule, sys._getframe(1))
            with schedules.stepping():
                return original(schedule, *args, **kwargs)

        return step

    def _make_loader_init(self, original: Wrapper) -> Wrapper:
        events, guard = self.events, self.guard

        def make(loader: Any, frame: Any) -> None:
            events.loaders.made[loader] = events.places.maker(loader, frame)

        def __init__(loader: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(loader, *args, **kwargs)
            guard.run(make, loader, sys._getframe(1))

        return __init__

    def _make_iter(self, original: Wrapper) -> Wrapper:
        def begin(loader: Any, iterator: Any) -> None:
            self._iterators[iterator] = self.events.loaders.begin_pass(loader)

        def __iter__(loader: Any) -> Any:  # noqa: N807
            iterator = original(loader)
            self.guard.run(begin, loader, iterator)
            return iterator

        return __iter__

    def _make_next(self, original: Wrapper) -> Wrapper:
        events, guard, iterators = self.events, self.guard, self._iterators

        def __next__(iterator: Any) -> Any:  # noqa: N807
            record = iterators.get(iterator)
            try:
                batch = original(iterator)
            except StopIteration:
                if record is not None:
                    guard.run(events.loaders.end_pass, record)
                raise
            if record is not None:
                if events.quiet and record.complete:
                    record.batches += 1
                else:
                    guard.run(events.loaders.add_batch, record, batch)
            self.check()
            return batch

        return __next__
