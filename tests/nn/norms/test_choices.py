"""Names of norms become options, and decide where a norm is used."""

from __future__ import annotations

from typing import Any

import pytest

from nasimb.errors import InputError
from nasimb.nn.norms.choices import inner_norms, norm_spec, stage_norms, stem_norm
from nasimb.nn.norms.gn import GroupNormSpec
from nasimb.nn.norms.nbn import NBN_PUBLISHED
from nasimb.space import SearchSpace


def space(norms: list[str], **norm_options: dict[str, Any]) -> SearchSpace:
    stage = {"depths": [1], "widths": [4], "norms": norms}
    values = {"name": "s", "backbone": "resnet", "stem_width": 4, "resolutions": [8], "stages": [stage]}
    return SearchSpace.model_validate({**values, "norm_options": norm_options})


def test_a_name_means_its_options_or_the_norm_itself() -> None:
    published = {"name": "nbn", "bias": "normalised", "scale": "shared", "start": "one", "bias_start": "zero"}
    found = space(["gn", "nbn_published", "gn_4"], nbn_published=published, gn_4={"name": "gn", "group_size": 4})
    assert stage_norms(found, found.stages[0]) == {
        "gn": GroupNormSpec(), "nbn_published": NBN_PUBLISHED, "gn_4": GroupNormSpec(group_size=4)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "nbn", "bais": "free"}, "Did you mean 'bias'"),
        ({"name": "nbm"}, "Did you mean 'nbn'"),
        ({"name": "bn", "where": "all"}, "unknown key 'where'"),
        ({"name": "gn", "group_size": 0}, "group_size must be valid"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        norm_spec(space(["mine_1"], mine_1=options), "mine_1")


@pytest.mark.parametrize("name", ["pop", "train", "training", "_modules", "two words", "a.b"])
def test_a_name_that_torch_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="torch"):
        norm_spec(space([name], **{name: {"name": "gn"}}), name)


def test_a_misspelt_variant_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'gn_four'"):
        norm_spec(space(["gn_for", "gn_four"], gn_four={"name": "gn"}), "gn_for")


def test_where_decides_about_the_middle_of_blocks_and_the_stem() -> None:
    gn = {"name": "gn", "where": "all"}
    mixed, free = space(["ln", "gn_all"], gn_all=gn), space(["gn_all"], gn_all=gn)
    assert set(inner_norms(stage_norms(mixed, mixed.stages[0]))) == {"bn", "gn_all"}
    assert set(inner_norms(stage_norms(free, free.stages[0]))) == {"gn_all"}
    assert stem_norm(mixed)[0] == "bn"
    assert stem_norm(free) == ("gn_all", GroupNormSpec(where="all"))
