"""Repairs of a user's program: the least change of its text that removes a cause, as a diff or as a new file beside it.

| cause | repairs, tried in this order |
|---|---|
| ownership | the optimizer is made of the net that is trained, or after it; the owned net is called |
| step, zeros, modes | the missing call is inserted, a named one called, a net left in eval mode put back |
| loss | what leaves the graph, squashes the logits or turns the sign is taken out; the loss fits classes |
| numbers | the rate, settings, clip, decay, dropout and schedule that most programs learn with |
| weights | Kaiming's (Xavier's for sigmoid and tanh) before the first step |
| data | scaled, shuffled, counted from 0, paired again, all of them; arguments in the order of their parameters |
| budget | what ends the training early is left out, a few epochs or steps become more |
"""

from __future__ import annotations

import ast
import difflib
import io
import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path

from conviction.diagnosis.notebook import read_notebook
from conviction.diagnosis.reading.source import read_source
from conviction.diagnosis.repairs import data, losses, nets, owners, samples, settings, starts, steps
from conviction.diagnosis.repairs.drafts import Draft, make_draft
from conviction.findings.observation import SourceNote
from conviction.findings.records import Finding
from conviction.storage import refusing, write_new

_STARTS = (starts.mend_init, starts.start_weights)
FIXES: dict[str, tuple[Callable[[Draft], str | None], ...]] = {
    "optimizer-owns-other-net": (owners.give_optimizer_net, owners.forward_owned_net, steps.register_layers),
    "forward-uses-other-net": (owners.forward_owned_net, owners.give_optimizer_net),
    "step-missing": (steps.add_parentheses, steps.add_step),
    "zero-grad-missing": (steps.add_parentheses, steps.add_zero_grad),
    "loss-detached": (steps.keep_graph,),
    "frozen-params": (steps.thaw,),
    "eval-mode-training": (steps.add_train_mode,),
    "no-eval-at-test": (steps.move_statistics, steps.add_eval_mode),
    "lr-absurd": (data.order_arguments, settings.read_rate, settings.default_rate),
    "lr-too-high": (settings.lower_rate,),
    "lr-too-low": (settings.read_rate, settings.raise_rate),
    "init-collapse": _STARTS, "init-tiny": _STARTS, "init-huge": _STARTS, "init-symmetric": _STARTS,
    "saturating-activations": (nets.relu_for_squashing,),
    "dead-relu": (starts.zero_biases, settings.lower_rate),
    "activation-on-logits": (nets.drop_last_operation,),
    "double-softmax": (nets.drop_last_operation,),
    "nll-on-logits": (losses.take_logits,),
    "wrong-loss": (losses.use_cross_entropy,),
    "mixed-batch": (nets.fix_axis, nets.keep_images_apart),
    "labels-malformed": (data.shift_labels,),
    "labels-shuffled": (samples.pair_again,),
    "class-imbalance": (samples.keep_all,),
    "augmentation-destroys": (samples.leave_images,),
    "too-few-steps": (samples.train_longer,),
    "non-finite": (nets.add_eps,),
    "classes-mismatch": (nets.widen_head,),
    "input-unscaled": (data.scale_inputs,),
    "channel-order": (nets.fix_axis, data.permute_inputs),
    "dropout-too-high": (nets.lower_dropout,),
    "weight-decay-dominates": (settings.lower_decay,),
    "optimizer-settings": (settings.default_settings,),
    "clip-too-low": (settings.raise_clip,),
    "amp-underflow": (settings.use_bfloat16,),
    "bn-tiny-batch": (nets.guard_small_batches,),
    "not-shuffled": (data.shuffle,),
    "sign-flipped": (steps.turn_sign,),
    "schedule-kills-lr": (settings.slow_schedule,),
    "train-test-leak": (data.use_test_data,),
    "metric-wrong": (data.divide_once,),
    "wrong-model-passed": (data.order_arguments, data.train_unused, settings.read_rate),
    "loss-graph-kept": (steps.drop_graph,),
}  # fmt: skip
_MOST_FINDINGS = 3


def fix_for(cause: str, notes: Sequence[SourceNote], text: str, finding: Finding) -> str | None:
    """Return a program's text with one cause removed, None where no change of its lines is known to do that.

    `notes` are `read_source`'s of the same text. What is returned can be parsed and differs in the lines concerned.
    """
    for repair in FIXES.get(cause, ()):
        try:
            changed = repair(make_draft(text, tuple(notes), finding))
            if changed and changed != text:
                ast.parse(changed)
                return changed
        except (SyntaxError, ValueError, RecursionError, LookupError, AttributeError, TypeError, StopIteration):
            continue  # a program of a shape that this repair does not know
    return None


def diff(old: str, new: str, filename: str) -> str:
    """Return the changed lines as a unified diff with two lines of context."""
    before, after = old.splitlines(), new.splitlines()
    lines = difflib.unified_diff(before, after, filename, fixed_name(filename), lineterm="", n=2)
    return "\n".join(lines)


def fixed_name(filename: str) -> str:
    """Return the name of a repaired copy: `train.py` -> `train.fixed.py`."""
    path = Path(filename)
    stem = path.stem if path.suffix in {".py", ".ipynb"} else path.name
    return str(path.with_name(f"{stem}.fixed.py"))


def fix_all(text: str, findings: Sequence[Finding], filename: str = "") -> str:
    """Return the text with the first findings' causes removed one after the other, as far as they can be."""
    for finding in findings[:_MOST_FINDINGS]:
        text = fix_for(finding.cause, read_source(text, filename), text, finding) or text
    return text


def write_fix(path: Path, findings: Sequence[Finding]) -> Path | None:
    """Write a repaired copy beside a script or notebook (as a script); None where nothing can be repaired.

    The file is new: one that is there is never written over. Raises `ResourceError` if it cannot be written.
    """
    path = Path(path)
    text, encoding = _read(path)
    changed = fix_all(text, findings, str(path))
    if changed == text:
        return None
    return write_new(Path(fixed_name(str(path))), changed.encode(encoding))


def _read(path: Path) -> tuple[str, str]:
    """Return a program's text, line ends as they are, and the encoding to write it in."""
    if path.suffix == ".ipynb":
        return read_notebook(path).text, "utf-8"
    with refusing(path):
        content = path.read_bytes()
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    return content.decode(encoding), encoding
