"""Files of costs: both forms, any order of classes, and every way to write them wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nasimb.deliver.costs import read_costs
from nasimb.errors import InputError

CLASSES = ("cat", "dog", "a,b")


def written(folder: Path, text: str) -> Path:
    file = folder / "costs.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_cost_a_class_is_that_of_every_mistake_with_it(tmp_path: Path) -> None:
    file = written(tmp_path, '\ufeffclass,cost\n"a,b",0\ncat,2.5\n\ndog, 1\n')
    np.testing.assert_array_equal(read_costs(file, CLASSES), [[0, 2.5, 2.5], [1, 0, 1], [0, 0, 0]])


def test_a_matrix_is_by_true_class_and_what_it_is_taken_for(tmp_path: Path) -> None:
    file = written(tmp_path, 'class,dog,"a,b",cat\ncat,1,2,0\n"a,b",3,0,4\ndog,0,5,6\n')
    np.testing.assert_array_equal(read_costs(file, CLASSES), [[0, 1, 2], [6, 0, 5], [4, 3, 0]])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("cat,2\ndog,1\n", "a header that begins with class"),
        ("class,cost\ncat,1\ndog,1\n", "none for 'a,b'"),
        ("class,cost\ncat,1\ndgo,1\n", "Did you mean 'dog'"),
        ('class,cost\ncat,1\ndog,1\n"a,b",1\ncat,3\n', "'cat' twice"),
        ('class,cost\ncat,1\ndog,-1\n"a,b",1\n', "'-1' for 'dog'"),
        ('class,cost\ncat,1\ndog,nan\n"a,b",1\n', "'nan' for 'dog'"),
        ('class,cost\ncat,1\ndog,much\n"a,b",1\n', "'much' for 'dog'"),
        ('class,cost\ncat,0\ndog,0\n"a,b",0\n', "some mistake must cost something"),
        ("class,cost\ncat,1\ndog\n", "every row must have 2 cells"),
        ('class,cat,dog,"a,b"\ncat,1,1,1\ndog,1,0,1\n"a,b",1,1,0\n', "to be right must cost nothing"),
        ('class,cat,dog\ncat,0,1\ndog,1,0\n"a,b",1,1\n', "none for 'a,b'"),
    ],
)
def test_what_is_written_wrongly_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as raised:
        read_costs(written(tmp_path, text), CLASSES)
    assert said in str(raised.value)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must exist"):
        read_costs(tmp_path / "none.csv", CLASSES)
    (tmp_path / "latin.csv").write_bytes("class,cost\nk\xe4se,1".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read_costs(tmp_path / "latin.csv", CLASSES)
