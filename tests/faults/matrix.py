"""Which test shows the right answer to which fault, through which interface.

The rows are the faults that this library answers. Each cell names its tests, or says why the fault
doesn't concern that interface. `test_matrix.py` sees to it that no cell is empty and that every
test named here exists; all those that need a server run on the embedded one and on Debian's
(`PRESSURE_TEST_SERVER=both`).
"""

from __future__ import annotations

from typing import NamedTuple

INTERFACES = ("queue", "executor", "shim", "asyncio")


class Reason(str):
    """Why there is no test."""

    __slots__ = ()


Cell = tuple[str, ...] | Reason


class Row(NamedTuple):
    fault: str
    answer: str
    queue: Cell
    executor: Cell
    shim: Cell
    asyncio: Cell


_QUEUE = "tests/faults/test_queue_faults.py::"
_EXECUTOR = "tests/faults/test_executor_faults.py::"
_AIO = "tests/aio/test_faults.py::"
_POOL = "tests/multiprocessing/test_pool.py::"
_SHIM = "tests/multiprocessing/test_queues.py::"
_NETWORK = "tests/faults/test_network_faults.py::"
_SERVER = "tests/faults/test_server_faults.py::"
_MORTAL = "tests/faults/test_mortal.py::"
_ENDS = "tests/faults/test_ends.py::"
_CRASHES = "tests/faults/test_crashes.py::"
_SURROUNDINGS = "tests/faults/test_surroundings.py::"
_INTERRUPTED = "tests/faults/test_interrupted.py::"
_SENTINEL = "tests/faults/test_sentinel.py::"
_CLUSTER = "tests/faults/test_cluster.py::"
_SECURITY = "tests/security/"

_LOST = (_NETWORK + "test_replies_are_lost",)
_NO_ROLES = Reason("its queues are not of raw bytes, so clients of protocol 0.15 take no part")
_ONLY_TASKS = Reason("it has no workers and no tasks")
_NO_OWNER = Reason("its queues are named: they belong to nobody, and live until they are deleted")

