"""Which metrics a dashboard shows, in which order, and how it explains them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """One diagram. Unit "%" shows a fraction in per cent; other units are written beside the title."""

    metric: str
    title: str
    unit: str
    help: str


@dataclass(frozen=True)
class Section:
    """Panels that answer one question together."""

    title: str
    panels: tuple[Panel, ...]


SECTIONS = (
    Section(
        "Quality",
        (
            Panel(
                "train/loss",
                "Training loss",
                "nats/token",
                "Mean cross-entropy per token since the last report.",
            ),
            Panel(
                "val/loss", "Validation loss", "nats/token", "Mean cross-entropy on a fixed set of tokens."
            ),
            Panel(
                "val/loss_behind",
                "Behind the reference",
                "nats/token",
                "Validation loss − the reference's at the same number of tokens; below 0 is ahead.",
            ),
            Panel("val/ppl", "Validation perplexity", "", "exp(validation loss)."),
        ),
    ),
    Section(
        "Optimisation",
        (
            Panel("optim/lr", "Learning rate", "", "What the schedule asked of this step."),
            Panel("optim/grad_norm", "Gradient norm", "", "L2 norm over all parameters, before clipping."),
            Panel(
                "health/loss_z",
                "Loss z-score",
                "σ",
                "How far the loss lies above the mean of the last 128 reports; above 6 it is a spike.",
            ),
        ),
    ),
    Section(
        "Throughput",
        (
            Panel(
                "perf/tokens_per_s",
                "Tokens per second",
                "tokens/s",
                "All GPUs together, since the last report.",
            ),
            Panel(
                "perf/tokens_per_s_per_gpu",
                "Tokens per second and GPU",
                "tokens/s",
                "The same, divided by the GPUs.",
            ),
            Panel(
                "perf/mfu",
                "Model FLOP utilisation",
                "%",
                "(6N + 12·layers·width·context) FLOP per token × tokens/s ÷ the GPU's dense bf16 peak.",
            ),
            Panel(
                "perf/step_s", "Step time", "s", "Mean wall time of one optimizer step since the last report."
            ),
            Panel(
                "perf/data_wait_s",
                "Data wait",
                "s",
                "Time per step spent waiting for the next batch; the slowest rank counts.",
            ),
            Panel(
                "perf/data_wait_frac",
                "Data wait share",
                "%",
                "Data wait ÷ step time; above 10 % the data is too slow.",
            ),
        ),
    ),
    Section(
        "Memory and time",
        (
            Panel(
                "mem/peak_active_gib",
                "Peak memory",
                "GiB",
                "Most GPU memory in use since the last report; largest over ranks.",
            ),
            Panel(
                "time/goodput",
                "Goodput",
                "%",
                "Time in steps that were kept ÷ all time since the first attempt began, queues included.",
            ),
            Panel(
                "time/checkpoint_save_s",
                "Checkpoint time",
                "s",
                "What a save took from training, for copying the state; the slowest rank counts.",
            ),
            Panel(
                "time/eval_s",
                "Evaluation time",
                "s",
                "One pass over the validation tokens; the slowest rank counts.",
            ),
            Panel("time/startup_s", "Start-up time", "s", "From the process's start to its first step."),
            Panel("time/eta_h", "Time to go", "h", "Remaining steps at the present speed."),
        ),
    ),
    Section(
        "Progress",
        (
            Panel(
                "optim/skipped_steps",
                "Skipped steps",
                "",
                "Steps without an update so far, for want of a finite gradient.",
            ),
            Panel("data/epoch", "Epoch", "", "Passes over the training tokens."),
            Panel(
                "progress/chinchilla",
                "Chinchilla ratio",
                "",
                "Tokens ÷ 20 N; at 1 the model has its compute-optimal share.",
            ),
        ),
    ),
)

METRICS = tuple(panel.metric for section in SECTIONS for panel in section.panels)
