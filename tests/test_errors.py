import pytest

from tsm_edge import errors
from tsm_edge.errors import CheckFailed, TsmEdgeError, unknown_name


def test_message_is_the_problem_and_the_next_step() -> None:
    error = TsmEdgeError("model.so is missing", "make it with: tsm-edge compile")
    assert str(error) == "model.so is missing; make it with: tsm-edge compile"
    assert (error.problem, error.hint) == ("model.so is missing", "make it with: tsm-edge compile")


def test_message_without_a_next_step_is_the_problem() -> None:
    assert str(TsmEdgeError("model.so is missing")) == "model.so is missing"


def test_every_error_is_a_user_error_except_a_failed_check() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TsmEdgeError)]
    assert CheckFailed in kinds
    assert {kind.__name__: kind.exit_code for kind in kinds if kind is not CheckFailed} == {
        kind.__name__: 2 for kind in kinds if kind is not CheckFailed
    }
    assert CheckFailed.exit_code == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x86_64", "unknown target 'x86_64' (did you mean 'x86-64'?): known are native, x86-64"),
        ("zzz", "unknown target 'zzz': known are native, x86-64"),
    ],
)
def test_unknown_name_suggests_the_closest_and_lists_all(name: str, expected: str) -> None:
    assert unknown_name("target", name, ["x86-64", "native"]) == expected


def test_unknown_name_says_when_nothing_is_known() -> None:
    assert unknown_name("label", "a", []) == "unknown label 'a': known are none"
