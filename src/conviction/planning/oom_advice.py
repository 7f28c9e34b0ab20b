"""What to say and to do for each cause of an out-of-memory error."""

from __future__ import annotations

from conviction.planning.oom_arithmetic import Sums
from conviction.text import format_bytes

HEADLINES = {
    "another-process": "another program holds the memory that this run needs",
    "fragmentation": "there was memory enough, but in pieces too small",
    "kept-from-before": "this process holds tensors that a training step does not need",
    "this-batch": "the tensors of this run fill the device",
    "workspace": "an operation asked for scratch memory on top of its tensors",
    "too-large-for-the-card": "the net does not fit the device, whatever the batch",
    "one-huge-tensor": "a single tensor is larger than the device",
    "host-memory": "the computer's own memory ran out, not the device's",
    "shared-memory": "the data loader's workers ran out of shared memory",
    "unknown": "the message does not tell what held the memory",
}
_PIECES = "set PYTORCH_ALLOC_CONF=expandable_segments:True (PYTORCH_CUDA_ALLOC_CONF before 2.9) before Python starts"
_LOWER_PRECISION = "train under bfloat16 or float16 autocast: saved activations take half"
_CHECKPOINTING = "use activation checkpointing: about a third more time for most of the saved activations"
_LATER_BATCHES = "give every batch the same shape, and call optimizer.zero_grad(set_to_none=True) before the forward"
_NO_GRAD = "evaluate under torch.no_grad(): without it every batch keeps what a backward would need"
_SHAPES = "print the shapes of what goes into this operation: images are (batch, channels, height, width)"
_MUCH_BYTES = 32 * 2**30  # no tensor of image classification on a computer is that large
_WITHOUT_PLAN = "compare with the plan of the run (net, image and batch size): it tells this batch from memory kept"


def advise(verdict: str, sums: Sums) -> tuple[str, tuple[str, ...]]:
    """Return why a verdict was reached, in one or two sentences, and what to do, one line each, in order."""
    return _REASONS[verdict](sums), tuple(_REMEDIES[verdict](sums))


def _card(sums: Sums) -> str:
    """Name what was full, as in `GPU 0 (15.9 GiB)`."""
    message = sums.message
    if sums.limit_binds and message.limit_bytes is not None:
        return (
            f"the limit of {format_bytes(message.limit_bytes)} that set_per_process_memory_fraction gave this process"
        )
    name = "the device" if message.device is None else f"GPU {message.device}"
    return f"{name} ({format_bytes(sums.total)})" if sums.total else name


def _why_another(sums: Sums) -> str:
    others, own, tried = map(format_bytes, (sums.others, sums.reserved, sums.tried))
    return f"Other programs hold {others} of {_card(sums)}, PyTorch in this one {own}; {tried} more were tried."


def _why_pieces(sums: Sums) -> str:
    unused, free, tried = map(format_bytes, (sums.unallocated, sums.free, sums.tried))
    return (
        f"PyTorch had reserved {unused} that it did not use; with {free} free that is more than enough for the "
        f"{tried} tried, but not in one piece."
    )


def _why_kept(sums: Sums) -> str:
    plan = sums.expected
    if plan is None:
        return f"Tensors took {format_bytes(sums.allocated)}, more than a step needs."
    allocated, high = format_bytes(sums.allocated), format_bytes(plan.peak_allocated_bytes[2])
    return (
        f"Tensors took {allocated}, and a step of this net needs {high} at the most at batch {plan.batch_size}: "
        "the rest was kept from before."
    )


def _why_batch(sums: Sums) -> str:
    plan = sums.expected
    if plan is None:
        return (f"Tensors of this process took {format_bytes(sums.allocated)} of {_card(sums)}, and "
                f"{format_bytes(sums.tried)} more were tried. Whether that is this batch or memory kept from before "
                "needs the plan of the run.")  # fmt: skip
    low, expected, high = map(format_bytes, plan.peak_allocated_bytes)
    needs = f"A step at batch {plan.batch_size} needs about {expected} ({low} to {high})"
    if not sums.plan_fits:
        return f"{needs}, and {_card(sums)} leaves {format_bytes(sums.room)} for tensors."
    left = sums.room - sums.others
    if plan.peak_allocated_bytes[2] > left:
        return f"{needs}: at the edge of what {_card(sums)} leaves for tensors, {format_bytes(left)}."
    return (
        f"{needs}, which should fit {_card(sums)}: the run probably differs from the plan, in its optimizer, its "
        "precision, its image size or in memory that other libraries hold."
    )


