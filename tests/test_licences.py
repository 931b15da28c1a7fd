"""Licences: what a source's folder says, and what a merge of several may carry."""

from fnmatch import fnmatch
from itertools import combinations, permutations
from pathlib import Path

import pytest

from evomerge.licence_table import ALIASES, KINDS, NAMED, SHARE_ALIKE, TERMS, UNMODIFIED, canonical
from evomerge.licences import (
    Licence,
    Verdict,
    judge_licences,
    licences_of,
    recognise,
)
from evomerge.merge.locations import Location

ASKED_FOR = """
apache-2.0 mit bsd bsd-2-clause bsd-3-clause llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma
qwen tongyi-qianwen qwen-research cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 cc0-1.0
openrail openrail++ bigscience-bloom-rail-1.0 bigcode-openrail-m gpl-3.0 agpl-3.0 lgpl-3.0 deepseek mrl
"""


def judged(*names: str | None) -> Verdict:
    """The verdict on sources called a, b, c ..., licensed so."""
    found = {
        chr(97 + number): Licence(name, "README.md") if name else None
        for number, name in enumerate(names)
    }
    return judge_licences(found)


def test_the_table_knows_what_base_models_carry() -> None:
    assert set(ASKED_FOR.split()) <= set(TERMS)


def test_the_table_is_sound() -> None:
    for name, terms in TERMS.items():
        assert name == terms.name == canonical(name), name
        assert terms.kind in KINDS, name
        assert all(other in TERMS for other in (*terms.becomes, *terms.refuses)), name
        assert all(
            phrase == " ".join(phrase.lower().split()) and "_" not in phrase
            for phrase in terms.opening
        ), name
        if terms.kind == NAMED:
            assert terms.keep, f"{name} has terms of its own and nothing is said of them"
        if terms.kind == SHARE_ALIKE:
            assert terms.keep, name
    assert all(target in TERMS for target in ALIASES.values())
    assert not set(ALIASES) & set(TERMS)


@pytest.mark.parametrize("name", [n for n, t in TERMS.items() if t.opening])
def test_a_text_is_recognised_by_each_of_its_openings(name: str) -> None:
    for phrase in TERMS[name].opening:
        text = f"{phrase.upper()}\n\nCopyright 2024 somebody.\n\nneither the name of"
        assert recognise(text) == name


def test_every_pair_is_judged_alike_in_either_order_and_a_licence_goes_with_itself() -> None:
    for name in TERMS:
        if TERMS[name].kind != UNMODIFIED:
            assert judged(name).licence == name
            assert judged(name, name) == judge_licences(
                {"a": Licence(name, "x"), "b": Licence(name, "y")}
            )
            assert judged(name, name).licence == name
    for one, other in combinations(TERMS, 2):
        there, back = judged(one, other), judged(other, one)
        assert there.licence == back.licence, (one, other)
        assert bool(there.conflicts) == bool(back.conflicts), (one, other)
        assert (there.licence is None) == bool(there.conflicts), (one, other)


