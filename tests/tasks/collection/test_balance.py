"""Choosing cases."""

from collections import Counter

from storage.records import EditType, Request
from tasks.collection.balance import choose_balanced, split_of
from tasks.collection.candidates import Candidate


def candidate(image, category="cat", edit_type=EditType.BOKEH):
    return Candidate(
        image_id=image,
        source_id=str(image),
        image_hash=f"hash{image}",
        case_id=f"{image} {category} {edit_type}",
        details="",
        edit_type=edit_type,
        category=category,
        instruction="",
        request=Request(),
        mask={},
    )


def test_categories_take_turns_even_where_one_is_frequent():
    many = [candidate(i, "cat") for i in range(50)] + [candidate(100 + i, "dog") for i in range(5)]
    chosen, rest = choose_balanced(many, per_edit_type=10, per_image=1, seed=0)
    assert Counter(c.category for c in chosen) == {"cat": 5, "dog": 5}
    assert len(rest) == 45


def test_no_image_is_used_more_often_than_allowed():
    everything = [candidate(i, edit_type=t) for i in range(3) for t in EditType]
    chosen, rest = choose_balanced(everything, per_edit_type=3, per_image=2, seed=0)
    assert max(Counter(c.image_hash for c in chosen).values()) == 2
    assert len(chosen) == 6
    assert len(chosen) + len(rest) == len(everything)


def test_edit_types_share_scarce_images_fairly():
    everything = [candidate(i, edit_type=t) for i in range(8) for t in EditType]
    chosen, _ = choose_balanced(everything, per_edit_type=100, per_image=4, seed=0)
    counts = Counter(c.edit_type for c in chosen).values()
    assert len(chosen) == 32
    assert max(counts) - min(counts) <= 2


def test_the_choice_does_not_depend_on_the_order():
    everything = [candidate(i, "cat" if i % 3 else "dog", t) for i in range(20) for t in EditType]
    one, _ = choose_balanced(everything, 5, 2, seed=1)
    two, _ = choose_balanced(everything[::-1], 5, 2, seed=1)
    assert one == two
    assert one != choose_balanced(everything, 5, 2, seed=2)[0]


def test_the_split_is_a_matter_of_content():
    share = sum(split_of(f"image {i}", 0.25, seed=0) == "bench" for i in range(2000)) / 2000
    assert 0.22 < share < 0.28
    assert split_of("a", 0.25, 0) == split_of("a", 0.25, 0)
    assert all(split_of(f"image {i}", 0.0, 0) == "train" for i in range(20))