def _why_workspace(sums: Sums) -> str:
    allocated, tried = format_bytes(sums.allocated), format_bytes(sums.tried)
    if sums.message.backend == "mps" and sums.metal >= sums.tried:
        metal = format_bytes(sums.metal)
        return f"Metal holds {metal} beside PyTorch's {allocated}: compiled graphs and their scratch memory."
    largest = format_bytes(sums.expected.largest_allocation_bytes if sums.expected else 0)
    where = f" in {sums.message.operation}" if sums.message.operation else ""
    return (
        f"Tensors were as planned ({allocated}), but the {tried} tried{where} are no tensor of the plan, whose "
        f"largest has {largest}: a convolution's workspace."
    )


def _why_too_large(sums: Sums) -> str:
    plan = sums.expected
    if plan is None:
        taken, tried = format_bytes(sums.reserved), format_bytes(sums.tried)
        return (
            f"Memory ran out while the net moved to the device: {taken} of {_card(sums)} were taken, and {tried} more "
            "were needed for weights alone."
        )
    kept = format_bytes(plan.kept_bytes)
    if plan.kept_bytes > sums.room:
        return f"Weights, gradients and the optimizer's state alone need {kept} of {_card(sums)}."
    return f"Not even a batch of 1 fits {_card(sums)}; {kept} are weights, gradients and the optimizer's state."


def _why_huge(sums: Sums) -> str:
    tried = "more than any memory holds" if sums.tried >= 2**60 else format_bytes(sums.tried)
    where = f" in {sums.message.operation}" if sums.message.operation else ""
    card = f"; {_card(sums)} could not hold it when empty" if sums.total else ""
    return f"One allocation{where} asked for {tried}{card}. That is mostly a wrong shape, not a large batch."


def _why_host(sums: Sums) -> str:
    message, tried = sums.message, format_bytes(sums.tried)
    if message.backend != "cpu":
        return (
            f"{format_bytes(message.free_bytes or 0)} were free on {_card(sums)}, more than the {tried} tried, so the "
            "refusal came from elsewhere: mostly the computer's memory or page file, which the driver needs too, or a "
            "program that has ended since."
        )
    if message.killed:
        return "The operating system ended a process because the computer's, or the container's, memory was used up."
    if message.tried_bytes:
        return f"The CPU's allocator could not get {tried}."
    return "The CPU's memory was used up; the message does not tell how much was tried."


def _why_shared(sums: Sums) -> str:
    return (
        "Workers hand their batches over in shared memory (/dev/shm), which was full; containers get 64 MiB by default."
    )


def _why_unknown(sums: Sums) -> str:
    if sums.message.tried_bytes is not None:
        return "The message is cut short: it has no line with the device's capacity and what PyTorch had allocated."
    return "It has no figures: a library, or the driver, was refused memory and says no more."


_REASONS = {
    "another-process": _why_another, "fragmentation": _why_pieces, "kept-from-before": _why_kept,
    "this-batch": _why_batch, "workspace": _why_workspace, "too-large-for-the-card": _why_too_large,
    "one-huge-tensor": _why_huge, "host-memory": _why_host, "shared-memory": _why_shared, "unknown": _why_unknown,
}  # fmt: skip


