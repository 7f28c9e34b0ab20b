"""The tree of errors: exit codes as documented, one line each, and a message that says what, where and what to do."""

from __future__ import annotations

import pickle

import pytest

from conviction import errors
from conviction.errors import ConvictionError

# Exit codes that scripts rely on; 75 is EX_TEMPFAIL of sysexits.h.
EXIT_CODES = {
    "ConvictionError": 1,
    "UsageError": 2,
    "ImageTooSmallError": 2,
    "DataError": 3,
    "WeightsError": 4,
    "ResourceError": 5,
    "DivergedError": 6,
    "VerificationError": 7,
    "TemporaryError": 75,
}
CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ConvictionError)]


def test_every_error_has_its_exit_code() -> None:
    assert {kind.__name__: kind.exit_code for kind in CLASSES} == EXIT_CODES


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_message_reads_what_where_remedy(kind: type[ConvictionError]) -> None:
    assert str(kind("broken", "a.png", "replace it")) == "broken, a.png - replace it"
    assert str(kind("broken", "a.png")) == "broken, a.png"
    assert str(kind("broken", "", "replace it")) == "broken - replace it"
    assert str(kind("broken")) == "broken"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_errors_cross_processes(kind: type[ConvictionError]) -> None:
    """A worker that decodes images sends its refusal to the main process by pickle."""
    there = pickle.loads(pickle.dumps(kind("broken", "a.png", "replace it")))
    assert type(there) is kind
    assert (there.what, there.where, there.remedy) == ("broken", "a.png", "replace it")


def test_a_usage_error_is_a_value_error_to_python() -> None:
    assert issubclass(errors.UsageError, ValueError)
    assert not issubclass(errors.DataError, ValueError)
