"""The table of networks and tasks: names that exist, and learning rates that are chosen where they are needed."""

import pytest

from recipes.catalog import RECIPES
from results.tasks import CONTROL, DATA2VEC, EVALUATIONS, NETWORKS, RANDOM, TASKS, Task


def test_every_network_is_a_recipe_and_a_control_has_another_objective_in_the_same_trunk() -> None:
    for network in NETWORKS:
        recipe = RECIPES[network.modality][network.recipe]()
        if network.arm == CONTROL:
            own = next(one for one in NETWORKS if (one.modality, one.arm) == (network.modality, DATA2VEC))
            other = RECIPES[own.modality][own.recipe]()
            assert recipe.objective.kind != other.objective.kind and recipe.frontend == other.frontend and recipe.data == other.data
            assert (recipe.model.num_layers, recipe.model.hidden_size) == (other.model.num_layers, other.model.hidden_size)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.data)
def test_a_rate_is_chosen_at_a_number_of_labels_that_the_task_has(task: Task) -> None:
    labels = [budget.labels for budget in task.budgets]
    assert len(set(labels)) == len(labels) and len(set(task.rates)) == len(task.rates) > 1
    assert all(budget.chosen_at in labels for budget in task.budgets)
    at = {budget.labels: budget.chosen_at for budget in task.budgets}
    assert all(at[chosen] == chosen for chosen in at.values()), "a rate is chosen where it is tried"


def test_all_arms_of_a_task_have_the_same_settings_but_for_those_of_random_weights() -> None:
    task, budget = TASKS[0], TASKS[0].budgets[0]
    sets = dict(one.split("=", 1) for one in task.sets(budget, DATA2VEC))
    assert task.sets(budget, CONTROL) == task.sets(budget, RANDOM) == task.sets(budget, DATA2VEC)
    (ctc,) = [one for one in TASKS if one.from_random]
    more = [one for one in ctc.sets(ctc.budgets[0], RANDOM) if one not in ctc.sets(ctc.budgets[0], DATA2VEC)]
    assert more == ["objective.frozen_steps=0"]
    assert float(sets["finetune.evals_per_epoch"]) * budget.epochs == pytest.approx(EVALUATIONS)
    assert sets["data.max_train_samples"] == str(budget.labels) and not any("optim.lr" in one for one in sets)