MATRIX: dict[int, Row] = {
    1: Row(
        "the reply to a put is lost",
        "one copy",
        queue=(
            *_LOST,
            _QUEUE + "test_a_put_whose_message_is_lost_makes_one_copy",
            _QUEUE + "test_a_put_many_whose_reply_is_lost",
        ),
        executor=(*_LOST, _EXECUTOR + "test_a_lone_task_whose_reply_is_lost_is_not_sent_twice"),
        shim=(*_LOST, _NETWORK + "test_a_quick_producer_loses_its_server"),
        asyncio=(*_LOST, _AIO + "test_lost_replies_lose_and_double_nothing"),
    ),
    2: Row(
        "the reply to a take is lost",
        "the item is found",
        queue=(
            *_LOST,
            _QUEUE + "test_a_take_whose_message_is_lost",
            _QUEUE + "test_a_lost_batch_is_found",
            _QUEUE + "test_a_blocked_get_whose_reply_is_lost",
        ),
        executor=(*_LOST, _EXECUTOR + "test_lost_replies_lose_nothing"),
        shim=_LOST,
        asyncio=(*_LOST, "tests/aio/test_cancelling.py::test_cancel_while_the_reply_is_lost"),
    ),
    3: Row(
        "a wait is longer than the socket's time-out",
        "no effect",
        *[(_ENDS + "test_a_socket_timeout_shorter_than_a_wait",)] * 4,
    ),
    4: Row(
        "a signal or a cancellation in mid-reply",
        "the next reply is the right one",
        queue=(_INTERRUPTED + "test_signals_in_mid_reply", _QUEUE + "test_ctrl_c_in_mid_get"),
        executor=(
            _INTERRUPTED + "test_signals_in_mid_reply",
            "tests/executor/test_lifetime.py::test_ctrl_c_cancels_what_waits_and_ends_in_time",
        ),
        shim=(_INTERRUPTED + "test_signals_in_mid_reply",),
        asyncio=(
            "tests/aio/test_cancelling.py::test_storm_of_cancelled_gets",
            "tests/aio/test_cancelling.py::test_storm_of_cancelled_puts",
            "tests/aio/test_cancelling.py::test_storm_of_cancelled_leases",
        ),
    ),
    5: Row(
        "SIGKILL after a take, at every step of a task",
        "it is in the queue again",
        queue=(
            _MORTAL + "test_a_killed_consumer",
            _QUEUE + "test_a_killed_holder_of_a_lease",
            _QUEUE + "test_workers_are_killed_again_and_again",
        ),
        executor=(
            "tests/faults/test_steps.py::test_at_least_once",
            "tests/faults/test_steps.py::test_at_most_once",
            _EXECUTOR + "test_a_killed_worker_s_task_runs_elsewhere_at_once",
            _EXECUTOR + "test_a_killed_supervisor_leaves_no_process_and_no_task",
            _MORTAL + "test_workers_are_killed_in_mid_traffic",
        ),
        shim=(
            _MORTAL + "test_a_killed_consumer",
            _SHIM + "test_what_a_killed_consumer_had_fetched_comes_back",
            _POOL + "test_ours_survives_the_death_of_a_worker",
        ),
        asyncio=(
            _MORTAL + "test_a_killed_consumer",
            _AIO + "test_the_lease_of_a_killed_consumer_comes_back",
        ),
    ),
    6: Row(
        "SIGSTOP for longer than the lease",
        "perhaps two runs, one outcome; a late acknowledgement is refused",
        queue=(
            _MORTAL + "test_a_frozen_consumer",
            _QUEUE + "test_a_holder_that_stands_still_beyond_its_lease",
        ),
        executor=(
            _MORTAL + "test_a_machine_is_frozen_in_mid_traffic",
            _EXECUTOR + "test_the_outcome_of_a_machine_that_stood_still_is_dropped",
            _EXECUTOR + "test_a_client_that_stood_still_for_too_long_sends_everything_again",
        ),
        shim=(_MORTAL + "test_a_frozen_consumer",),
        asyncio=(_MORTAL + "test_a_frozen_consumer",),
    ),
    7: Row(
        "a connection that is half open (no FIN) takes an item",
        "its lease brings it back",
        queue=(
            _MORTAL + "test_a_half_open_consumer_that_is_dead",
            _QUEUE + "test_a_half_open_consumer",
            _NETWORK + "test_connections_swallow_everything",
        ),
        executor=(_NETWORK + "test_connections_swallow_everything",),
        shim=(
            _MORTAL + "test_a_half_open_consumer_that_is_dead",
            _NETWORK + "test_connections_swallow_everything",
        ),
        asyncio=(
            _MORTAL + "test_a_half_open_consumer_that_is_dead",
            _NETWORK + "test_connections_swallow_everything",
        ),
    ),
    8: Row(
        "the holder of a role dies",
        "no permanent Full, no hang",
        queue=(
            "tests/interop/test_roles.py::test_dead_at_any_step_costs_no_more_than_its_own_item",
            "tests/interop/test_roles.py::test_break_role_frees_whoever_waits",
        ),
        executor=_NO_ROLES,
        shim=_NO_ROLES,
        asyncio=(_ENDS + "test_a_dead_holder_of_a_role",),
    ),
    9: Row(
        "close, delete, make anew, with many waiters",
        "all wake, with the right error",
        queue=(_QUEUE + "test_fifty_waiters_wake",),
        executor=(
            _ENDS + "test_a_task_queue_is_closed",
            _EXECUTOR + "test_a_task_queue_that_is_gone_is_noticed",
        ),
        shim=(_ENDS + "test_waiters_at_a_shared_queue_wake",),
        asyncio=(
            _AIO + "test_fifty_waiters_wake_on_close",
            _AIO + "test_fifty_waiters_wake_on_delete",
            _ENDS + "test_waiters_on_a_loop_wake_when_a_queue_is_made_anew",
        ),
    ),
    10: Row(
        "the server is killed, and comes back with its data or empty",
        "reconnected and reconciled; typed errors",
        queue=(
            _SERVER + "test_the_server_is_killed_and_frozen",
            _QUEUE + "test_a_server_that_is_killed_and_comes_back",
            _QUEUE + "test_a_server_that_comes_back_empty",
        ),
        executor=(
            _SERVER + "test_the_server_is_killed_and_frozen",
            _EXECUTOR + "test_a_server_that_restarts_with_its_data_costs_nothing",
            _EXECUTOR + "test_a_server_that_comes_back_empty_gets_everything_again",
        ),
        shim=(
            _SERVER + "test_the_server_is_killed_and_frozen",
            _ENDS + "test_a_shared_queue_is_gone_with_the_servers_data",
        ),
        asyncio=(
            _SERVER + "test_the_server_is_killed_and_frozen",
            _AIO + "test_blocked_getters_ride_out_a_restart",
            _ENDS + "test_an_asyncio_queue_is_gone_with_the_servers_data",
        ),
    ),
    11: Row(
        "Sentinel fails over, while some block and some put",
        "it goes on; `min_replicas` waits for replicas",
        queue=(
            _SENTINEL + "test_everybody_goes_on_with_the_next_primary",
            _SENTINEL + "test_a_blocked_get_survives_the_demotion_of_its_primary",
            _SENTINEL + "test_a_put_waits_for_replicas",
        ),
        executor=(
            _SENTINEL + "test_everybody_goes_on_with_the_next_primary",
            "tests/faults/test_lost_tail.py::"
            "test_an_executor_sends_again_what_was_lost_before_it_goes_on",
        ),
        shim=("tests/faults/test_shim_failover.py::test_a_failover_in_mid_traffic",),
        asyncio=(_SENTINEL + "test_everybody_goes_on_with_the_next_primary",),
    ),
    12: Row(
        "a slot of a Cluster is moved; a primary dies",
        "it goes on",
        queue=(
            _CLUSTER + "test_everybody_goes_on_where_the_slots_are",
            _CLUSTER + "test_who_is_blocked_goes_with_the_slot",
        ),
        executor=(_CLUSTER + "test_everybody_goes_on_where_the_slots_are",),
        shim=(_CLUSTER + "test_the_shim_and_the_program",),
        asyncio=(_CLUSTER + "test_everybody_goes_on_where_the_slots_are",),
    ),
    13: Row(
        "SCRIPT FLUSH in a loop",
        "no effect",
        queue=(
            _SERVER + "test_the_server_forgets_its_scripts",
            _QUEUE + "test_scripts_are_flushed_in_a_loop",
        ),
        executor=(
            _SERVER + "test_the_server_forgets_its_scripts",
            _EXECUTOR + "test_scripts_that_are_flushed_all_the_time",
        ),
        shim=(_SERVER + "test_the_server_forgets_its_scripts",),
        asyncio=(_SERVER + "test_the_server_forgets_its_scripts",),
    ),
    14: Row(
        "maxmemory is reached",
        "a put says so, in a typed error; consumers drain",
        queue=(
            _SERVER + "test_the_server_runs_out_of_memory",
            _QUEUE + "test_memory_runs_out",
            _QUEUE + "test_a_blocked_get_while_memory_is_out",
        ),
        executor=(_SERVER + "test_the_server_runs_out_of_memory",),
        shim=(_SERVER + "test_the_server_runs_out_of_memory",),
        asyncio=(_SERVER + "test_the_server_runs_out_of_memory",),
    ),
    15: Row(
        "an eviction policy that throws keys away",
        "a warning at the start",
        queue=Reason("`pressure doctor` says so; a library doesn't log at its every connection"),
        executor=(
            "tests/executor/test_daemon_settings.py::test_a_server_that_forgets_is_warned_of",
        ),
        shim=Reason("as for the queue"),
        asyncio=Reason("as for the queue"),
    ),
    16: Row(
        "MISCONF, NOREPLICAS, BUSY, LOADING, READONLY, MASTERDOWN; NOPERM, WRONGPASS",
        "tried again for a while; a clear, final error",
        queue=(
            _SERVER + "test_the_server_refuses_for_a_while",
            _QUEUE + "test_refusals_are_final",
        ),
        executor=(
            _SERVER + "test_the_server_refuses_for_a_while",
            _ENDS + "test_refusals_are_final_for_all",
        ),
        shim=(
            _SERVER + "test_the_server_refuses_for_a_while",
            _ENDS + "test_refusals_are_final_for_all",
        ),
        asyncio=(
            _SERVER + "test_the_server_refuses_for_a_while",
            _ENDS + "test_refusals_are_final_for_all",
        ),
    ),
    17: Row(
        "CLIENT KILL, CLIENT PAUSE, maxclients, no file descriptor left",
        "tried again, with a jittered back-off",
        queue=(
            _SERVER + "test_the_server_turns_its_clients_away",
            _SURROUNDINGS + "test_no_descriptors_are_left",
            _QUEUE + "test_clients_are_killed_in_a_loop",
        ),
        executor=(
            _SERVER + "test_the_server_turns_its_clients_away",
            _SURROUNDINGS + "test_no_descriptors_are_left",
        ),
        shim=(
            _SERVER + "test_the_server_turns_its_clients_away",
            _SURROUNDINGS + "test_no_descriptors_are_left",
        ),
        asyncio=(
            _SERVER + "test_the_server_turns_its_clients_away",
            _SURROUNDINGS + "test_no_descriptors_are_left",
        ),
    ),
    18: Row(
        "a fork in the middle of it",
        "the child has its own ids and connections",
        queue=(_SURROUNDINGS + "test_a_process_forks", _QUEUE + "test_fork_in_mid_get"),
        executor=(_SURROUNDINGS + "test_a_process_forks",),
        shim=(
            _SURROUNDINGS + "test_a_process_forks",
            _SHIM + "test_a_fork_while_other_threads_are_at_it",
        ),
        asyncio=(
            _SURROUNDINGS + "test_a_process_forks",
            "tests/aio/test_queue.py::test_a_forked_child_starts_over",
        ),
    ),
    19: Row(
        "a client's clock is wrong by ten minutes",
        "no effect",
        *[(_SURROUNDINGS + "test_clocks_are_ten_minutes_off",)] * 4,
    ),
    20: Row(
        "what is taken kills each process that takes it",
        "a cap, then a dead letter; what is behind it is unharmed",
        queue=(_CRASHES + "test_an_item_that_kills_its_consumer",),
        executor=(_EXECUTOR + "test_a_poisonous_task_costs_only_itself",),
        shim=(_POOL + "test_ours_survives_the_death_of_a_worker",),
        asyncio=(_CRASHES + "test_an_item_that_kills_its_consumer",),
    ),
    21: Row(
        "an error, an exit or a segmentation fault while something is pickled, unpickled or run",
        "the right future or caller is told, in a typed error",
        queue=(_CRASHES + "test_items_of_a_queue",),
        executor=(
            _CRASHES + "test_tasks",
            _EXECUTOR + "test_what_dies_or_fails_while_it_is_pickled_is_told",
        ),
        shim=(_CRASHES + "test_items_of_a_shared_queue", _CRASHES + "test_tasks_of_a_pool"),
        asyncio=(_CRASHES + "test_items_of_an_asyncio_queue",),
    ),
    22: Row(
        "no worker is alive",
        "a warning, or after `no_workers_timeout` an error",
        queue=_ONLY_TASKS,
        executor=(
            _EXECUTOR + "test_without_workers_there_is_a_warning",
            _EXECUTOR + "test_without_workers_there_may_be_an_error",
        ),
        shim=Reason("a Pool is an executor's client; queues have no workers"),
        asyncio=_ONLY_TASKS,
    ),
    23: Row(
        "an envelope of another version of the protocol, code of another Python",
        "a readable refusal; it is kept as a dead letter",
        queue=(
            "tests/redis/test_queue.py::test_garbage_in_the_queue",
            _SECURITY + "test_versions.py::test_an_item_of_a_later_protocol",
        ),
        executor=(
            "tests/executor/test_code.py::test_code_of_another_python_is_refused",
            "tests/executor/test_code.py::test_a_result_of_another_python_is_refused",
            _SECURITY + "test_versions.py::test_a_task_of_a_later_protocol",
        ),
        shim=(_ENDS + "test_an_envelope_of_another_protocol",),
        asyncio=(_ENDS + "test_an_envelope_of_another_protocol",),
    ),
    24: Row(
        "a client is killed with tasks queued and running",
        "its tasks are dropped, its keys removed",
        queue=_NO_OWNER,
        executor=(
            _EXECUTOR + "test_what_a_killed_client_left_behind_vanishes",
            _EXECUTOR + "test_a_client_killed_right_after_a_result_leaves_nothing",
            _EXECUTOR + "test_a_killed_client_leaves_no_worker_process",
        ),
        shim=(_SHIM + "test_the_queues_of_a_killed_creator_vanish",),
        asyncio=_NO_OWNER,
    ),
    25: Row(
        "tampered with, unsigned, of another queue or an earlier life, a replayed answer",
        "never unpickled; a dead letter with its reason",
        queue=(
            _SECURITY + "test_queue_canaries.py::test_takers",
            _SECURITY + "test_queue_canaries.py::test_the_dead_letter_tools",
        ),
        executor=(
            _SECURITY + "test_executor_canaries.py::test_forged_tasks",
            _SECURITY + "test_executor_canaries.py::test_forged_answers",
            _SECURITY + "test_executor_canaries.py::test_a_replayed_answer",
        ),
        shim=(
            _SECURITY + "test_queue_canaries.py::test_multiprocessing_queues",
            _SECURITY + "test_executor_canaries.py::test_a_pool",
        ),
        asyncio=(_SECURITY + "test_queue_canaries.py::test_an_asyncio_handle",),
    ),
}


def markdown() -> str:
    """The faults and their answers, as a table; `·` where a fault doesn't concern an interface."""
    lines = [
        "| # | what goes wrong | what happens then | " + " | ".join(INTERFACES) + " |",
        "|---|---|---|" + "---|" * len(INTERFACES),
    ]
    for number, row in MATRIX.items():
        cells = (row.queue, row.executor, row.shim, row.asyncio)
        shown = " | ".join("·" if isinstance(cell, Reason) else "✓" for cell in cells)
        lines.append(f"| {number} | {row.fault} | {row.answer} | {shown} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown())
