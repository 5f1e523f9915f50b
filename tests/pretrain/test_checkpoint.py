import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from slidemill.artifacts.folder import StageId
from slidemill.artifacts.formats import EMBEDDING
from slidemill.errors import ArtifactError, WeightsError
from slidemill.pretrain.checkpoint import (
    METADATA_KEY,
    TrainedOn,
    embedding_stamp,
    load_checkpoint,
    read_facts,
    read_trained_on,
    save_checkpoint,
    training_stamp,
)
from slidemill.pretrain.embedding import embed_slide
from slidemill.pretrain.longnet import LongNet
from slidemill.pretrain.vit import SlideTransformer

WHO = TrainedOn.of(["p2", "p1", "p2"], ["s3", "s1", "s2"])
STAGE = StageId("pretrain", "dino-uni", EMBEDDING, 2, {"seed": 0})


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def encoder():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = SlideTransformer(dim=6, width=16, depth=2, heads=2)
    made.set_moments(np.full(6, 0.5, np.float32), np.full(6, 2, np.float32))
    return made.eval()


@pytest.fixture
def saved(encoder, tmp_path):
    path = tmp_path / "deep" / "checkpoint.safetensors"
    save_checkpoint(path, encoder, {"digest": "d" * 64, "item_digest": "i" * 64}, WHO)
    return path


def altered(path, change=lambda state: None, meta=lambda facts: None):
    """The checkpoint with other tensors or other metadata, in the same place."""
    state, facts = load_file(path), read_facts(path)
    change(state)
    meta(facts)
    save_file(state, path, {METADATA_KEY: json.dumps(facts)})
    return path


def test_a_checkpoint_goes_round_through_its_file_without_random_draws(encoder, saved):
    before = torch.get_rng_state()
    again = load_checkpoint(saved)
    assert torch.equal(torch.get_rng_state(), before)
    assert not again.training
    assert type(again) is SlideTransformer
    rng = np.random.default_rng(0)
    features = rng.normal(size=(15, 6)).astype(np.float32)
    grid = rng.integers(0, 9, (15, 2))
    for name, found in embed_slide(again, features, grid, "cpu").arrays().items():
        expected = embed_slide(encoder, features, grid, "cpu").arrays()[name]
        np.testing.assert_array_equal(found, expected)


def test_a_dilated_encoder_comes_back_as_one(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = LongNet(6, 16, 2, 2, segments=(8, 32), ratios=(1, 2)).eval()
    save_checkpoint(tmp_path / "c.safetensors", made, {}, WHO)
    again = load_checkpoint(tmp_path / "c.safetensors")
    assert type(again) is LongNet
    assert again.sizes() == made.sizes()
    features = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    grid = np.stack([np.arange(40) % 7, np.arange(40) // 7], axis=1)
    for name, found in embed_slide(again, features, grid, "cpu").arrays().items():
        expected = embed_slide(made, features, grid, "cpu").arrays()[name]
        np.testing.assert_array_equal(found, expected)


def test_it_says_what_it_is_and_who_it_was_trained_on(saved):
    facts = read_facts(saved)
    assert (facts["digest"], facts["kind"], facts["version"]) == ("d" * 64, "exact", "2")
    assert read_trained_on(saved) == WHO == TrainedOn(("p1", "p2"), ("s1", "s2", "s3"))


def test_the_same_encoder_gives_the_same_bytes_and_leaves_nothing_else(encoder, saved):
    other = saved.with_name("other.safetensors")
    save_checkpoint(other, encoder, {"item_digest": "i" * 64, "digest": "d" * 64}, WHO)
    assert other.read_bytes() == saved.read_bytes()
    assert {path.name for path in saved.parent.iterdir()} == {saved.name, other.name}


def test_a_fact_cannot_take_the_place_of_what_is_checked(encoder, tmp_path):
    with pytest.raises(ValueError, match="trained_on"):
        save_checkpoint(tmp_path / "c", encoder, {"trained_on": {}}, WHO)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(wrong=s.pop("class_token")), "(?s)class_token.*wrong"),
        (lambda s: s.pop("feature_mean"), "feature_mean"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra"),
        (lambda s: s.update(class_token=torch.zeros(8)), "size mismatch"),
    ],
)
def test_other_tensors_are_refused(saved, change, message):
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(altered(saved, change))


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (lambda f: f["sizes"].update(dim="7"), "size mismatch"),
        (lambda f: f["sizes"].update(depth="1"), r"layers\.1"),
        (lambda f: f["sizes"].update(heads="3"), "4 x 3"),
        (lambda f: f["sizes"].update(width="wide"), "wide"),
        (lambda f: f["sizes"].pop("heads"), "heads"),
        (lambda f: f.update(sizes=None), "does not fit"),
        (lambda f: f.pop("kind"), "kind"),
        (lambda f: f.update(kind="mamba"), "no slide encoder is of the kind 'mamba'"),
        (lambda f: f.update(version="1"), "older slidemill.*Train it again"),
        (lambda f: f.update(version="3"), "version '3'.*or a newer one"),
        (lambda f: f.pop("version"), "version None"),
    ],
)
def test_another_shape_kind_or_version_is_refused(saved, meta, message):
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(altered(saved, meta=meta))


@pytest.mark.parametrize(
    "who",
    [None, {}, {"patients": ["p"]}, {"patients": "p1", "slides": ["s"]},
     {"patients": [], "slides": []}, {"patients": [1], "slides": ["s"]}],
)  # fmt: skip
def test_a_checkpoint_that_does_not_say_whom_it_saw_is_refused(saved, who):
    altered(saved, meta=lambda facts: facts.update(trained_on=who))
    with pytest.raises(ArtifactError, match="does not say which patients"):
        read_trained_on(saved)


def test_who_an_old_checkpoint_saw_is_not_guessed(saved):
    with pytest.raises(WeightsError, match="older slidemill"):
        read_trained_on(altered(saved, meta=lambda facts: facts.update(version="1")))


def test_missing_torn_and_foreign_files_are_said_in_words(saved, tmp_path):
    with pytest.raises(ArtifactError, match="no such file"):
        load_checkpoint(tmp_path / "none.safetensors")
    saved.write_bytes(saved.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match="not readable"):
        load_checkpoint(saved)
    save_file({"a": torch.zeros(1)}, saved)
    with pytest.raises(ArtifactError, match="no slidemill metadata"):
        read_trained_on(saved)


def test_stamps_bind_a_checkpoint_to_its_slides_and_an_embedding_to_both():
    used = [("s1", "a"), ("s2", "b")]
    stamp = training_stamp(STAGE, used)
    assert stamp.digest == STAGE.digest
    assert stamp == training_stamp(STAGE, used[::-1])
    others = [[("s1", "a")], [("s1", "a"), ("s2", "c")], [("s1", "a"), ("s3", "b")]]
    assert len({training_stamp(STAGE, o).item_digest for o in [*others, used]}) == 4
    found = {
        embedding_stamp(STAGE, slide, features, checkpoint).item_digest
        for slide, features, checkpoint in [("s", "f", "c"), ("s", "g", "c"), ("s", "f", "d")]
    }
    assert len(found) == 3
