"""A draw from a longer list keeps most of what was drawn before."""

from r2a.draws import drawn, drawn_one

NAMES = [f"problem-{k}" for k in range(100)]


def test_a_draw_is_in_the_lists_order_of_the_asked_size_and_another_by_another_seed():
    found = drawn(NAMES, 20, 1)
    assert len(found) == 20
    assert found == [name for name in NAMES if name in found]
    assert found == drawn(NAMES[::-1], 20, 1)[::-1]
    assert found != drawn(NAMES, 20, 2)
    assert drawn(NAMES, None, 1) == NAMES


def test_a_larger_draw_holds_the_smaller_one_and_added_names_take_their_own_places_alone():
    assert set(drawn(NAMES, 20, 1)) < set(drawn(NAMES, 30, 1))
    more = [*NAMES, *(f"added-{k}" for k in range(10))]
    grown = drawn(more, 20, 1)
    assert set(grown) & set(NAMES) <= set(drawn(NAMES, 20, 1))
    n_moved = sum(drawn_one(NAMES, seed) != drawn_one(more, seed) for seed in range(200))
    assert n_moved == sum(drawn_one(more, seed) not in NAMES for seed in range(200))
    assert 0 < n_moved < 200 * 0.2


def test_every_name_is_drawn_as_often_as_the_others():
    counts = [sum(drawn_one(NAMES[:4], seed) == name for seed in range(4000)) for name in NAMES[:4]]
    assert sum(counts) == 4000
    assert all(900 < count < 1100 for count in counts)  # 3.6 standard deviations
