"""The public page: lazy, complete, typed."""

import subprocess
import sys

import pytest

import conviction


def test_importing_the_page_imports_no_torch() -> None:
    program = "import conviction, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize("name", conviction.__all__)
def test_every_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(conviction, name)
    assert name in dir(conviction)
    assert isinstance(value, (str, dict)) or value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="train_fast"):
        _ = conviction.train_fast
