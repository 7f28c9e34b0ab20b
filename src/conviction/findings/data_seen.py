"""Checks of images and labels as they came: their range, their order, their pairing, what the test shares with them."""

from __future__ import annotations

import math

from conviction.findings import inputs
from conviction.findings.learning import ahead, read_learning, weigh
from conviction.findings.observation import LoaderSeen, Observation
from conviction.findings.readings import (
    blame,
    class_count,
    line_of,
    main_loss,
    notes_of,
    trained_net,
    training_loader,
)
from conviction.findings.records import Finding
from conviction.findings.trials import (
    NO_AUGMENTATION,
    PIXELS,
    SHUFFLED,
    STANDARDISED,
    by_heart,
    confirmed,
    labels_unrelated,
    trial,
)

_SORTED = 0.7  # share of the entropy that batches of this size have by chance
_SHARED = 0.02  # share of test images that are in the training too: real sets hold some twins
_LOPSIDED = 0.5  # share of the entropy of even classes below which one class drowns the others
_TWINS = 0.3  # share of images of a pass that are equal to another one


def labels_malformed(observation: Observation) -> Finding | None:
    """Labels that are no class numbers, out of range, or all the same."""
    loss, classes, loader = main_loss(observation), class_count(observation), training_loader(observation)
    one_class = loader is not None and loader.classes == 1 and loader.batches >= 8 and (classes or 0) > 1
    if one_class and not _is_part_of_sorted(loader):
        return blame(
            "labels-malformed", f"all labels of {loader.batches} batches are of 1 class", f"{classes} classes",
            "look at how labels are read", loader.made_at, confidence=0.9, hard=True,
        )  # fmt: skip
    if observation.evidence is None or loss is None or loss.target_kind.startswith("float"):
        return None
    found = inputs.labels_malformed(observation.evidence)
    labels = observation.evidence.labels
    # Below zero beside all the classes, and no error: the loss was told to leave them out. Shifted ones end at C - 2.
    hidden = labels is not None and labels.lowest < 0 and labels.highest in {labels.lowest, (classes or 0) - 1}
    if hidden and observation.steps and observation.ending.how != "error":
        return None
    if found is None or (found.confidence < 1 and (loader is None or (loader.classes or 2) > 1)):
        return None  # the first batch only, of labels that differ later
    return _placed(found, observation) if observation.evidence.num_classes == (classes or 0) else None


def classes_mismatch(observation: Observation) -> Finding | None:
    """The net has many more outputs than there are classes, and does not learn."""
    classes, loader, net = class_count(observation), training_loader(observation), trained_net(observation)
    if classes is None or loader is None or not loader.classes or loader.classes < 2 or loader.batches < 20:
        return None
    if classes < 3 * loader.classes or (net is not None and net.pretrained):
        return None
    weight = weigh(observation, 0.5)
    if weight is None:
        return None
    return blame(
        "classes-mismatch", f"{classes} outputs for {loader.classes} classes; {read_learning(observation)}",
        "as many outputs as classes", f"make the last layer nn.Linear(..., {loader.classes})",
        net.made_at if net is not None else None, confidence=weight[0],
    )  # fmt: skip


def labels_shuffled(observation: Observation) -> Finding | None:
    """The labels do not belong to the images: they can be learned by heart and nothing else about them can."""
    pixels = trial(observation, PIXELS)
    learning = read_learning(observation)
    told = notes_of(observation, "labels-shuffled")
    if pixels is None and told and (learning.fails or learning.poor):
        return blame(
            "labels-shuffled", f"{told[0].text}; {learning}", "images and labels in one order",
            "shuffle, sort or cut both alike", told[0].at, confidence=0.85,
        )  # fmt: skip
    if pixels is None or not labels_unrelated(observation) or learning.state in {"well", "broke"}:
        return None
    if by_heart(observation) is False:
        return None  # then the net is to blame first
    loader = training_loader(observation)
    return blame(
        "labels-shuffled",
        f"a linear model on the pixels answers {100 * (pixels.accuracy or 0):.0f} % of {pixels.judged} images right, "
        f"as guessing does; {learning}",
        "clearly more than guessing, as on every real set of images",
        "look at where images and labels are put side by side: both have to be shuffled, sorted or cut alike",
        line_of(observation, "labels-shuffled", otherwise=loader.made_at if loader is not None else None),
        confidence=0.9 if by_heart(observation) else 0.75, experiment=pixels.line or None,
    )  # fmt: skip


