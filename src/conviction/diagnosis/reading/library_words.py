"""What the reader of programs knows by name: optimizers, schedules, losses, operations of torch."""

from __future__ import annotations

OPTIMIZERS = frozenset({
    "SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "NAdam", "RAdam", "LBFGS", "Adamax", "Rprop", "ASGD",
    "SparseAdam", "Adafactor", "Lion", "Muon", "Lamb", "RAdamScheduleFree", "AdamWScheduleFree",
})  # fmt: skip
SCHEDULES = frozenset({
    "StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "ReduceLROnPlateau",
    "LambdaLR", "LinearLR", "ConstantLR", "OneCycleLR", "CyclicLR", "PolynomialLR", "SequentialLR", "ChainedScheduler",
    "MultiplicativeLR",
})  # fmt: skip
# Loss modules by the function they call; functions stand for themselves.
LOSSES = {
    "CrossEntropyLoss": "cross_entropy", "NLLLoss": "nll_loss", "MSELoss": "mse_loss", "L1Loss": "l1_loss",
    "SmoothL1Loss": "smooth_l1_loss", "HuberLoss": "huber_loss", "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits", "KLDivLoss": "kl_div",
    "MultiMarginLoss": "multi_margin_loss",
}  # fmt: skip
LOSS_FUNCTIONS = frozenset(LOSSES.values()) | {"triplet_margin_loss", "cosine_embedding_loss", "hinge_embedding_loss"}
REGRESSIONS = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
# Where a positional argument of an optimizer goes, after the parameters.
POSITIONS = {
    "SGD": ("lr", "momentum", "dampening", "weight_decay", "nesterov"),
    "Adam": ("lr", "betas", "eps", "weight_decay", "amsgrad"),
    "AdamW": ("lr", "betas", "eps", "weight_decay", "amsgrad"),
    "NAdam": ("lr", "betas", "eps", "weight_decay"), "RAdam": ("lr", "betas", "eps", "weight_decay"),
    "RMSprop": ("lr", "alpha", "eps", "weight_decay", "momentum"), "Adagrad": ("lr", "lr_decay", "weight_decay"),
}  # fmt: skip

# A module's operation on what goes through it, as far as it says something about logits.
LAYER_OPS = {
    "Linear": "linear", "LazyLinear": "linear", "Conv2d": "conv", "LazyConv2d": "conv", "Conv1d": "conv",
    "Conv3d": "conv",
    "ConvTranspose2d": "conv", "Softmax": "softmax", "Softmax2d": "softmax", "LogSoftmax": "log_softmax",
    "ReLU": "relu",
    "ReLU6": "relu", "LeakyReLU": "leaky_relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Dropout": "dropout",
    "Dropout2d": "dropout", "BatchNorm1d": "norm", "BatchNorm2d": "norm", "LayerNorm": "norm", "GELU": "gelu",
}  # fmt: skip
PASSING_LAYERS = frozenset({
    "Flatten", "Identity", "Unflatten", "AdaptiveAvgPool2d", "AvgPool2d", "AdaptiveMaxPool2d", "MaxPool2d", "Squeeze",
})  # fmt: skip
CONTAINERS = frozenset({"Sequential", "ModuleList", "ModuleDict", "DataParallel", "DistributedDataParallel"})
OPERATIONS = {
    "softmax": "softmax", "log_softmax": "log_softmax", "logsoftmax": "log_softmax", "relu": "relu", "relu_": "relu",
    "relu6": "relu", "sigmoid": "sigmoid", "sigmoid_": "sigmoid", "tanh": "tanh", "tanh_": "tanh", "dropout": "dropout",
    "log": "log", "log1p": "log", "linear": "linear", "conv2d": "conv", "leaky_relu": "leaky_relu", "clamp": "clamp",
    "exp": "exp", "batch_norm": "norm", "layer_norm": "norm", "clip": "clamp", "logsigmoid": "log",
}  # fmt: skip
PASSING = frozenset({
    "cpu", "to", "cuda", "float", "double", "half", "contiguous", "squeeze", "squeeze_", "unsqueeze", "view", "reshape",
    "flatten", "clone", "type", "requires_grad_", "retain_grad", "avg_pool2d", "adaptive_avg_pool2d", "max_pool2d",
    "adaptive_max_pool2d", "view_as", "expand_as", "long", "Variable", "scale", "mps", "bfloat16", "pin_memory",
    "type_as", "reshape_as", "expand",
})  # fmt: skip
JUDGING = frozenset({
    "argmax", "max", "topk", "eq", "ge", "gt", "lt", "le", "argsort", "sort", "round", "equal", "accuracy_score",
    "amax",
})  # fmt: skip
LEAVING = frozenset({"item", "detach", "tolist", "numpy", "detach_"})
REMAKING = frozenset({"tensor", "as_tensor", "FloatTensor", "Tensor", "from_numpy", "array", "asarray", "full"})
LOOKING = frozenset({
    "print", "len", "type", "isinstance", "id", "repr", "str", "summary", "hasattr", "issubclass", "info", "debug",
    "getattr", "count_parameters", "callable", "dir", "format", "pprint", "display", "dict", "set", "bool",
})  # fmt: skip
SEEDS = frozenset({"manual_seed", "seed", "seed_everything", "set_seed", "manual_seed_all"})
EXITS = frozenset({"exit", "quit", "_exit"})

NET_NAMES = frozenset({"net", "model", "network", "cnn", "classifier"})
OPTIMIZER_NAMES = frozenset({"optimizer", "opt", "optim", "optimiser"})
LOSS_NAMES = frozenset({"criterion", "loss_fn", "loss_func", "loss_function", "loss_fun"})
