"""How many images a launch takes follows what the device does, not what a setting guesses."""

from __future__ import annotations

import pytest

from imaging_node.inference.launch_budget import CEILING_LIFE_S, MAXIMUM_BATCH, LaunchBudget


def run(budget: LaunchBudget, launches: int, *, overhead_ms: float, ms_per_image: float) -> int:
    """Launch as many as the budget allows, so often; the limit that is left."""
    for _ in range(launches):
        images = budget.limit(0)
        budget.learn(images, overhead_ms + images * ms_per_image)
    return usual_limit(budget)


def usual_limit(budget: LaunchBudget) -> int:
    """The limit that most launches have: now and then one looks at another size."""
    limits = []
    for _ in range(3):
        limits.append(budget.limit(0))
        budget._launches += 1
    return sorted(limits)[1]


def test_a_device_with_overhead_gets_launches_as_long_as_the_budget() -> None:
    budget = LaunchBudget(31)
    assert run(budget, 100, overhead_ms=12, ms_per_image=0.15) == 126
    assert budget.overhead_ms == pytest.approx(12, rel=0.1)
    assert budget.ms_per_image == pytest.approx(0.15, rel=0.1)


def test_a_device_without_overhead_gets_small_launches_although_more_would_fit() -> None:
    assert run(LaunchBudget(150), 100, overhead_ms=0.2, ms_per_image=18) <= 2


def test_two_images_share_a_launch_only_where_that_is_faster_by_nearly_three_percent() -> None:
    assert run(LaunchBudget(150), 100, overhead_ms=1.51, ms_per_image=26) == 2
    assert run(LaunchBudget(150), 100, overhead_ms=0.8, ms_per_image=26) == 1


def test_no_launch_is_larger_than_the_ceiling_of_all() -> None:
    budget = LaunchBudget(10_000)
    assert run(budget, 100, overhead_ms=5, ms_per_image=0.001) == MAXIMUM_BATCH


def test_the_first_launch_of_a_model_takes_one_image() -> None:
    assert LaunchBudget(1000).limit(0) == 1


def test_a_model_that_gets_slower_gets_smaller_launches() -> None:
    budget = LaunchBudget(30)
    assert run(budget, 60, overhead_ms=5, ms_per_image=1) == 25
    assert run(budget, 60, overhead_ms=5, ms_per_image=4) <= 7
    assert run(budget, 60, overhead_ms=5, ms_per_image=100) == 1


def test_one_launch_that_the_machine_held_up_changes_little() -> None:
    budget = LaunchBudget(30)
    before = run(budget, 60, overhead_ms=5, ms_per_image=1)
    budget.learn(before, 60_000)
    assert usual_limit(budget) >= before / 2
    assert run(budget, 20, overhead_ms=5, ms_per_image=1) == pytest.approx(before, abs=1)


def test_a_cold_first_launch_is_not_held_against_the_size() -> None:
    budget = LaunchBudget(30)
    budget.learn(1, 20_000)
    assert run(budget, 60, overhead_ms=5, ms_per_image=1) == 25


def test_after_running_out_of_memory_the_ceiling_is_half_and_expires_by_doubling() -> None:
    budget = LaunchBudget(31)
    run(budget, 100, overhead_ms=12, ms_per_image=0.15)
    budget.run_out_of_memory(100, now_s=1000)
    assert budget.limit(1000 + CEILING_LIFE_S - 1) == 50
    assert budget.limit(1000 + CEILING_LIFE_S) == 100
    assert budget.limit(1000 + 2 * CEILING_LIFE_S) > 100