def input_unscaled(observation: Observation) -> Finding | None:
    """Images that are not finite, all the same, or far from deviation 1, where the net suffers from it."""
    if observation.evidence is None:
        return None
    found = inputs.input_unscaled(observation.evidence)
    if found is None:
        return None
    weight = (1.0, None) if found.hard else weigh(observation, 0.85, STANDARDISED)
    if weight is None and (better := ahead(observation, STANDARDISED)) is not None:
        weight = 0.75, better
    return None if weight is None else _placed(found, observation, *weight)


def channel_order(observation: Observation) -> Finding | None:
    """Images whose pixels were put in another order by a view instead of a permute."""
    note = next(iter(notes_of(observation, "view-for-permute")), None)
    learning = read_learning(observation)
    if note is None or learning.state == "well" or (observation.mixing or 0.0) > 0.05:
        return None
    return blame(
        "channel-order",
        f"a view where the dimensions have to change places: {note.text.strip() or '1 line'}; {learning}",
        "batch x channels x height x width, by a permute", "use images.permute(0, 3, 1, 2)", note.at, confidence=0.8,
    )  # fmt: skip


def not_shuffled(observation: Observation) -> Finding | None:
    """The training images come sorted by class."""
    loader = training_loader(observation)
    if loader is None or loader.shuffled or loader.batches < 3:
        return None
    if not (_is_sorted(loader) or (_is_part_of_sorted(loader) and class_count(observation) not in (None, 1))):
        return None
    runs = "" if loader.runs is None else f", {loader.runs:.0f} of a class follow each other"
    cured = trial(observation, SHUFFLED) if confirmed(observation, SHUFFLED) else None
    return blame(
        "not-shuffled",
        f"batches of {loader.batch_size or '?'} hold {math.exp(loader.entropy or 0):.1f} classes of "
        f"{math.exp(loader.entropy_all or 0):.1f} seen{runs}",
        "every class in about every batch", "give the training DataLoader shuffle=True",
        line_of(observation, "shuffle-false", otherwise=loader.made_at), confidence=0.93,
        experiment=None if cured is None else cured.line or None,
    )  # fmt: skip


def class_imbalance(observation: Observation) -> Finding | None:
    """A few classes make up most of the images, and the net answers with them."""
    loader, classes, loss = training_loader(observation), class_count(observation), main_loss(observation)
    if loader is None or loader.entropy_all is None or not classes or classes < 2 or (loss and loss.weighted):
        return None
    share, largest = loader.entropy_all / math.log(classes), loader.largest_class_share
    learning = read_learning(observation)
    if share >= 0.9 or largest is None or largest < 0.5 or loader.batches < 5:
        return None
    # Of labels that are nearly all the same the loss is small whatever is learned: the answers tell.
    lopsided = share < _LOPSIDED and learning.accuracy is not None
    if not _answers_largest(learning.accuracy, largest) or not (learning.fails or learning.state == "slow" or lopsided):
        return None
    return blame(
        "class-imbalance", f"{100 * largest:.0f} % of the labels are of one class; {learning}",
        f"about {100 / classes:.0f} % of each of {classes} classes", "draw rare classes more often "
        "(WeightedRandomSampler), or give the loss class weights", loader.made_at, confidence=0.7,
    )  # fmt: skip


def train_test_leak(observation: Observation) -> Finding | None:
    """Test images that training saw. Measuring accuracy on the training images as well is no leak."""
    tests = [loader for loader in observation.loaders if not loader.trains and loader.shared_with_training is not None]
    told = notes_of(observation, "data-on-test", "test-joined")
    training = training_loader(observation)
    for loader in tests:
        shared = loader.shared_with_training or 0.0
        whole = shared > 0.98  # a second look at the training images, if there is another test
        says_test = any("test" in line.text.lower() or "val" in line.text.lower() for line in observation.printed)
        # Without a loader nothing tells a test from a look at the training images, or from features for another net.
        if (
            shared < _SHARED
            or (loader.made_at is None and not told)
            or _is_one_batch(loader, training)
            or (whole and not told and (len(tests) > 1 or not (says_test or _is_small_part(loader, training))))
        ):
            continue
        return blame(
            "train-test-leak", f"{100 * shared:.0f} % of the images of a test are training images",
            "0 %: a test on images that training never saw", "split once, before anything else, and remove duplicates",
            line_of(observation, "data-on-test", "test-joined", otherwise=loader.made_at),
            confidence=0.9 if told or not whole else 0.7,
        )  # fmt: skip
    return None