def _smaller_batch(sums: Sums) -> str:
    largest, plan = sums.largest_batch, sums.expected
    if not largest or plan is None:
        return "use half the batch, with gradients accumulated over two of them to keep the step the same"
    parts = -(-plan.batch_size // largest)
    return f"use a batch of at most {largest}, or accumulate the gradients of {parts} parts of the {plan.batch_size}"


def _end_others(sums: Sums) -> list[str]:
    named = ", ".join(str(number) for number, _ in sorted(sums.named, key=lambda process: -process[1])[:5])
    return [
        f"look who it is: nvidia-smi, or ps -p {named}" if named else "look who it is: nvidia-smi",
        "end it if it is yours: an earlier run, a notebook whose kernel still lives, a desktop program",
        "or choose another device: CUDA_VISIBLE_DEVICES=1",
        _smaller_batch(sums),
    ]


def _join_pieces(sums: Sums) -> list[str]:
    return [_PIECES, _LATER_BATCHES, _smaller_batch(sums)]


def _let_go(sums: Sums) -> list[str]:
    remedies = [
        "add up the loss as a number: total_loss += loss.item()",
        "keep outputs without their graph and off the device: outputs.append(output.detach().cpu())",
        "in a notebook restart the kernel: an earlier net, its optimizer and the last error's variables still live",
    ]
    remedies.insert(0 if sums.message.phase == "evaluation" else 2, _NO_GRAD)
    return remedies


def _shrink(sums: Sums) -> list[str]:
    remedies = [_smaller_batch(sums), _LOWER_PRECISION, _CHECKPOINTING, "use smaller images"]
    if sums.limit_binds:
        remedies.insert(0, "raise the limit: torch.cuda.set_per_process_memory_fraction(1.0)")
    if sums.message.phase == "evaluation":
        remedies.insert(0, _NO_GRAD)
    return remedies if sums.expected is not None else [*remedies, _WITHOUT_PLAN]


def _less_scratch(sums: Sums) -> list[str]:
    if sums.message.backend == "mps":
        return ["keep shapes the same from batch to batch: every new one is compiled and kept",
                "call torch.mps.empty_cache() between training and evaluation", _smaller_batch(sums)]  # fmt: skip
    return [
        "set torch.backends.cudnn.benchmark = False: its trials run algorithms with large workspaces",
        "set torch.backends.cudnn.deterministic = True if that was not it: fewer algorithms, smaller workspaces",
        _smaller_batch(sums), _LOWER_PRECISION,
    ]  # fmt: skip


def _smaller_net(sums: Sums) -> list[str]:
    return [
        "choose a smaller or narrower net, or a larger card",
        "use SGD in place of Adam: one state per weight less",
        "fine-tune the head alone: frozen weights have neither gradients nor optimizer state",
        "make smaller images or pool before the first linear layer, if that layer holds most of the weights",
    ]


def _mend_shape(sums: Sums) -> list[str]:
    return [
        _SHAPES,
        "look for an image flattened into a linear layer, a broadcast of (N, 1) with (N), a height given as channels",
        "check the size of the first image: one photograph that was not resized is enough",
        *(["if it is a convolution, set torch.backends.cudnn.benchmark = False: a workspace can be that large too"]
          if "conv" in (sums.message.operation or "") else []),
    ]  # fmt: skip


def _free_host(sums: Sums) -> list[str]:
    start = ["run it once more: a program that has ended since may have held it"]
    if sums.message.backend == "cpu":
        start = [_SHAPES] if sums.tried >= _MUCH_BYTES or sums.is_no_tensor_of_the_plan else []
    return [
        *start,
        "look at the computer's memory meanwhile (free -h, Task Manager), and at the container's or job's limit",
        "use fewer data loader workers, each holds its own copy of what it touches, and a smaller prefetch_factor",
        "read images when they are asked for, rather than all at the start",
        "on Windows let the system manage the page file; on a cluster ask for more memory",
    ]


def _more_shared(sums: Sums) -> list[str]:
    return [
        "in Docker start with --shm-size=8g or --ipc=host; in Kubernetes mount an emptyDir of medium Memory there",
        "set num_workers=0, or fewer workers: nothing then goes through shared memory, or less",
        "for `too many open files` raise ulimit -n, or torch.multiprocessing.set_sharing_strategy('file_system')",
    ]


def _ask_for_more(sums: Sums) -> list[str]:
    return [
        "look further up in the log for a line with `Tried to allocate` and `total capacity`, and give that",
        "run nvidia-smi while it runs: memory full with a small process of yours means another program",
        "try a batch of 1: if that passes it was the batch",
        "for the right line run again with CUDA_LAUNCH_BLOCKING=1",
    ]


_REMEDIES = {
    "another-process": _end_others, "fragmentation": _join_pieces, "kept-from-before": _let_go,
    "this-batch": _shrink, "workspace": _less_scratch, "too-large-for-the-card": _smaller_net,
    "one-huge-tensor": _mend_shape, "host-memory": _free_host, "shared-memory": _more_shared,
    "unknown": _ask_for_more,
}  # fmt: skip
