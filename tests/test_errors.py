"""The error family: what it says, what it is, and that it crosses processes whole."""

from __future__ import annotations

import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitray import errors
from vitray.errors import ConfigError, UserError, VitrayError, nearest

FAMILY = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, VitrayError)]
EXIT_CODES = {
    "VitrayError": 1, "CheckpointError": 1, "TrainingError": 1, "CodeError": 1, "LostWorkersError": 1,
    "HangingError": 1,
    "NotFiniteError": 1, "OutOfMemoryError": 1, "UserError": 2, "ConfigError": 2, "DataError": 2,
    "ResourceError": 2, "TrackingError": 2, "StoreAwayError": 2, "InterruptedRunError": 130,
}  # fmt: skip


@pytest.mark.parametrize("kind", FAMILY, ids=lambda c: c.__name__)
def test_every_error_survives_pickling_with_all_its_parts(kind: type[VitrayError]) -> None:
    for error in (kind("is wrong", where="model.depth", remedy="set it"), kind("is wrong")):
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is kind
        assert (back.what, back.where, back.remedy) == (error.what, error.where, error.remedy)
        assert str(back) == str(error)


def test_each_member_has_its_exit_code() -> None:
    assert {c.__name__: c.exit_code for c in FAMILY} == EXIT_CODES


def test_what_a_user_must_change_is_a_value_error() -> None:
    for kind in FAMILY:
        assert issubclass(kind, ValueError) == (kind.exit_code == 2)
        assert issubclass(kind, UserError) == (kind.exit_code == 2)


def test_the_text_says_where_what_and_the_remedy() -> None:
    assert str(ConfigError("is wrong")) == "is wrong"
    assert str(ConfigError("is wrong", where="x")) == "x: is wrong"
    assert str(ConfigError("is wrong", where="x", remedy="mend it")) == "x: is wrong\n  -> mend it"


@given(
    st.sampled_from(["patch_size", "embed_dim", "weight_decay", "global_batch", "pos_encoding"]),
    st.integers(0, 11),
    st.sampled_from(string.ascii_lowercase),
    st.sampled_from(["replace", "drop", "insert"]),
)
def test_a_name_with_one_wrong_letter_is_recognised(name: str, at: int, letter: str, how: str) -> None:
    at %= len(name)
    wrong = name[:at] + {"replace": letter, "drop": "", "insert": letter + name[at]}[how] + name[at + 1 :]
    known = ["patch_size", "embed_dim", "weight_decay", "global_batch", "pos_encoding", "lr", "depth"]
    assert repr(name) in nearest(wrong, known)


def test_a_name_like_no_other_gets_the_whole_list() -> None:
    assert nearest("xyzzy", ["depth", "alpha"]) == "known: alpha, depth"
    assert nearest("xyzzy", []) == "there are none"
