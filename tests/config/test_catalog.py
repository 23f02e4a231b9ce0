"""The list of all parts, and the page made from it."""

from pathlib import Path

import pytest

from detlite.config import load_config
from detlite.config.catalog import format_parts, parts_page, rows, sections
from detlite.errors import UserError
from detlite.modeling.rpn import RPN
from detlite.registry import MATCHERS, registries
from detlite.signature import config_keys, first_sentence

load_config()  # registers the parts
PARTS = {
    f"{slot}: {name}": registry.get(name)
    for slot, registry in registries().items()
    for name in registry
    if registry.get(name).__module__.startswith("detlite.")
}
PARTS |= {path or "the top": section for path, section in sections().items()}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_every_part_and_each_of_its_keys_says_what_it_is(part):
    assert first_sentence(part), f"{part.__name__} has no docstring"
    silent = [key for key, spec in config_keys(part).items() if not spec.doc.strip()]
    assert not silent, f"{part.__name__}: no line in the docstring's Args for {', '.join(silent)}"


def test_the_sections_are_found_by_walking_the_tree():
    assert set(sections()) >= {"", "MODEL", "MODEL.RPN", "DATASETS", "TRANSFORMS", "SOLVER", "EVALUATION"}
    assert sections()["MODEL.RPN"] is RPN


def test_the_page_of_parts_is_what_the_code_says():
    page = Path(__file__).parents[2] / "docs" / "parts.md"
    remedy = "docs/parts.md is not what the code says; run: python tools/explain.py --parts > docs/parts.md"
    assert page.read_text(encoding="utf-8") == parts_page() + "\n", remedy


def test_a_user_s_part_is_listed_with_its_keys_and_stays_off_detlite_s_page():
    @MATCHERS.register()
    class ListedForTest:
        """A custom | part.

        Args:
            k: how many.
        """

        def __init__(self, *, k: int = 9): ...

    text = format_parts("MATCHER")
    assert "\n### ListedForTest\n\n`tests/config/test_catalog.py`. A custom | part.\n" in text
    assert "\n- `K` (a whole number, default `9`): how many.\n" in text
    assert "ListedForTest" not in parts_page()


def test_a_composite_lists_what_it_holds_with_what_its_slots_give():
    assert ("BOX_LOSS", "BOX_LOSS part", "{NAME: SmoothL1Loss, BETA: 1.0}", "") in rows(
        PARTS["ROI_HEADS: StandardRoIHeads"]
    )


def test_an_unknown_slot_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="there is no slot SAMPLR; did you mean SAMPLER"):
        format_parts("SAMPLR")
