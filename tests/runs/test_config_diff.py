import copy

from hypothesis import given
from hypothesis import strategies as st

from slidemill.runs.config_diff import ABSENT, Change, changes

SCALARS = st.none() | st.booleans() | st.integers(0, 3) | st.text("ab", max_size=2)
KEYS = st.sampled_from("abc")
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
CONFIGS = st.dictionaries(KEYS, VALUES, max_size=3)


def apply(value, found):
    """What a value becomes by changes."""
    made = copy.deepcopy(value)
    # From the end, so that items that go do not move those before them.
    for change in reversed(found):
        place = made
        for key in change.path[:-1]:
            place = place[key]
        last = change.path[-1]
        if change.new is ABSENT:
            del place[last]
        elif isinstance(place, list) and change.old is ABSENT:
            place.insert(last, change.new)
        else:
            place[last] = change.new
    return made


def order(change):
    return [str(key) for key in change.path]


@given(CONFIGS)
def test_nothing_differs_from_itself(config):
    assert list(changes(config, copy.deepcopy(config))) == []


@given(CONFIGS, CONFIGS)
def test_changes_make_the_one_the_other(old, new):
    found = list(changes(old, new))
    # Lists grow at their end: insert the first of several first.
    grown = [one for one in found if one.old is ABSENT]
    others = [one for one in found if one.old is not ABSENT]
    assert apply(apply(old, others), sorted(grown, key=order, reverse=True)) == new


@given(CONFIGS, CONFIGS)
def test_the_way_back_is_the_same_changes_turned_round(old, new):
    there = {(one.path, repr(one.old), repr(one.new)) for one in changes(old, new)}
    back = {(one.path, repr(one.new), repr(one.old)) for one in changes(new, old)}
    assert there == back


def test_a_change_is_named_as_messages_name_it():
    old = {"pretrain": {"runs": [{"name": "a", "epochs": 5}]}, "tiles": {"mpp": 0.5}}
    new = {"pretrain": {"runs": [{"name": "a", "epochs": 9}, {"name": "b"}]}, "tiles": {}}
    assert [(one.key, one.as_json()) for one in changes(old, new)] == [
        ("pretrain.runs.0.epochs", {"key": "pretrain.runs.0.epochs", "old": 5, "new": 9}),
        ("pretrain.runs.1", {"key": "pretrain.runs.1", "new": {"name": "b"}}),
        ("tiles.mpp", {"key": "tiles.mpp", "old": 0.5}),
    ]


def test_a_list_of_plain_values_is_one_value():
    old, new = {"encoders": ["a"]}, {"encoders": ["b", "a"]}
    assert list(changes(old, new)) == [Change(("encoders",), ["a"], ["b", "a"])]


def test_numbers_that_python_calls_equal_are_told_apart():
    assert [one.key for one in changes({"a": True, "b": 1}, {"a": 1, "b": 1.0})] == ["a", "b"]