def augmentation_destroys(observation: Observation) -> Finding | None:
    """Augmented images no longer tell their class, the same ones without it do."""
    tried = trial(observation, NO_AUGMENTATION)
    if tried is None or not confirmed(observation, tried.change) or read_learning(observation).state == "well":
        return None
    loader = training_loader(observation)
    return blame(
        "augmentation-destroys", f"{read_learning(observation)} with augmentation",
        "images that still show their class",
        "make the augmentation weaker: smaller angles, larger crops, less erasing",
        loader.made_at if loader is not None else None, confidence=0.85, experiment=tried.line or None,
    )  # fmt: skip


def worker_seed(observation: Observation) -> Finding | None:
    """All workers draw the same random numbers."""
    loader = training_loader(observation)
    if loader is None or loader.workers < 2 or not loader.batches or not loader.batch_size:
        return None
    share = loader.duplicates / (loader.batches * loader.batch_size)
    told = notes_of(observation, "loader-worker-random")
    if not told and share < _TWINS:
        return None
    seen = f"{100 * share:.0f} % of the images of a pass are equal to another, with {loader.workers} workers"
    return blame(
        "worker-seed", f"{told[0].text}; {seen}" if told else seen,
        "draws that differ from worker to worker", "draw random numbers from torch, or seed each worker in "
        "worker_init_fn", line_of(observation, "loader-worker-random", otherwise=loader.made_at),
        confidence=0.85 if told else 0.6,
    )  # fmt: skip


def _is_small_part(tests: LoaderSeen, training: LoaderSeen | None) -> bool:
    """Whether a loader of its own gives a small part of the images that training has, as a test that got into it."""
    if tests.made_at is None or training is None or not tests.samples or not training.samples:
        return False
    return tests.samples < 0.6 * training.samples


def _is_one_batch(tests: LoaderSeen, training: LoaderSeen | None) -> bool:
    """Whether what a test without a loader shares is no more than a training batch on which the program was stopped."""
    if tests.made_at is not None or training is None or not tests.batch_size or not training.batch_size:
        return False
    shared = tests.shared_with_training or 0.0
    return shared < 1 and shared / (1 - shared) * tests.batch_size < 1.5 * training.batch_size


def _placed(found: Finding, observation: Observation, confidence: float = 1.0, words: str | None = None) -> Finding:
    """Give a finding of the preflight's a line: where the batches come from."""
    loader = training_loader(observation)
    at = loader.made_at if loader is not None else None
    learning = read_learning(observation)
    return blame(
        found.cause, f"{found.seen}; {learning}", found.expected, found.remedy, at, layer=found.layer or "",
        confidence=min(found.confidence, confidence) if words is None else confidence, experiment=words,
        hard=found.hard,
    )  # fmt: skip


def _is_sorted(loader: LoaderSeen) -> bool:
    """Whether batches hold fewer classes, or longer runs of one, than batches of this size do by chance."""
    everything = loader.entropy_all
    if everything is None or everything < 0.1:
        return False
    size, classes = loader.batch_size or 1, math.exp(everything)
    by_runs = loader.runs is not None and loader.runs > 5 / (1 - 1 / max(1.01, classes)) and loader.runs > 0.25 * size
    if loader.entropy is None or size < 4:
        return by_runs
    return loader.entropy < _SORTED * _entropy_by_chance(size, classes)


def _is_part_of_sorted(loader: LoaderSeen) -> bool:
    """Whether one class only was seen, of a set that comes in its own order and was not seen to its end."""
    seen = loader.batches * (loader.batch_size or 1)
    return (
        loader.shuffled is False and loader.classes == 1 and loader.samples is not None and seen < 0.9 * loader.samples
    )


def _entropy_by_chance(size: int, classes: float) -> float:
    """Mean entropy (nats) of a random batch: the expectation of -C (k/n) ln(k/n) for binomial k, classes even."""
    share, total = min(1.0, 1 / classes), 0.0
    for count in range(1, size + 1):
        log_weight = (math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)
                      + count * math.log(share) + (size - count) * math.log1p(-min(share, 1 - 1e-12)))  # fmt: skip
        total -= math.exp(log_weight) * count / size * math.log(count / size)
    return classes * total


def _answers_largest(accuracy: float | None, largest: float) -> bool:
    return accuracy is None or accuracy < largest + 0.05
