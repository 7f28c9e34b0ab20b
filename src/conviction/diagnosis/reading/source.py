"""Reading a program's text: what can be said of it without running it. Nothing is executed, nothing is imported.

`read_source` walks through the program as it would run (see `walk`) and asks each topic for its notes. A note says what
was read, at the line of the statement to change; whether it matters, the checks decide with what was measured.

Kinds, what was read, what `names` carries, and which line `at` is:
* syntax-error: the text cannot be parsed; names: -; line: the error
* net-unused: a net is made, another trained; this one is never called (or only tested); names: variable, class; line:
  made
* class-unused: a module class that nothing makes, beside one that is; names: class; line: the class
* init-unused: a function that initialises weights, never used; names: function; line: the function
* variable-unused: a hyperparameter is assigned, or a parameter of the training function, and never read; names: name;
  line: assigned
* arguments-swapped: arguments stand at the places of each other's parameters; names: function, the names; line: the
  call
* optimizer-before-net: the optimizer was made of a net that another one of the same name replaced; names: net,
  optimizer's kind; line: optimizer
* forward-other-net: the loss comes from one net, the optimizer has another's parameters; names: called, owned; line:
  the forward
* step-missing: gradients are computed, the optimizer never steps (or is named, not called); names: optimizer's kind;
  line: backward
* zero-grad-missing: gradients are added up for ever; names: optimizer's kind; line: backward
* update-divided: a step by hand divides the gradient of a mean by the batch size; names: the size; line: the step
* backward-missing: the optimizer steps, nothing goes backward; names: -; line: the step
* eval-without-train: a training forward after `eval()`; names: net; line: the eval()
* eval-missing: a net with batch norm or dropout is tested as it trains; names: net; line: the forward
* no-grad-missing: a test builds graphs; names: net; line: the forward
* loss-kept: a loss is kept with its graph; names: variable; line: the statement
* loss-detached: what goes backward has left the graph; names: -; line: where it left
* loss-negated: the loss is maximised; names: -; line: the sign
* loss-sum: the loss is a sum over the batch; names: -; line: where the loss is made
* softmax-before-ce: softmax, then cross-entropy; names: -; line: the softmax
* relu-on-logits: an activation or dropout, then cross-entropy; names: the operation; line: the operation
* nll-without-log-softmax: NLL loss of what is no log-probability; names: the operation; line: the loss
* mse-on-classes: a regression loss where the answers are ranked; names: the loss; line: the loss
* softmax-dim: softmax or argmax over the batch; names: the operation; line: the operation
* view-for-permute: view or reshape with the sizes of a tensor in another order; names: -; line: the view
* labels-shifted: one is added to or taken from the labels; names: -; line: the sum
* super-init-missing: a module class without `super().__init__()`; names: class; line: `__init__`
* layers-in-list: modules in a plain list or dictionary; names: class, attribute; line: the list
* parameters-frozen: a net without loaded weights does not train; names: net; line: the freezing
* init-constant: weights start equal; names: -; line: the init
* init-scale: weights start at a scale that no layer keeps; names: the number; line: the init
* bn-momentum: batch norm whose running statistics never move, or are the last batch's; names: the number; line: where
  it is written
* bn-untracked: batch norm without running statistics; names: the layer; line: the setting
* bias-negative: biases start far below zero; names: the number; line: the filling
* statistics-kept: hand-written running statistics that nothing changes; names: class, attribute; line: read
* dropout-always: F.dropout that is not told whether it trains; names: -; line: the call
* dropout-high: dropout of .7 and more; names: the number; line: where it is written
* optimizer-settings: a setting out of its range; names: setting, value; line: where the value is written
* clip-low: gradients clipped to .01 or less; names: the number; line: where it is written
* half-without-scaler: training in float16, the loss not scaled; names: -; line: the float16
* scheduler-per-batch: a schedule counted in epochs steps with each batch; names: the schedule; line: its step
* seed-in-loop: the same seed again in each epoch or step; names: -; line: the seed
* shuffle-false: the training loader does not shuffle; names: -; line: the loader
* data-on-test: the test data are the training data; names: variable; line: the statement
* test-joined: the test data are put among the training data, or train in their place; names: - or variable; line: the
  expression
* labels-shuffled: images or labels are put in another order without each other; names: -; line: the statement
* epochs: the training ends after a few steps; names: the number; line: where it is written, or the condition to leave
* batch-mixed: rows are cut where the batch is no longer the first dimension; names: the turn; line: the cut
* loader-worker-random: workers that draw the same random numbers; names: -; line: the loader
* metric-divided: a sum of means divided by samples, or a sum over samples by batches; names: variable; line: the
  division
* metric-miscounted: a count that is never set back, of the last batch alone, of another set, or of what equals itself;
  names: variable; line: the start, the count, the division or the comparison
* metric-scaled: a percentage is multiplied by 100 again; names: variable; line: the product
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from conviction.diagnosis.reading.notes.answers import read_answers
from conviction.diagnosis.reading.notes.budgets import read_budgets
from conviction.diagnosis.reading.notes.classes import read_classes
from conviction.diagnosis.reading.notes.data import read_data
from conviction.diagnosis.reading.notes.figures import read_figures
from conviction.diagnosis.reading.notes.leaks import read_leaks
from conviction.diagnosis.reading.notes.metrics import read_metrics
from conviction.diagnosis.reading.notes.mixing import read_mixing
from conviction.diagnosis.reading.notes.modes import read_modes
from conviction.diagnosis.reading.notes.names import read_names
from conviction.diagnosis.reading.notes.pairing import read_pairing
from conviction.diagnosis.reading.notes.settings import read_settings
from conviction.diagnosis.reading.notes.statistics import read_statistics
from conviction.diagnosis.reading.notes.steps import read_steps
from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import parse_text
from conviction.diagnosis.reading.walk import walk_program
from conviction.findings.observation import Place, SourceNote

TOPICS: tuple[Callable[[State], Iterator[SourceNote]], ...] = (
    read_steps, read_modes, read_answers, read_names, read_classes, read_settings, read_data, read_metrics,
    read_statistics, read_pairing, read_leaks, read_budgets, read_mixing,
    read_figures,
)  # fmt: skip


def read_source(text: str, filename: str) -> tuple[SourceNote, ...]:
    """Return what can be said of a program without running it; a text that is no Python gives one note.

    `filename` is told in the notes and not opened.
    """
    try:
        program = parse_text(text, filename)
    except SyntaxError as error:
        return (SourceNote("syntax-error", Place(filename, error.lineno or 1), (), error.msg or "invalid syntax"),)
    except (ValueError, RecursionError, MemoryError) as error:
        return (SourceNote("syntax-error", Place(filename, 1), (), f"cannot be parsed: {type(error).__name__}"),)
    state = walk_program(program)
    notes: dict[tuple[str, int], SourceNote] = {}
    for topic in TOPICS:
        try:
            for note in topic(state):
                notes.setdefault((note.kind, note.at.line), note)
        except RecursionError:
            continue  # a text nested deeper than Python's own stack: that topic stays silent
    return tuple(sorted(notes.values(), key=lambda note: (note.at.line, note.kind)))
