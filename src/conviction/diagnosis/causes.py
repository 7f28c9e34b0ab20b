"""The public vocabulary: every cause by its code, in the words of a heading."""

from __future__ import annotations

CAUSES = {
    "optimizer-owns-other-net": "The optimizer holds the weights of another net",
    "forward-uses-other-net": "Another net is run than the one that the optimizer holds",
    "step-missing": "The weights are never changed: optimizer.step() is missing",
    "zero-grad-missing": "Gradients pile up from step to step: zero_grad() is missing",
    "loss-detached": "The loss is cut off from the net, so no gradient reaches it",
    "frozen-params": "Almost all weights are frozen",
    "eval-mode-training": "The net is trained in eval mode",
    "no-eval-at-test": "The net is tested in train mode, or its batch norm statistics are wrong",
    "lr-absurd": "The learning rate cannot be meant",
    "lr-too-high": "The learning rate is too high",
    "lr-too-low": "The learning rate is too low",
    "init-collapse": "The images do not come through: the start is too small for so many layers",
    "init-tiny": "The initial weights are far too small",
    "init-huge": "The initial weights are far too large",
    "init-symmetric": "All units of a layer start the same and stay the same",
    "saturating-activations": "Sigmoids or tanhs are saturated, and gradients die in them",
    "dead-relu": "Most ReLU units are dead: zero for every image",
    "activation-on-logits": "There is an activation or dropout after the last layer",
    "double-softmax": "Softmax is applied twice",
    "nll-on-logits": "NLLLoss is given logits instead of log-probabilities",
    "mixed-batch": "The images of a batch are mixed with each other",
    "wrong-loss": "The loss does not fit the task",
    "labels-malformed": "The labels are not what the loss expects",
    "classes-mismatch": "The last layer has another number of outputs than there are classes",
    "labels-shuffled": "The labels do not belong to their images",
    "input-unscaled": "The images are not scaled as a net needs them",
    "channel-order": "The image's dimensions are in another order than the net expects",
    "input-too-small": "The images are too small for this net",
    "dropout-too-high": "There is too much dropout",
    "weight-decay-dominates": "Weight decay is stronger than the gradient",
    "optimizer-settings": "The optimizer has settings with which it cannot work",
    "clip-too-low": "Gradients are clipped to almost nothing",
    "amp-underflow": "Gradients vanish in 16-bit numbers",
    "non-finite": "Numbers became infinite or not a number",
    "bn-tiny-batch": "Batch norm has too few values to average over",
    "not-shuffled": "The training images come sorted by class",
    "class-imbalance": "A few classes make up most of the training images",
    "augmentation-destroys": "Augmentation destroys what the images show",
    "sign-flipped": "The loss is made larger instead of smaller",
    "schedule-kills-lr": "The schedule turns the learning rate down to nothing too early",
    "train-test-leak": "Test images are in the training data too",
    "metric-wrong": "A printed number is not what it is called",
    "wrong-model-passed": "Another net or value is used than the one that was prepared",
    "too-few-steps": "Training ended while the loss was still falling",
    "loss-graph-kept": "Every step's computation is kept in memory",
    "worker-seed": "All workers draw the same random augmentations",
}


def title_of(cause: str) -> str:
    """Return the heading of a cause; of an unknown one its code as words."""
    return CAUSES.get(cause, cause.replace("-", " "))
