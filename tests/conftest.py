"""What every test shares: JAX on two CPU devices, so that seeds are spread as they are on a machine with two cores."""

import os
import shutil
import tempfile
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
FIRST = "JAX_COMPILATION_CACHE_DIR" not in os.environ  # of the processes of this run of the tests
if FIRST:  # what one process compiled, the others take from here: runs that are stopped and resumed, and workers
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="sharedq-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

from sharedq.training.seeds import use_all_cores  # noqa: E402

use_all_cores()
jax.config.update("jax_num_cpu_devices", 2)  # raises if something used JAX before: then the line above had no effect

# Compiling makes the first example slow, and a failure must come again on the next run.
hypothesis.settings.register_profile("sharedq", deadline=None, derandomize=True)
hypothesis.settings.load_profile("sharedq")


# These tests take 15 to 40 seconds each, mostly of compiling, and have a shorter sibling in the default run. They run
# with `pytest -m slow`.
LONG = (
    "test_measures.py::test_a_measured_run_learns_what_it_learns_unmeasured[host]",
    "test_measures.py::test_a_measured_run_learns_what_it_learns_unmeasured[stream]",
    "test_measures.py::test_a_measured_run_that_was_killed_equals_one_that_was_not[host]",
    "test_measures.py::test_a_measured_run_that_was_killed_equals_one_that_was_not[stream]",
    "test_dqn.py::test_every_source_learns_the_known_values[OnlineNetwork-",
    "test_dqn.py::test_every_source_learns_the_known_values[SharedHeads1-",
    "test_dqn.py::test_every_source_learns_the_known_values[IteratedNetworks-",
    "test_dqn.py::test_every_source_learns_the_known_values[LookaheadReplicate-",
    "test_dqn.py::test_running_statistics_travel_with_a_network_that_normalises_its_batch",
    "test_minatar.py::test_game_is_the_original[seaquest]",
    "test_minatar.py::test_game_keeps_the_contract[seaquest]",
    "test_layouts.py::test_the_layout_of_seeds_changes_nothing[target network on the host]",
    "test_layouts.py::test_the_layout_of_seeds_changes_nothing[stream]",
    "test_layouts.py::test_the_layout_of_seeds_changes_nothing[corrected gradients]",
    "test_distributions.py::test_a_run_with_noise_and_corrections_goes_on_from_its_checkpoint_to_the_bit",
    "test_distributions.py::test_a_run_evaluates_without_noise",
    "test_plugins.py::test_a_source_of_ones_own_is_compared_and_gone_on_with",
    "test_plugins.py::test_an_installed_source_is_compared_with_ours",
    "test_plugins.py::test_the_examples_own_tests_pass",
    "test_offline.py::test_an_environment_that_the_host_steps_is_evaluated_in_and_refined_in",
    "test_offline.py::test_every_measure_looks_at_learning_from_data[cql]",
    "test_iql.py::test_with_a_beta_of_zero_the_policy_is_the_clone_of_the_data",
    "test_ilql.py::test_the_loss_equals_a_slow_loop_and_its_gradient_reaches_the_trunk[target-free]",
    "test_ilql.py::test_the_loss_equals_a_slow_loop_and_its_gradient_reaches_the_trunk[lookahead-replicate]",
    "test_ilql.py::test_words_are_written_by_policy_and_advantage[target network]",
    "test_ilql_runs.py::test_killed_while_it_saves_and_resumed_the_end_is_the_same",
    "test_measures.py::test_seeds_are_measured_side_by_side_as_they_are_one_after_another",
    "test_sac.py::test_a_host_run_goes_on_from_its_checkpoint_to_the_bit_with_its_normalisers_and_its_worlds",
    "test_xqc.py::test_every_source_teaches_every_weight_and_leaves_it_at_its_length[flash-sac-online_network]",
    "test_xqc.py::test_every_source_teaches_every_weight_and_leaves_it_at_its_length[flash-sac-iterated_networks]",
    "test_xqc.py::test_every_source_teaches_every_weight_and_leaves_it_at_its_length[flash-sac-shared_heads]",
    "test_xqc.py::test_what_removing_the_target_costs_is_one_command",
    "test_xqc.py::test_a_recipe_trains_with_small_layers",
    "test_xqc.py::test_every_source_teaches_every_weight_and_leaves_it_at_its_length[flash-sac-target_network]",
    "test_dqn.py::test_every_source_learns_the_known_values[TargetNetwork-",
    "test_sampler_runs.py::test_seeds_side_by_side_learn_what_they_learn_one_after_another[annealed]",
    "test_sampler_runs.py::test_stopped_and_resumed_the_end_is_that_of_an_unbroken_run[surprise]",
    "test_layouts.py::test_the_layout_of_seeds_changes_nothing[shared heads]",
    "test_interactive.py::test_observing_equals_the_compiled_loop_and_takes_no_call_of_its_own[False]",
    "test_ilql.py::test_words_are_written_by_policy_and_advantage[iterated networks K=2]",
    "test_ilql.py::test_the_loss_equals_a_slow_loop_and_its_gradient_reaches_the_trunk[target network]",
    "test_adaptive.py::test_seeds_side_by_side_learn_what_they_learn_one_after_another[adaptive]",
    "test_adaptive.py::test_stopped_and_resumed_the_end_is_that_of_an_unbroken_run[adaptive]",
    "test_adaptive.py::test_the_contract_is_kept_with_a_selection[elitism]",
    "test_export.py::test_the_agent_of_a_recipe_decides_the_same_from_its_file[stream-atari]",
    "test_export.py::test_the_agent_of_a_recipe_decides_the_same_from_its_file[atari-impala-ln]",
    "test_export.py::test_the_runtime_is_installed_alone_and_acts",
    "test_ray.py::test_a_killed_task_goes_on_from_its_checkpoint_and_all_ends_as_without_ray[eight runs]",
    "test_remote.py::test_actors_that_were_started_by_hand_go_on_with_a_resumed_run_and_end_with_it",
)


@pytest.hookimpl(tryfirst=True)  # before those marked as slow are left out
def pytest_collection_modifyitems(items):
    for item in items:
        if any(long in item.nodeid for long in LONG):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def hasty():
    """Compiles with few optimisations, for tests of commands whose programs are small: compiling is most of their time.

    Tests of whole runs to the bit, or of programs, are compiled as for users. So nothing that was compiled here is left
    for them.
    """
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


@pytest.fixture
def undrawn(monkeypatch):
    """Puts an empty figure in place of those of a report, which take most of its time."""
    from sharedq.reports.figures import Figure

    def draw(summary):
        return {name: [Figure("areas", "caption", b"", b"")] for name in ("", *(task.name for task in summary.tasks))}

    monkeypatch.setattr("sharedq.reports.page.draw", draw)


class Answer(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def sharedq(here, capsys):
    """Runs a command in the folder that the fixture `here` of the module has made."""
    from sharedq.command_line import main

    def run(*words) -> Answer:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Answer(code, *capsys.readouterr())

    return run


def pytest_unconfigure():
    if FIRST:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
