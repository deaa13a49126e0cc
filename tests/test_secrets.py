"""No password is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasimb.secrets import command_without_passwords, without_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:geheim@db:5432/runs", "postgresql+psycopg://me:***@db:5432/runs"),
        ("postgresql://me@db/runs", "postgresql://me@db/runs"),
        ("postgresql:///runs?host=/run&password=geheim&x=1", "postgresql:///runs?host=/run&password=***&x=1"),
        ("mysql://:p@ss:word@db/x and grpc://h:1", "mysql://:***@db/x and grpc://h:1"),
        ("grpc://localhost:13000", "grpc://localhost:13000"),
        ("nothing here", "nothing here"),
        ("postgresql://me:a/b@db/x", "postgresql://me:***@db/x"),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
    assert command_without_passwords(["nasimb", text]) == ["nasimb", shown]


def test_a_word_of_a_command_is_taken_whole() -> None:
    assert command_without_passwords(["--storage", "postgresql://me:two words@db/x"])[1] == "postgresql://me:***@db/x"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--storage", "me:geheim@db/x"], ["--storage", "***"]),
        (["--storage=me:geheim@db/x"], ["--storage=***"]),
        (["--storage=postgresql://me:two words@db/x"], ["--storage=postgresql://me:***@db/x"]),
        (["--storage", "-"], ["--storage", "-"]),
        (["--run", "me:geheim@db"], ["--run", "me:geheim@db"]),
    ],
)
def test_what_is_no_address_is_not_shown_as_a_storage(words: list[str], shown: list[str]) -> None:
    assert command_without_passwords(words) == shown


letters = st.text(st.characters(categories=("L", "N", "P"), exclude_characters="?#"), min_size=12, max_size=20)


@given(letters, st.sampled_from(["", "got ", "(Background on this error) "]))
def test_whatever_the_password_is(password: str, before: str) -> None:
    assert password not in without_passwords(f"{before}postgresql+psycopg://user:{password}@host:5432/name")