@pytest.mark.parametrize(
    ("names", "licence"),
    [
        (("apache-2.0", "mit"), "apache-2.0"),
        (("mit", "cc0-1.0"), "mit"),
        (("cc0-1.0", "unlicense"), "cc0-1.0"),
        (("apache-2.0", "llama3.1"), "llama3.1"),
        (("mit", "gemma", "apache-2.0"), "gemma"),
        (("apache-2.0", "cc-by-nc-4.0"), "cc-by-nc-4.0"),
        (("apache-2.0", "qwen-research"), "qwen-research"),
        (("cc-by-4.0", "cc-by-sa-4.0"), "cc-by-sa-4.0"),
        (("cc-by-nc-4.0", "cc-by-nc-sa-4.0"), "cc-by-nc-sa-4.0"),
        (("cc-by-sa-4.0", "gpl-3.0"), "gpl-3.0"),  # one way: declared compatible in 2015
        (("lgpl-3.0", "gpl-3.0", "agpl-3.0"), "agpl-3.0"),
        (("apache-2.0", "gpl-3.0"), "gpl-3.0"),
        (("llama3.1", "qwen"), "other"),  # both sets of terms apply
        (("llama3.1", "cc-by-nc-4.0"), "other"),
        (("qwen-research", "cc-by-nc-4.0"), "other"),
        (("apache-2.0", "cc-by-4.0"), "other"),
    ],
)
def test_what_goes_together(names: tuple[str, ...], licence: str) -> None:
    for order in permutations(names):
        verdict = judged(*order)
        assert verdict.licence == licence
        assert verdict.conflicts == ()
        assert verdict.unknown == ()


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("cc-by-sa-4.0", "agpl-3.0", "cc-by-nc-sa-4.0"), "share-alike"),
        (("cc-by-sa-4.0", "cc-by-nc-sa-4.0"), "share-alike"),
        (("gpl-3.0", "cc-by-nc-4.0"), "commerce"),
        (("gpl-3.0", "qwen-research"), "commerce"),
        (("gpl-3.0", "bigcode-openrail-m"), "restrict use"),
        (("cc-by-sa-4.0", "llama3.1"), "restrict use"),
        (("gpl-3.0", "qwen"), "its own terms"),
        (("cc-by-nd-4.0",), "changed model"),
        (("mit", "cc-by-nc-nd-4.0"), "changed model"),
        (("llama2", "gemma"), "other families"),
        (("llama3", "llama3.1"), "other families"),
        (("gpl-2.0", "apache-2.0"), "no further terms"),
    ],
)
def test_what_conflicts(names: tuple[str, ...], why: str) -> None:
    for order in permutations(names):
        verdict = judged(*order)
        assert verdict.licence is None
        assert any(why in sentence for sentence in verdict.conflicts), verdict.conflicts


def test_a_conflict_names_both_licences_and_their_sources() -> None:
    (sentence,) = judged("gpl-3.0", "cc-by-nc-4.0", "gpl-3.0").conflicts
    assert sentence.startswith("gpl-3.0 (a, c) and cc-by-nc-4.0 (b): ")


def test_no_licence_is_unknown_and_not_free() -> None:
    verdict = judged("mit", None, "other")
    assert verdict == Verdict(None, (), judged("mit").duties, ("b", "c"))
    assert judge_licences({}) == Verdict(None, (), (), ())


def test_a_conflict_is_told_beside_an_unknown_licence() -> None:
    assert judged("gpl-3.0", "cc-by-nc-4.0", None).conflicts


def test_terms_that_are_not_in_the_table_stay_and_have_to_be_read() -> None:
    verdict = judged("apache-2.0", "some-lab-licence")
    assert verdict.licence == "some-lab-licence"
    assert (
        "some-lab-licence (b): its terms have to be read: they are not known here" in verdict.duties
    )
    assert judged("gpl-3.0", "some-lab-licence").conflicts


def test_duties_say_what_is_asked() -> None:
    (llama,) = judged("llama3.1").duties
    assert "Built with Llama" in llama
    assert "begin the model's name with 'Llama'" in llama
    (commerce,) = judged("cc-by-nc-4.0").duties
    assert commerce.endswith("no commercial use")
    assert judged("cc0-1.0").duties == ()


@pytest.mark.parametrize(
    ("front", "name"),
    [
        ("license: apache-2.0", "apache-2.0"),
        ("license: Apache 2.0", "apache-2.0"),
        ("license: Apache License 2.0", "apache-2.0"),
        ("license: [mit]", "mit"),
        ("license: [mit, llama3.1]", "mit+llama3.1"),
        ("license: other\nlicense_name: qwen-research", "qwen-research"),
        ("license: other\nlicense_name: Tongyi Qianwen", "tongyi-qianwen"),
        ("license: other", "other"),
        ("license: llama-3.1", "llama3.1"),
        # what YAML cannot make a value of
        ("license: mit\ndate: 2024-02-30", "mit"),
        ("license: 'mit'\nv: 0x_", "mit"),
        ("v: !!timestamp x\nlicense: other\nlicense_name: qwen-research", "qwen-research"),
    ],
)
def test_a_card_says_it(tmp_path: Path, front: str, name: str) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\ntags:\n- x\n---\n# A model\n")
    assert licences_of({"it": Location(tmp_path)})["it"] == Licence(name, "README.md")


