from voder.nn.groups import equal_groups


def test_every_item_is_in_one_group_of_its_own_size():
    sizes = [5, 3, 5, 0, 3, 5, 9]
    groups = list(equal_groups(sizes, 10))
    assert sorted(item for group in groups for item in group) == list(range(7))
    assert all(len({sizes[item] for item in group}) == 1 for group in groups)
    assert [0, 2] in groups  # two of five fill ten
    assert [6] in groups


def test_an_item_beyond_the_limit_is_alone():
    assert list(equal_groups([50, 50], 10)) == [[0], [1]]
