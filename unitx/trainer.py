"""The loop: steps, evaluations, checkpoints, and a run's folder that tells what happened.

runs/flowers/  recipe.yaml  model/ (the best)  checkpoints/step-N/ (the last)  metrics.jsonl  curves.png
               best/TASK/ (of `keep_best: each`)
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from unitx.augment import Augment
from unitx.batches import Step, Steps, Tally, data_loader
from unitx.checkpoint import (
    Progress,
    checkpoints,
    load_progress,
    load_training_state,
    optimizer_state,
    save_checkpoint,
)
from unitx.distributed import gather_objects, on_cpus
from unitx.errors import UnitxError
from unitx.evaluation import gain, score
from unitx.job import Job
from unitx.lora import has_lora, merge_lora
from unitx.model import Model, shipped_models
from unitx.optim import build_optimizers, schedule, set_lr
from unitx.plots import draw_curves
from unitx.precision import DTYPES, choose_precision
from unitx.recipe import save_recipe
from unitx.reporter import Reporter
from unitx.sharding import shard, sharding_of, whole_state
from unitx.source import is_recorded

DEFAULT_MINUTES = 10.0
FULL = ("Errno 27", "Errno 28", "Errno 122", "os error 27", "os error 28", "os error 122")  # file, disk, quota
SMALL = 5_000  # rows below which training from nothing is worth a word


@dataclass
class Run:
    """What a run leaves behind.

    Attributes:
        folder: recipe.yaml, model/, checkpoints/, metrics.jsonl, curves.png.
        model: the best one, by the tasks' headline scores on the held-out rows (`evaluation.gain`).
        metrics: its scores, "task/metric".
        history: the lines of metrics.jsonl.
    """

    folder: Path
    model: Model
    metrics: dict[str, float]
    history: list[dict[str, Any]] = field(repr=False)

    def _repr_html_(self) -> str:
        import base64

        picture = base64.b64encode((self.folder / "curves.png").read_bytes()).decode()
        rows = "".join(f"<tr><td>{name}</td><td>{value:.4g}</td></tr>" for name, value in self.metrics.items())
        return f'<p>{self.folder}</p><table>{rows}</table><img src="data:image/png;base64,{picture}" width="640">'


class Trainer:
    """One run. Its state is the model, the optimizers and a `Progress`; the data follow from the step's number."""

    def __init__(self, job: Job, folder: Path, echo: bool, checkpoint: Path | None = None):
        from accelerate import Accelerator

        self.job, self.recipe, self.folder = job, job.recipe, folder
        recipe = job.recipe
        self.accelerator = Accelerator(
            cpu=on_cpus(), mixed_precision="no", log_with=recipe.tracker, project_dir=str(folder)
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.main = self.accelerator.is_main_process
        processes = self.accelerator.num_processes
        least = processes * recipe.accumulate  # with fewer micro-batches a process would leave the others waiting
        if processes > 1 and sum(feed.rows for feed in job.feeds) < least:
            for feed in job.feeds:
                feed.rows = max(feed.rows, least)
        self.model = job.model
        self.progress = Progress()
        if checkpoint:
            self.progress = load_progress(checkpoint)
            self.model.load_weights(checkpoint)
            self._rewind()
        self.reporter = Reporter(echo and self.main)
        self._choose_precision()
        self.steps = self._length()
        sharding = sharding_of(self.accelerator)
        self.spare = deepcopy(self.model) if sharding else None
        if sharding:
            shard(self.model, self.accelerator, sharding)
            job.notes.append(f"{processes} processes share the weights, their gradients and the optimizers' states")
        self.optimizers = build_optimizers(
            self.model, recipe.optimizer, job.resolved["lr"], recipe.weight_decay, recipe.layer_decay,
            DTYPES[job.resolved["precision"]], job.new,
        )  # fmt: skip
        self.wrapped = self.model if sharding else self.accelerator.prepare(self.model)
        if checkpoint:
            load_training_state(checkpoint, self.model, self.optimizers)
        self.clock = torch.tensor(self.done).share_memory_()  # for the loader's workers
        self.tally, self.judged = Tally(), Tally()  # of the items trained on, and of those scored last
        self.left_out = 0  # steps that some process had no readable rows for
        self.asked = self.stop = False  # this process's wish, and what all processes have agreed on

    def _choose_precision(self) -> None:
        resolved = self.job.resolved
        if "precision" not in resolved:
            from accelerate.utils import broadcast_object_list

            dim = self.model.backbone.config.dim
            chosen = list(choose_precision(self.recipe.precision, self.accelerator.device, dim))
            # Each process has timed products of its own; all must agree on one format.
            resolved["precision"], resolved["precision_why"] = broadcast_object_list(chosen)
        self.model.compute_dtype = DTYPES[resolved["precision"]]

    def _length(self) -> int | None:
        """The run's number of steps; None where the clock decides."""
        recipe = self.recipe
        if recipe.steps is not None:
            return recipe.steps
        if recipe.epochs is not None:
            return math.ceil(recipe.epochs * max(len(f.source) / f.rows for f in self.job.feeds))
        return None

    @property
    def done(self) -> float:
        """The share of the run that is over, in [0, 1]."""
        if self.steps is not None:
            return min(1.0, self.progress.step / self.steps)
        return min(1.0, self.progress.seconds / (60 * (self.recipe.minutes or DEFAULT_MINUTES)))

    def run(self) -> Run:
        recipe, reporter = self.recipe, self.reporter
        self._announce()
        if self.main:
            with self._writing():
                save_recipe(self.folder / "recipe.yaml", recipe, self.job.resolved)
        if recipe.tracker:
            self.accelerator.init_trackers("unitx")
        next_evaluation = self._next_evaluation()
        reporter.start(self.steps, None if self.steps else 60 * (recipe.minutes or DEFAULT_MINUTES), self.progress)
        self.wrapped.train()
        with _on_interrupt(self._ask_to_stop):
            for batches, tally in self._batches():
                started = time.monotonic()
                metrics = self._step(batches)
                self.left_out += not metrics
                self.progress.step += 1
                self._tell_time(time.monotonic() - started + self.waited)
                self._log_step(metrics, tally)
                scored = self.done >= next_evaluation or self.done >= 1
                if scored:
                    self._evaluate()
                    next_evaluation = self._next_evaluation()
                if self.stop or scored or self._checkpoint_due():
                    self._checkpoint()
                if self.stop or self.done >= 1:
                    break
        return self._finish()

    def _batches(self) -> Iterator[Step]:
        """What each step sees from where the run stands; `waited` is the time that the loop stood still."""
        recipe = self.recipe
        steps = Steps(
            self.job.preparer, self.job.feeds,
            progress=self.clock if self.steps is None else self.steps,
            augment=Augment(recipe.augment), seed=recipe.seed, accumulate=recipe.accumulate,
            rank=self.accelerator.process_index, world_size=self.accelerator.num_processes,
        )  # fmt: skip
        order = range(self.progress.step, self.steps if self.steps is not None else 10**9)
        source = iter(data_loader(steps, order, recipe.workers))
        while self.done < 1:
            started = time.monotonic()
            try:
                step = next(source)
            except StopIteration:
                return
            self.waited = time.monotonic() - started
            yield step

    def _step(self, batches: list) -> dict[str, float]:
        """One optimizer step over all micro-batches; returns the step's metrics.

        Each task's sum is divided by its count over all micro-batches and processes: the mean of micro-batch means
        would weigh items by how they happened to be grouped. The loss is the whole step's, the other metrics this
        process's share of it.
        """
        set_lr(self.optimizers, self.job.resolved["lr"] * schedule(self.done, self.recipe.warmup))
        names = [feed.info.name for feed in self.job.feeds]
        held = {name: sum(b.targets[name].count for b in batches if name in b.targets) for name in names}
        counts = self._global_counts(len(batches), held)
        if not counts:
            return {}
        metrics: dict[str, float] = defaultdict(float)
        processes = self.accelerator.num_processes
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            with self.accelerator.no_sync(self.wrapped) if not last else nullcontext():
                loss, found = self.wrapped(batch.to(self.accelerator.device), counts)
                self.accelerator.backward(loss)
            metrics["loss"] += float(loss.detach()) / processes
            for name, value in found.items():
                task = name.split("/")[0]
                metrics[name] += float(value) * batch.targets[task].count / (counts[task] * processes)
        metrics["loss"] = self._of_processes(metrics["loss"]).sum().item()
        if not math.isfinite(metrics["loss"]):
            raise UnitxError(f"the loss is not finite at step {self.progress.step}: train with a lower --lr")
        for p in self.model.parameters():  # what no item of this step has reached is moved as by several processes
            if p.requires_grad and p.grad is None:
                p.grad = torch.zeros_like(p)
        self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.recipe.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return metrics

    def _of_processes(self, *mine: float) -> Tensor:
        """(processes, values), on the host: what each process has found."""
        found: Tensor = self.accelerator.gather(torch.tensor(mine, dtype=torch.float32, device=self.accelerator.device))
        return found.view(-1, len(mine)).cpu()

    def _global_counts(self, micro_batches: int, held: dict[str, int]) -> dict[str, float]:
        """Task → what its sum over this process's micro-batches is divided by, from its count in them.

        Empty where no step can be taken: a process with fewer micro-batches, whose rows could not be read, would leave
        the others waiting for its gradients.
        """
        found = self._of_processes(micro_batches, *held.values())
        if not found[:, 0].all() or len(found[:, 0].unique()) > 1:
            return {}
        # Data-parallel training averages the gradients of its processes; what is wanted is their sum.
        return dict(zip(held, found[:, 1:].mean(0).tolist(), strict=True))

    def _tell_time(self, seconds: float) -> None:
        """Count the seconds of a step, and stop where any process is asked to: all take the same steps at one rate."""
        found = self._of_processes(seconds, self.asked)
        self.progress.seconds += found[:, 0].mean().item()
        self.stop = bool(found[:, 1].any())
        self.clock.fill_(self.done)

    def _log_step(self, metrics: dict[str, float], tally: Tally) -> None:
        self.tally.add(tally)
        self.progress.items += tally.items
        self.reporter.step(self.progress, self.done, metrics, tally)
        if self.progress.step % 10 == 0 or self.done >= 1:
            line = {"step": self.progress.step, "seconds": round(self.progress.seconds, 3)}
            shares = gather_objects(metrics)
            names = sorted(set().union(*shares) - {"loss"})
            loss = {name: value for name, value in metrics.items() if name == "loss"}  # none of a step left out
            self._write(line | loss | {name: sum(share.get(name, 0.0) for share in shares) for name in names})

    def _next_evaluation(self) -> float:
        """The share of the run at which the held-out rows are scored next."""
        count = max(1, self.recipe.evaluations)
        return (math.floor(self.done * count + 1e-9) + 1) / count

    def _evaluate(self) -> None:
        """Score every task on its held-out rows; keep the model when it is the best so far."""
        scores: dict[str, float] = {}
        headlines: dict[str, float] = {}
        losses: dict[str, float] = {}
        self.judged = Tally()
        model = self._whole_model()
        for feed in self.job.held_out:
            head = model.head(feed.info.name)
            found, tally = score(model, self.job.preparer, feed, self.recipe.seed)
            self.judged.add(tally)
            self.tally.skipped += tally.skipped
            scores |= {f"{feed.info.name}/{metric}": value for metric, value in found.items()}
            if head.headline in found:
                headlines[feed.info.name] = found[head.headline] * (-1 if head.lower_is_better else 1)
                loss = found.get("loss", 0.0)
                losses[feed.info.name] = -loss if math.isfinite(loss) else -math.inf
        self.reporter.scores(self.progress, scores)
        self._write({"step": self.progress.step, "held_out": scores})
        if self._is_best(headlines, losses):
            self.progress.best = len(self.progress.evaluated)
            self._keep(model, "model", scores)
        for task in headlines if self.recipe.keep_best == "each" else ():
            if self._is_best_of(task, headlines, losses):
                self._keep(model, f"best/{task}", scores)
        self.progress.evaluated.append(headlines)
        self.progress.losses.append(losses)

    def _is_best(self, headlines: dict[str, float], losses: dict[str, float]) -> bool:
        """Whether an evaluation is better than the best before, by its losses where the headlines are as good: of few
        rows they often are. Without held-out rows the last model is the one to keep."""
        before = self.progress
        if before.best is None:
            return True
        better = gain(headlines, before.evaluated[before.best], [*before.evaluated, headlines])
        return (better or gain(losses, before.losses[before.best], [*before.losses, losses])) >= 0

    def _is_best_of(self, task: str, headlines: dict[str, float], losses: dict[str, float]) -> bool:
        """The same for one task."""
        before = zip(self.progress.evaluated, self.progress.losses, strict=True)
        known = [(scores[task], lost[task]) for scores, lost in before if not math.isnan(scores.get(task, math.nan))]
        return all((headlines[task], losses[task]) >= each for each in known)

    def _whole_model(self) -> Model:
        """The model as it stands, all of it in each process; of a sharded one the copy that was made for this."""
        if self.spare is None:
            return self.model
        self.spare.load_state_dict(whole_state(self.model))
        return self.spare.to(self.accelerator.device)

    def _keep(self, model: Model, folder: str, scores: dict[str, float]) -> None:
        if self.main:
            with self._writing():
                model.save_pretrained(self.folder / folder)
                (self.folder / folder / "scores.json").write_text(json.dumps(scores, indent=2), "utf-8")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Within it the run's folder is written into.

        Raises:
            UnitxError: it cannot be, as on a full disk.
        """
        try:
            yield
        except (OSError, SafetensorError) as error:
            remedy = "make room there, then " if any(sign in str(error) for sign in FULL) else ""
            go_on = f"go on with: unitx train --resume {self.folder}"
            again = go_on if checkpoints(self.folder / "checkpoints") else "train anew"
            raise UnitxError(f"{self.folder} cannot be written into ({error}): {remedy}{again}") from error

    def _checkpoint_due(self) -> bool:
        every = self.recipe.checkpoint_every
        return bool(every and self.progress.step % every == 0)

    def _checkpoint(self) -> None:
        model, states = self._whole_model(), [optimizer_state(self.model, o) for o in self.optimizers]
        if self.main:
            with self._writing():
                save_checkpoint(self.folder / "checkpoints", model, states, self.progress)

    def _write(self, line: dict[str, Any]) -> None:
        if self.main:
            with self._writing(), (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if self.recipe.tracker:
            flat = line.get("held_out", line)
            self.accelerator.log({k: v for k, v in flat.items() if isinstance(v, float)}, step=self.progress.step)

    def _history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, but for a last one that a full disk or a power cut has left half written; none
        where a run was stopped before its first."""
        file = self.folder / "metrics.jsonl"
        whole, _, _ = file.read_bytes().rpartition(b"\n") if file.exists() else (b"", b"", b"")
        return [json.loads(line) for line in whole.splitlines()]

    def _rewind(self) -> None:
        """Take back the lines of steps that come again: those after the checkpoint."""
        if self.main:
            kept = [line for line in self._history() if line["step"] <= self.progress.step]
            beside = self.folder / ".metrics.jsonl"
            with self._writing():
                beside.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in kept), "utf-8")
                beside.replace(self.folder / "metrics.jsonl")

    def _announce(self) -> None:
        job, recipe, say = self.job, self.recipe, self.reporter.say
        for note in job.notes:
            say(note)
        shape = job.model.backbone.config
        say(
            f"{job.resolved['parameters'] / 1e6:.2f} M parameters: width {shape.dim}, depth {shape.depth}, "
            f"{shape.heads} heads; numbers in {job.resolved.get('precision_why', job.resolved['precision'])}"
        )
        if self.progress.step:
            step = f"step {self.progress.step}, {self.done:.0%} of the run"
            say(f"goes on from {step}" if self.done < 1 else f"the run has come to its end with {step}")
        rows = ", ".join(f"{feed.rows} rows of {feed.info.name}, which has {len(feed.source):,}" for feed in job.feeds)
        say(f"a step takes {rows}")
        if self.steps is None and recipe.minutes is None:
            say(f"no length was given: it trains for {DEFAULT_MINUTES:g} minutes (--steps, --epochs or --minutes)")
        given = [feed for feed in job.feeds if is_recorded(feed.source)]
        if long := [feed.info.name for feed in given if feed.rows > len(feed.source)]:
            say(f"a step takes rows of {', '.join(long)} more than once: fewer --batch-tokens make it quicker")
        # A row of a language model may be a book.
        small = [f for f in given if len(f.source) < SMALL and not job.model.head(f.info.name).generates]
        if small and job.resolved.get("recipe") and not self.progress.step:
            start = next(iter(shipped_models()), "runs/demo")  # the demo makes one where none comes along
            say(
                f"{len(small[0].source)} rows are few to learn from nothing; with the same flags from a trained "
                f"backbone: unitx finetune {start} {job.resolved['recipe']} …"
            )

    def _ask_to_stop(self) -> None:
        self.asked = True
        self.reporter.say("stopping after this step (once more to stop at once)")

    def _finish(self) -> Run:
        self.reporter.close()
        for number, tally in enumerate(gather_objects(self.tally)):
            if number != self.accelerator.process_index:
                self.tally.add(tally)
        history, model = self._history(), self._whole_model()
        if self.main:
            with self._writing():
                if not (self.folder / "model").is_dir():
                    model.save_pretrained(self.folder / "model")
                draw_curves(history, self.folder / "curves.png")
                self._report_items()
        if self.recipe.tracker:
            self.accelerator.end_training()
        if self.stop:
            self.reporter.say(f"stopped at step {self.progress.step}; go on with: unitx train --resume {self.folder}")
        self.accelerator.wait_for_everyone()
        best = Model.from_pretrained(self.folder, self.accelerator.device)
        self.accelerator.wait_for_everyone()
        if has_lora(best.backbone) and self.recipe.tune == "lora" and self.main:
            try:
                best.save_adapter(self.folder / "adapter", self.job.resolved["base"])
            except UnitxError as error:  # the whole model is written in any case
                self.reporter.say(f"the adapter was not written: {error}")
        if has_lora(best.backbone) and not best.frozen:
            merge_lora(best.backbone)
            if self.main:
                best.save_pretrained(self.folder / "model")
        scores = self.folder / "model" / "scores.json"
        metrics = json.loads(scores.read_text("utf-8")) if scores.is_file() else {}
        return Run(self.folder, best, metrics, history)

    def _report_items(self) -> None:
        listed = self.folder / "skipped.txt"
        before = listed.read_text("utf-8").splitlines() if listed.is_file() else []  # of a run that goes on
        if distinct := sorted({*self.tally.skipped, *before}):
            listed.write_text("\n".join(distinct) + "\n", "utf-8")
            self.reporter.say(
                f"{len(distinct)} items could not be read and were left out (all in {listed}); the first: {distinct[0]}"
            )
        if self.left_out:
            self.reporter.say(f"{self.left_out} steps were left out: a process had too few rows that can be read")
        for modality, count in sorted(self.tally.shortened.items()):
            share = count / max(self.tally.items, 1)
            self.reporter.say(
                f"{modality}: {count} times ({share:.0%}) an item longer than max_tokens gave a random part"
            )
        for modality, count in sorted(self.judged.shortened.items()):
            which = f"{modality}: {count} held-out items longer than max_tokens"
            self.reporter.say(f"{which} were judged by their beginning")


@contextmanager
def _on_interrupt(callback: Any) -> Iterator[None]:
    """Call back on the first Ctrl-C, so that a step is finished and saved; a second one interrupts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        callback()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