@pytest.mark.parametrize(
    "card",
    [
        None,
        "# no front matter\nlicense: mit\n",
        "---\ntags: [x]\n---\n",
        "---\nlicense: unknown\n---\n",
        "---\nlicense: [unclosed\n---\n",
        "---\n- a list\n---\n",
        "---\nlicense: mit\n",  # never closed
        "\x00\x01",
    ],
)
def test_no_card_no_licence(tmp_path: Path, card: str | None) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licences_of({"it": Location(tmp_path)})["it"] is None


def test_the_licence_file_speaks_where_the_card_does_not(tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text(
        "                  LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\nLlama 3.2 Version Release Date"
    )
    assert licences_of({"it": Location(tmp_path)})["it"] == Licence("llama3.2", "LICENSE.txt")
    (tmp_path / "README.md").write_text("---\nlicense: other\n---\n")
    assert licences_of({"it": Location(tmp_path)})["it"] == Licence("llama3.2", "LICENSE.txt")
    (tmp_path / "LICENSE.txt").write_text("you may look at it on Sundays")
    assert licences_of({"it": Location(tmp_path)})["it"] == Licence("other", "LICENSE.txt")
    (tmp_path / "README.md").unlink()
    assert licences_of({"it": Location(tmp_path)})["it"] == Licence("other", "LICENSE.txt")


def test_this_projects_own_licence_text_is_recognised() -> None:
    text = (Path(__file__).parents[1] / "LICENSE").read_text()
    assert recognise(text) in TERMS


def test_a_text_that_names_another_licence_further_down_is_not_that_one() -> None:
    gnu = "GNU LESSER GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n ... "
    gnu += "GNU General Public License version 3"
    assert recognise(gnu) == "lgpl-3.0"
    clause = "Redistribution and use in source and binary forms, with or without modification"
    assert recognise(clause) == "bsd-2-clause"
    assert recognise(f"{clause} ... Neither the name of") == "bsd-3-clause"
    assert recognise("all rights reserved") is None


def test_an_adapter_has_a_licence_of_its_own(tmp_path: Path) -> None:
    model, lora = tmp_path / "model", tmp_path / "lora"
    for folder, licence in ((model, "llama3.1"), (lora, "apache-2.0")):
        folder.mkdir()
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    place = Location(model, lora)
    assert licences_of({"ja": place}) == {
        "ja": Licence("llama3.1", "README.md"),
        "ja (lora)": Licence("apache-2.0", "README.md"),
    }
    (lora / "README.md").unlink()
    assert licences_of({"ja": place})["ja (lora)"] is None
    assert judge_licences(licences_of({"ja": place})).unknown == ("ja (lora)",)
    (lora / "README.md").write_text("---\nlicense: gpl-3.0\n---\n")
    assert judge_licences(licences_of({"ja": place})).conflicts


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("README.md", True),
        ("LICENSE", True),
        ("LICENSE.txt", True),
        ("NOTICE", True),
        ("USE_POLICY.md", True),
        ("COPYING", True),
        ("UNLICENSE", True),
        ("license.md", True),
        ("Licence", True),
        ("modeling_own.py", False),
        ("pytorch_model.bin", False),
    ],
)
def test_models_of_the_hub_are_fetched_with_what_they_ask_for(file: str, wanted: bool) -> None:
    from evomerge.merge.hub import _FILES

    assert any(fnmatch(file, pattern) for pattern in _FILES) == wanted
