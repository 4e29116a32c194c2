"""The bugs that `bugs` plants over the whole tree, and for each the tests that should see it."""

from typing import NamedTuple


class Bug(NamedTuple):
    """In `file` the only occurrence of `old` becomes `new`; `tests` are nodes of pytest."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _tests(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/{file}::test_{name}" for name in names)


TRAINING = (
    Bug(
        "the warm-up begins at a rate of zero",
        "pretrain/schedule.py",
        "schedule.peak * (step + 1) /",
        "schedule.peak * step /",
        _tests(
            "pretrain/test_schedule.py",
            "the_warm_up_is_a_straight_line_that_begins_above_zero_and_reaches_the_peak",
        ),
    ),
    Bug(
        "the cosine ends a step late",
        "pretrain/schedule.py",
        "max(1, end - schedule.warmup_steps)",
        "max(1, end + 1 - schedule.warmup_steps)",
        _tests("pretrain/test_schedule.py", "cosine_is_torchs_own_annealing_after_the_warm_up"),
    ),
    Bug(
        "a remainder of the batch is dropped",
        "pretrain/batch.py",
        "        if tokens % share:",
        "        if tokens < share:",
        _tests(
            "pretrain/test_batch.py", "a_batch_is_cut_without_a_remainder_or_refused_with_sizes_that_work"
        ),
    ),
    Bug(
        "the micro-batch exceeds its limit by one",
        "pretrain/batch.py",
        "min(config.micro_sequences, per_rank) + 1)",
        "min(config.micro_sequences + 1, per_rank) + 1)",
        _tests("pretrain/test_batch.py", "the_micro_batch_is_the_largest_that_the_limit_allows"),
    ),
    Bug(
        "biases and gains decay too",
        "pretrain/optim.py",
        "for _, p in others if p.dim() < 2], 0.0)",
        "for _, p in others if p.dim() < 2], config.weight_decay)",
        _tests("pretrain/test_optim.py", "matrices_and_embeddings_decay_and_vectors_do_not"),
    ),
    Bug(
        "the two betas change places",
        "pretrain/optim.py",
        "betas=(config.beta1, config.beta2)",
        "betas=(config.beta2, config.beta1)",
        _tests("pretrain/test_optim.py", "a_step_is_adamw_as_the_paper_has_it"),
    ),
    Bug(
        "attention sees what comes later",
        "pretrain/step/attention.py",
        "*exact, dropout_p=dropout, is_causal=True)",
        "*exact, dropout_p=dropout, is_causal=False)",
        _tests("pretrain/test_model.py", "a_token_changes_no_logit_before_it"),
    ),
    Bug(
        "another GELU",
        "pretrain/model.py",
        'approximate="tanh"',
        'approximate="none"',
        _tests("pretrain/test_model.py", "the_logits_are_those_of_transformers_for_the_exported_weights"),
    ),
    Bug(
        "dropout acts in evaluation too",
        "pretrain/model.py",
        "        return F.dropout(y, self.dropout, self.training)",
        "        return F.dropout(y, self.dropout, True)",
        _tests("pretrain/test_model.py", "dropout_acts_in_training_alone"),
    ),
    Bug(
        "padded rows take part in the loss",
        "pretrain/cross_entropy.py",
        "            used = used[:vocabulary]",
        "            used = used[:]",
        _tests("pretrain/test_cross_entropy.py", "padding_takes_no_part_in_the_loss_and_gets_no_gradient"),
    ),
    Bug(
        "the softmax overflows",
        "pretrain/cross_entropy.py",
        "    probabilities = torch.softmax(exact, dim=1, out=memory)",
        "    probabilities = torch.exp(exact, out=memory).div_(memory.sum(dim=1, keepdim=True))",
        _tests("pretrain/test_cross_entropy.py", "logits_in_the_thousands_do_not_overflow"),
    ),
    Bug(
        "a row begins after the token that the one before ends with",
        "pretrain/step/lengths.py",
        "micro_batch.unfold(1, length + 1, length)",
        "micro_batch.unfold(1, length + 1, length + 1)",
        _tests("pretrain/step/test_lengths.py", "folding_keeps_each_pair_of_a_token_and_the_next"),
    ),
    Bug(
        "a gradient in FP8 is given the weights' scale",
        "pretrain/step/float8.py",
        "_scaled(gradient, _by_columns(columns), scale, column_scale, fast=False)",
        "_scaled(gradient, _by_columns(columns), column_scale, column_scale, fast=False)",
        _tests("pretrain/test_float8.py", "a_layer_and_its_gradients_are_the_products_of_what_fp8_leaves"),
    ),
    Bug(
        "dropout repeats from step to step",
        "pretrain/engine.py",
        "dropout_seed(self._seed, self.step, self._world.rank, number)",
        "dropout_seed(self._seed, 0, self._world.rank, number)",
        _tests("pretrain/test_engine.py", "dropout_differs_from_step_to_step"),
    ),
    Bug(
        "stage 0 steps into a NaN",
        "pretrain/step/clipping.py",
        "norm.mul(0).ne_(0)",
        "norm.mul(0).zero_()",
        _tests("pretrain/test_engine.py", "a_gradient_that_is_not_finite_changes_nothing_and_is_counted"),
    ),
    Bug(
        "validation runs with dropout",
        "pretrain/engine.py",
        "        self._engine.eval()\n        if self._summed_loss",
        "        if self._summed_loss",
        _tests("pretrain/test_engine.py", "the_validation_loss_is_the_models_own_sum_without_dropout"),
    ),
)
STATE = (
    Bug(
        "the number of Adam's steps is not restored",
        "pretrain/engine.py",
        '["step"].fill_(adam_steps)',
        '["step"].fill_(0)',
        _tests("pretrain/test_fragments.py", "a_loaded_engine_goes_on_bit_by_bit"),
    ),
    Bug(
        "loaded weights do not reach the forward pass",
        "pretrain/engine.py",
        "        fragments.publish_weights(self._zero, self.stage)\n",
        "",
        _tests("pretrain/test_fragments.py", "the_forward_pass_reads_the_weights_that_were_loaded"),
    ),
    Bug(
        "the second moment is saved as the first",
        "pretrain/state_file.py",
        "getattr(fragment, kind).to(",
        'getattr(fragment, "exp_avg" if kind == "exp_avg_sq" else kind).to(',
        _tests("pretrain/test_checkpoint.py", "what_was_saved_comes_back_to_the_bit"),
    ),
    Bug(
        "the state is not copied before it is written",
        "pretrain/state_file.py",
        '.to("cpu", copy=True)',
        '.to("cpu")',
        _tests(
            "pretrain/test_checkpoint.py", "what_is_copied_for_saving_does_not_change_while_training_goes_on"
        ),
    ),
    Bug(
        "an overlap of pieces makes up for a hole",
        "pretrain/pieces.py",
        "            if low != start + filled:",
        "            if False:",
        _tests("pretrain/test_checkpoint.py", "two_files_that_hold_the_same_element_are_an_error"),
    ),
    Bug(
        "the state of another run is loaded",
        "pretrain/checkpoint.py",
        'run_id=self._identity["run_id"],\n            config',
        "run_id=None,\n            config",
        _tests("pretrain/test_checkpoint.py", "the_state_of_another_run_is_not_loaded"),
    ),
    Bug(
        "states that a roll-back left behind are loaded",
        "pretrain/stream/detours.py",
        "begin < sequence <= end",
        "begin < sequence < end",
        _tests(
            "pretrain/test_checkpoint.py",
            "states_that_a_detour_leaves_behind_are_moved_aside_and_never_loaded",
        ),
    ),
    Bug(
        "hashes are not checked on load",
        "pretrain/storage/recovery.py",
        "            if found[record.name] != record.sha256:",
        "            if False:",
        _tests(
            "pretrain/storage/test_commit.py",
            "a_damaged_checkpoint_is_moved_aside_and_the_one_before_is_taken",
        ),
    ),
    Bug(
        "the guard is not asked before a commit",
        "pretrain/storage/commit.py",
        "        guard()\n",
        "",
        _tests("pretrain/storage/test_commit.py", "the_guard_speaks_last_before_a_checkpoint_counts"),
    ),
    Bug(
        "a second trainer gets the lease",
        "pretrain/storage/lease.py",
        "LOCK_EX | fcntl.LOCK_NB",
        "LOCK_SH | fcntl.LOCK_NB",
        _tests("pretrain/storage/test_lease.py", "of_simultaneous_starts_exactly_one_wins"),
    ),
)
STREAM = (
    Bug(
        "every rank reads the first rank's share",
        "pretrain/stream/data.py",
        "        first += self._rank * share",
        "        first += 0 * share",
        _tests("pretrain/stream/test_data.py", "a_batch_is_the_same_on_any_number_of_ranks"),
    ),
    Bug(
        "the first token of each row but the first is left out",
        "pretrain/stream/sequences.py",
        "np.arange(rows) * self._tokens",
        "np.arange(rows) * self._tokens + (np.arange(rows) > 0)",
        _tests(
            "pretrain/stream/test_data.py", "the_last_target_of_a_sequence_is_the_first_token_of_the_next"
        ),
    ),
    Bug(
        "a damaged block is trained on",
        "data_prep/shards.py",
        "    if block_digest(content) != digest:",
        "    if False:",
        _tests(
            "pretrain/stream/test_data.py",
            "a_damaged_block_ends_the_run_in_its_own_thread_and_names_shard_and_member",
        ),
    ),
    Bug(
        "a damaged table of digests vouches for its blocks",
        "data_prep/shards.py",
        "    if digest_of_table(content) != shard.digests:",
        "    if False:",
        _tests("data_prep/test_shards.py", "a_damaged_table_of_digests_is_named_with_its_offset"),
    ),
    Bug(
        "a shard's last block is taken for a full one",
        "data_prep/shards.py",
        "min(self.block_tokens, self.tokens - before)",
        "self.block_tokens",
        _tests("data_prep/test_shards.py", "where_blocks_lie_follows_from_their_number"),
    ),
    Bug(
        "every epoch is dealt alike",
        "pretrain/stream/order.py",
        "self.seed, epoch)\n        cards",
        "self.seed, 0)\n        cards",
        _tests("pretrain/stream/test_order.py", "epochs_and_seeds_differ_in_blocks_and_in_rows"),
    ),
    Bug(
        "each epoch's deal begins at the first lane",
        "pretrain/stream/order.py",
        "        begin = epoch * self.blocks % self.lanes",
        "        begin = 0 * self.blocks % self.lanes",
        # In the test of all rows this one never ends.
        _tests("pretrain/stream/test_order.py", "the_order_is_the_one_that_runs_in_flight_were_begun_with"),
    ),
    Bug(
        "a detour begins a sequence late",
        "pretrain/stream/detours.py",
        "        if begin <= sequence < end:",
        "        if begin < sequence < end:",
        _tests(
            "pretrain/stream/test_detours.py", "one_lands_on_the_first_sequence_that_no_detour_passes_over"
        ),
    ),
    Bug(
        "the ledger's account takes no notice of gaps",
        "pretrain/stream/ledger.py",
        "        lost += max(0, entry.first - due)",
        "        lost += 0",
        _tests("pretrain/stream/test_ledger.py", "a_step_that_was_passed_over_is_lost"),
    ),
    Bug(
        "validation weighs the last micro-batch like the others",
        "pretrain/validation.py",
        "        return total / self.tokens\n",
        "        return total / (self._tokens * self._micro * math.ceil(self.count / self._micro))\n",
        _tests("pretrain/test_validation.py", "every_token_weighs_the_same_whatever_the_micro_batch"),
    ),
)
STORY = (
    Bug(
        "a stop leaves without a checkpoint",
        "pretrain/loop.py",
        "    _end_saving(run)\n    run.stop.reason",
        "    run.stop.reason",
        _tests(
            "pretrain/test_loop.py",
            "a_wish_to_stop_is_granted_one_step_later_saved_and_answered_with_a_requeue",
        ),
    ),
    Bug(
        "the rate is that of the next step",
        "pretrain/loop.py",
        "learning_rate(sizes.in_full(run.progress.step), ",
        "learning_rate(sizes.in_full(run.progress.step + 1), ",
        _tests("pretrain/test_loop.py", "a_run_reports_validates_and_saves_when_due_and_at_its_last_step"),
    ),
    Bug(
        "a disk that refuses for ever is forgiven for ever",
        "pretrain/loop.py",
        "        if run.checkpoints.failures >= _MOST_FAILED_SAVES:\n            raise\n",
        "",
        _tests("pretrain/test_loop.py", "a_disk_that_refuses_three_times_in_a_row_ends_the_run"),
    ),
    Bug(
        "a roll-back reads the data of the spike again",
        "pretrain/loop.py",
        "run.batches_from(found.sequences, run.roll_back.detours)",
        "run.batches_from(found.sequences, ())",
        _tests("pretrain/test_loop_spikes.py", "a_spike_that_comes_again_leads_back_to_the_same_state"),
    ),
    Bug(
        "a roll-back goes to a state of the spike itself",
        "pretrain/roll_back.py",
        "newest_position(self._spike_since)",
        "newest_position(progress.sequences - 1)",
        _tests("pretrain/test_loop_spikes.py", "a_state_of_the_spike_itself_is_not_gone_back_to"),
    ),
    Bug(
        "skipped steps are counted over the whole run",
        "pretrain/health.py",
        "self._skipped_in_a_row + 1 if skipped else 0",
        "self._skipped_in_a_row + skipped",
        _tests("pretrain/test_health.py", "skipped_steps_end_the_run_only_if_they_follow_each_other"),
    ),
    Bug(
        "the ranks compare only the low half of a tensor",
        "pretrain/health.py",
        "    return int(flat.view(",
        "    flat = flat[: len(flat) // 2]\n    return int(flat.view(",
        _tests("pretrain/test_health.py", "any_flipped_bit_changes_a_fingerprint"),
    ),
    Bug(
        "a vote is answered at once, by this rank alone",
        "pretrain/distributed.py",
        "        answers = self.settle()\n",
        "        answers = self.settle() and votes\n",
        _tests("pretrain/test_distributed.py", "the_answer_to_a_vote_is_that_of_the_step_before"),
    ),
    Bug(
        "a hang is no reason to end",
        "pretrain/guard/watchdog.py",
        "        certain = overdue is not None and overdue == self._suspect",
        "        certain = False",
        _tests(
            "pretrain/guard/test_watchdog.py", "a_child_that_says_nothing_is_ended_and_its_stacks_are_kept"
        ),
    ),
    Bug(
        "a second signal is swallowed",
        "pretrain/guard/watchdog.py",
        "        return is_impatient(number, now - self._asked_at)",
        "        return False",
        _tests("pretrain/guard/test_watchdog.py", "the_first_signal_is_a_wish_and_a_later_ctrl_c_the_end"),
    ),
    Bug(
        "the second identical crash counts as the third",
        "pretrain/guard/attempts.py",
        "MOST_IDENTICAL = 3",
        "MOST_IDENTICAL = 2",
        _tests("pretrain/guard/test_watchdog.py", "only_the_third_identical_crash_in_a_row_is_a_loop"),
    ),
    Bug(
        "the time limit leaves no room for a save",
        "pretrain/guard/stopping.py",
        "_SAVE_TIMES = 2.0",
        "_SAVE_TIMES = 0.0",
        _tests(
            "pretrain/guard/test_stopping.py", "the_time_limit_asks_early_enough_for_two_saves_and_the_margin"
        ),
    ),
)
DOORS = (
    Bug(
        "a setting that a weight depends on may be changed",
        "pretrain/config.py",
        '    "data.index",\n',
        '    "data",\n',
        _tests("pretrain/test_frozen.py", "what_the_weights_depend_on_is_fixed"),
    ),
    Bug(
        "another data set is taken on resuming",
        "pretrain/frozen.py",
        "        if identity.dataset_fingerprint != dataset_fingerprint:",
        "        if False:",
        _tests("pretrain/test_frozen.py", "the_identity_stays_and_another_data_set_is_refused"),
    ),
    Bug(
        "the user part of an address is shown",
        "pretrain/watching/redaction.py",
        "    text = _USER_IN_URL.sub(REDACTED, text)\n",
        "",
        _tests("pretrain/watching/test_redaction.py", "text_loses_its_secrets_only"),
    ),
    Bug(
        "a torn last line spoils the next attempt",
        "pretrain/watching/metrics_log.py",
        "        _mend_torn_end(self._file)\n",
        "",
        _tests("pretrain/watching/test_metrics_log.py", "a_torn_last_line_does_not_spoil_the_next_attempt"),
    ),
    Bug(
        "a spike raises its own measure",
        "pretrain/watching/spikes.py",
        "        score = self._score(loss)\n        self._recent.append(loss)\n",
        "        self._recent.append(loss)\n        score = self._score(loss)\n",
        _tests("pretrain/watching/test_spikes.py", "the_score_is_the_distance_in_standard_deviations"),
    ),
    Bug(
        "the overlap token of a block is missing",
        "data_prep/packing.py",
        "min(block_tokens, tokens - start) + 1]",
        "min(block_tokens, tokens - start)]",
        _tests("data_prep/test_packing.py", "blocks_hold_every_token_once_and_the_first_of_the_next"),
    ),
    Bug(
        "validation takes the other side of the hash",
        "data_prep/routing.py",
        "if text.high < int(self.validation_fraction * _WORD):",
        "if text.high >= int((1 - self.validation_fraction) * _WORD) and self.validation_buckets > 1:",
        _tests(
            "data_prep/test_routing.py",
            "a_larger_fraction_only_adds_to_validation",
            "every_hash_has_a_bucket",
        ),
    ),
    Bug(
        "a bomb is unpacked to its end",
        "data_prep/streams.py",
        "_LARGEST_RATIO = 1000",
        "_LARGEST_RATIO = 1000000",
        _tests("data_prep/test_streams.py", "a_bomb_is_refused_before_it_fills_the_memory"),
    ),
)
JOBS = (
    Bug(
        "a cancelled job is requeued",
        "slurm/decision.py",
        '    if facts.job_state != "RUNNING":',
        "    if False:",
        _tests("slurm/test_decision.py", "how_the_ranks_ended_decides"),
    ),
    Bug(
        "starts that were lost with their node count as crashes",
        "slurm/decision.py",
        "        count += outcome.is_crash",
        "        count += 1",
        _tests("slurm/test_decision.py", "only_crashes_in_a_row_at_the_same_checkpoint_count"),
    ),
    Bug(
        "a node is at fault for what the program does",
        "slurm/decision.py",
        "    return exit_code > 128 or",
        "    return exit_code > 0 or",
        _tests("slurm/test_decision.py", "a_node_is_at_fault_only_for_what_hardware_does"),
    ),
    Bug(
        "a run that has ended early is started again",
        "slurm/standing.py",
        " or ended_early(run_dir, raw)",
        "",
        _tests(
            "slurm/test_standing.py",
            "a_run_is_done_at_its_last_step_or_when_its_patience_is_at_an_end",
        ),
    ),
    Bug(
        "another job's start replaces a healthy one",
        "slurm/record.py",
        """[line["restart"] for line in lines if line["job"] == job]""",
        """[line["restart"] if line["job"] == job else -1 for line in lines]""",
        _tests("slurm/test_decision.py", "a_start_is_replaced_by_a_later_one_only"),
    ),
    Bug(
        "a job that goes on does not have its run",
        "slurm/record.py",
        '_LAST_WORDS = ("done",',
        '_LAST_WORDS = ("requeue", "done",',
        _tests(
            "slurm/test_decision.py",
            "a_job_has_the_run_until_its_last_word_is_that_it_has_ended_for_good",
        ),
    ),
    Bug(
        "a second job takes the first one's STOP away",
        "slurm/supervisor.py",
        "    _refuse_second(start)\n",
        "    stop.remove_leftover()\n    _refuse_second(start)\n",
        _tests("slurm/test_second_job.py", "a_second_job_of_a_run_is_refused_and_leaves_nothing"),
    ),
    Bug(
        "a signal is being sent, so the job is taken for another's to decide",
        "slurm/scheduler.py",
        '_RUNNING_TOO = {"SIGNALING", "RESIZING"}',
        '_RUNNING_TOO = {"RESIZING"}',
        _tests("slurm/test_decision.py", "a_job_that_is_sent_a_signal_still_runs"),
    ),
    Bug(
        "training does not wait for the shards",
        "slurm/chain.py",
        'after = "afterok:finalize" if after_data else None',
        'after = "afterok:finalize" if request.tasks else None',
        _tests("slurm/test_submission.py", "the_jobs_of_a_chain_wait_for_one_another"),
    ),
    Bug(
        "a killed rank is taken for one that left by itself",
        "slurm/launch.py",
        "128 + _TASK_SIGNALS.get(name, 0)",
        "_TASK_SIGNALS.get(name, 0)",
        _tests("slurm/test_decision.py", "srun_tells_who_ended_how"),
    ),
    Bug(
        "nothing is asked of the default partition",
        "slurm/preflight.py",
        "        wanted = job.partition or default",
        "        wanted = job.partition",
        _tests("slurm/test_partitions.py", "a_job_is_held_against_the_partition_that_it_will_get"),
    ),
    Bug(
        "a quote within a path ends it",
        "conf/quoting.py",
        "QuotedString(str(value), Quote.single).with_quotes()",
        "f\"'{value}'\"",
        _tests("conf/test_quoting.py", "what_is_quoted_is_what_every_command_reads"),
    ),
)
BUGS = (*TRAINING, *STATE, *STREAM, *STORY, *DOORS, *JOBS)
