"""One training loop for every method: step, report, evaluate, checkpoint, resume."""

import time
from collections import defaultdict
from contextlib import ExitStack
from typing import Any, NoReturn

import torch
from torch import Tensor

from vistill.batch import Losses
from vistill.config.optim import OptimConfig
from vistill.config.schema import TrainConfig
from vistill.errors import Failure, UserError
from vistill.methods.base import Method
from vistill.random import step_seed
from vistill.stopping import Interrupted, StopSignals
from vistill.training.checkpoint import load_newest, save_checkpoint
from vistill.training.distributed import World, agree, connect, missed
from vistill.training.epoch_end import EpochEnd, Evaluate, Export
from vistill.training.errors import TrainingError
from vistill.training.feed import Feed, copier
from vistill.training.learner import Learner
from vistill.training.loggers import Logger, open_loggers
from vistill.training.measure import RankReport, Sums, merge_totals, peak_memory_gb
from vistill.training.non_finite import refuse_non_finite
from vistill.training.optim import Group, peak_lr
from vistill.training.outlook import in_short, next_end, outlooks
from vistill.training.progress import Meter, opening_lines, status
from vistill.training.ranks import ranks_of
from vistill.training.run_folder import RunFolder
from vistill.training.schedule import decay_at, rate_at
from vistill.training.state import FitResult, State, Stream

_NO_MORE = (Failure, Interrupted, UserError)
"""What ends the supply of samples: a fault of reading, a signal, too many that are broken."""
_PATIENCE = 20.0
"""Seconds that a rank waits for samples after a signal: the others may have theirs, and then all
stop together."""


def fit(
    method: Method,
    stream: Stream,
    *,
    optim: OptimConfig,
    train: TrainConfig,
    seed: int,
    run: RunFolder | None = None,
    groups: list[Group] | None = None,
    on_evaluate: Evaluate | None = None,
    on_export: Export | None = None,
    progress: bool = True,
    log_seconds: float = 1.0,
) -> FitResult:
    """Train `method` on `stream`, from the newest checkpoint of `run` where there is one.

    Args:
        method: what learns; parameters that get no gradient are left alone.
        stream: micro-batches of this rank, a function of the step.
        optim: AdamW, schedule and clipping.
        train: length, batch, precision, hardware and cadences.
        seed: everything random in a step derives from it, the step and the rank.
        run: where metrics and checkpoints go; None keeps neither.
        groups: parameter groups with optional `lr_scale`; default: those of pre-training.
        on_evaluate: called on rank 0 with the finished epoch, every `train.evaluate_every` epochs
            and after the last; its numbers are logged, `held_out_loss` or `knn` decides the best.
        on_export: called on rank 0 after an evaluation with each student's name (empty where there
            is one) and `last`, and with `best` where it improved.
        progress: whether to show anything.
        log_seconds: seconds between reports; 0 reports every step.

    Raises:
        UserError: a setting does not fit the method or the machine.
        TrainingError: loss or gradient became infinite or NaN, a checkpoint cannot be written, or
            samples cannot be read any more.
        Interrupted: SIGTERM, SIGHUP or SIGINT; the run was saved and can be resumed.
    """
    world = connect(train.device)
    method.to_device(world.device)
    agree(method)
    again = "the same command continues from the last checkpoint, on as many ranks as there are"
    with missed(world, again), ExitStack() as cleanup:
        saved = None
        if run is not None:
            folder = run.checkpoints
            saved = world.once(lambda: load_newest(folder))
        state = State() if saved is None else State.of(saved["state"])
        if saved is not None:
            stream.broken.load(saved["broken"])
        stopping = StopSignals(0.0 if world.size == 1 else _PATIENCE)
        if run is not None:
            cleanup.enter_context(stopping)

        steps = stream.steps_per_epoch * train.epochs
        cleanup.callback(stream.close)
        # A finished run gets one batch too: which parameters learn has to be known either way.
        feed = Feed(stream.iterate(min(state.step, steps - 1), steps), copier(world.device))
        cleanup.callback(feed.close)
        learner = Learner(
            method,
            stream.kinds() or [feed.peek()],
            optim=optim,
            train=train,
            groups=groups,
            world=world,
            cleanup=cleanup,
        )
        if saved is not None:
            learner.load(saved)
        display = Meter(state.step, steps, "step", shown=progress and world.main)
        cleanup.callback(display.close)
        for line in opening_lines(learner.frozen, state.step, steps):
            display.say(line)
        loop = _Loop(learner, stream, feed, state, world, optim, train, seed, run)
        students = tuple(method.exports)
        loop.epoch_end = EpochEnd(on_evaluate, on_export, display.say, students, train)
        loop.stopping, loop.display, loop.log_seconds = stopping, display, log_seconds
        if run is not None and world.main:
            loop.loggers = open_loggers(run, train.loggers, state.step)
        for logger in loop.loggers:
            cleanup.callback(logger.close)
        return loop.run_to_the_end()


class _Loop:
    epoch_end: EpochEnd
    stopping: StopSignals
    display: Meter
    log_seconds: float

    def __init__(
        self,
        learner: Learner,
        stream: Stream,
        feed: Feed,
        state: State,
        world: World,
        optim: OptimConfig,
        train: TrainConfig,
        seed: int,
        run: RunFolder | None,
    ) -> None:
        self.learner, self.stream, self.feed, self.state = learner, stream, feed, state
        self.world, self.optim, self.train, self.seed, self.run = world, optim, train, seed, run
        self.loggers: list[Logger] = []
        self.per_epoch = stream.steps_per_epoch
        self.steps = self.per_epoch * train.epochs
        self.peak_lr = peak_lr(optim, train.global_batch_size)
        self.sums = Sums(world.device)
        self.recent_ids: dict[int, list[Tensor]] = defaultdict(list)
        self.images, self.busy_seconds = 0, 0.0
        self.clock = self.saved_at = time.monotonic()

    def run_to_the_end(self) -> FitResult:
        """Step until the last epoch is done and dealt with."""
        self.learner.method.train()
        if self._epoch_pending():
            self._log(self.state.unlogged | self._end_epoch())
            self._save()
        self._look_ahead()
        self._open_window(1)
        self.first_step, self.started = self.state.step, time.monotonic()
        while not self._ended():
            self._one_step()
            self.state.step += 1
            boundary = self.state.step % self.per_epoch == 0
            cadence = self.train.checkpoint_steps
            timely = cadence is not None and self.state.step % cadence == 0
            alone = self.world.size == 1 and self.stopping.received is not None
            if boundary or timely or alone or self.state.step >= self.report_at:
                self._report(save=timely or (boundary and self._epoch_pending()))
        self._tick()
        return FitResult(
            steps=self.state.step,
            epochs=self.state.step // self.per_epoch,
            terms=self.state.terms,
            bests=self.state.best,
            doubts=self.state.doubts,
            curves=self.state.curves,
            seconds=self.state.seconds,
            images_per_second=self.images / self.busy_seconds if self.images else 0.0,
        )

    def _ended(self) -> bool:
        flat = self.state.flat and self.train.stop_when == "flat"
        return flat or self.state.step >= self.steps

    def _look_ahead(self) -> None:
        then = next_end(self.state.evaluated, self.train.epochs)
        self.coming = in_short(outlooks(self.state.curves, then))

    def _epoch_at(self, step: int) -> float:
        epoch, rest = divmod(step, self.per_epoch)
        return epoch + rest / self.per_epoch

    def _one_step(self) -> None:
        step, accumulation = self.state.step, self.stream.accumulation
        self.learner.method.reached(step / self.steps)
        found: list[Losses] = []
        for index in range(accumulation):
            torch.manual_seed(step_seed(self.seed, step, self.world.rank, index))
            try:
                batch = self.feed.take()
            except _NO_MORE as cause:
                self._stop_early(cause, begun=index > 0)
            if index == 0 and accumulation > 1 and self.world.size == 1:
                self.learner.mark()
            self.recent_ids[step].append(batch.ids)
            try:
                found.append(
                    self.learner.accumulate(batch, accumulation, last=index == accumulation - 1)
                )
                if index < accumulation - 1:
                    self.feed.fetch()
            except torch.OutOfMemoryError as error:
                raise TrainingError(
                    f"out of GPU memory at step {step + 1} with {len(batch)} samples at a time; "
                    "lower train.micro_batch_size or set train.activation_checkpointing=true"
                ) from error
        for losses in found:
            self.sums.check(losses.total, step)
            self.sums.add("loss", losses.total)
            for name, term in losses.terms.items():
                self.sums.add(f"loss/{name}", term)
            for name, value in losses.watched.items():
                self.sums.add(name, value)
        self.lr = self._rate(1.0)
        self.weight_decay = decay_at(self.optim, self._epoch_at(step), self.train.epochs)
        if self.weight_decay is not None:
            self.learner.decay(self.weight_decay)
        norm = self.learner.update(self._rate)
        self.feed.fetch()  # while the device computes what it was told
        if not self.learner.scaled:
            # fp16's scaler skips steps with infinite gradients; they are no fault there.
            self.sums.check(norm, step)
        self.sums.add("grad_norm", torch.nan_to_num(norm, posinf=0.0))

    def _rate(self, peak_scale: float) -> float:
        """The learning rate of this step, where a student has another peak."""
        return rate_at(
            self.optim,
            self._epoch_at(self.state.step),
            peak=self.peak_lr * peak_scale,
            epochs=self.train.epochs,
            steps_per_epoch=self.per_epoch,
        )

    # ---- what happens about once a second, on all ranks together

    def _open_window(self, steps: int) -> None:
        self.window_clock, self.window_step = time.monotonic(), self.state.step
        self.feed.waited = 0.0
        self.report_at = self.state.step + steps

    def _report(self, *, save: bool) -> None:
        """Look at the sums; then show, log, evaluate, save and stop as is due."""
        sums, bad_step = self.sums.take()
        seconds = max(time.monotonic() - self.window_clock, 1e-9)
        done = self.state.step - self.window_step
        overdue = time.monotonic() - self.saved_at >= 60 * self.train.checkpoint_minutes
        ranks = self.world.gather(
            RankReport(
                sums=sums,
                bad_step=bad_step,
                signal=self.stopping.received,
                save=save or overdue,
                data_wait=self.feed.waited / seconds,
                memory_gb=peak_memory_gb(self.world.device),
                next_report=min(4 * done, max(1, int(self.log_seconds * done / seconds))),
            )
        )
        self._check([rank.bad_step for rank in ranks])
        images = done * self.train.global_batch_size
        self.images, self.busy_seconds = self.images + images, self.busy_seconds + seconds
        values = self._means(ranks) | {
            "epoch": self._epoch_at(self.state.step),
            "lr": self.lr,
            **({} if self.weight_decay is None else {"weight_decay": self.weight_decay}),
            "images_per_second": images / seconds,
            "data_wait": min(1.0, max(rank.data_wait for rank in ranks)),
            "memory_gb": max(rank.memory_gb for rank in ranks),
        }
        if self.window_step == 0 and not self.learner.method.targets_change:
            keys = {
                name: f"loss/{name}" if name else "loss" for name in self.learner.method.exports
            }
            self.state.first = {name: values[key] for name, key in keys.items() if key in values}
        self._show(values)
        stop = next((rank.signal for rank in ranks if rank.signal is not None), None)
        if self.state.step % self.per_epoch == 0:
            self.state.close_epoch()
        if not self._epoch_pending():
            self._log(values)
        elif stop is not None:
            self.state.unlogged = values
        else:
            try:
                values |= self._end_epoch()
            except _NO_MORE as cause:
                self.state.unlogged = values
                self._stop(cause)
            self._log(values)
        if stop is not None or ranks[0].save:
            self._save()
        if stop is not None:
            raise Interrupted(self._farewell(), stop)
        self._open_window(ranks[0].next_report)

    def _means(self, ranks: list[RankReport]) -> dict[str, float]:
        """Mean of every sum over micro-batches and ranks."""
        merged = merge_totals([rank.sums for rank in ranks])
        self.state.add_losses(merged)
        return {name: total / count for name, (total, count) in merged.items()}

    def _show(self, values: dict[str, float]) -> None:
        # Evaluations and checkpoints so far count in, as they will come again.
        done, left = self.state.step - self.first_step, self.steps - self.state.step
        eta = left * (time.monotonic() - self.started) / done
        broken = self.stream.broken
        unit = "img" if broken.noun == "picture" else f"{broken.noun}s"
        text = status(values, eta, broken.summary(), unit, self.coming)
        epoch = (self.state.step - 1) // self.per_epoch + 1
        self.display.update(self.state.step, text, f"epoch {epoch}/{self.train.epochs}")

    def _log(self, values: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log(self.state.step, values)

    def _check(self, bad_steps: list[int]) -> None:
        bad = [step for step in bad_steps if step >= 0]
        if bad:
            self._fail(min(bad))
        self.recent_ids.clear()
        if self.learner.overflowing:
            raise TrainingError(
                f"fp16 gradients overflow at every step up to step {self.state.step}; "
                "use train.precision=bf16 or a lower learning rate"
            )

    def _fail(self, step: int) -> NoReturn:
        ranks = self.world.gather([ids.tolist() for ids in self.recent_ids[step]])
        ids = [sample for micro_batches in ranks for batch in micro_batches for sample in batch]
        refuse_non_finite(step, ids, None if self.run is None else self.run.path, self.world)

    # ---- ends of epochs, checkpoints

    def _epoch_pending(self) -> bool:
        epoch, rest = divmod(self.state.step, self.per_epoch)
        due = epoch % self.train.evaluate_every == 0 or epoch == self.train.epochs
        return rest == 0 and due and epoch > self.state.evaluated

    def _end_epoch(self) -> dict[str, float]:
        """Evaluate and export; the numbers of the evaluation."""
        epoch = self.state.step // self.per_epoch
        # Rank 0 alone evaluates: it must not wait for rows of others.
        with self.learner.strategy.unwrapped(), ranks_of(self.learner.method, None):
            values, self.state = self.world.once(lambda: self.epoch_end(epoch, self.state))
        self.learner.method.train()
        self._look_ahead()
        return values

    def _tick(self) -> None:
        now = time.monotonic()
        self.state.seconds += now - self.clock
        self.clock = now

    def _save(self) -> None:
        if self.run is None:
            return
        self._tick()
        broken: dict[str, str] = {}
        for names in self.world.gather(self.stream.broken.state()):
            broken |= names
        checkpoint: dict[str, Any] = {"state": self.state.plain(), "broken": broken}
        if ranks := self.learner.rank_states():
            checkpoint["ranks"] = ranks
        if self.world.main or self.learner.strategy.collective:
            checkpoint |= self.learner.state()
        folder = self.run.checkpoints
        self.world.once(lambda: save_checkpoint(folder, self.state.step, checkpoint))
        self.saved_at = time.monotonic()

    def _stop_early(self, cause: Exception, *, begun: bool) -> NoReturn:
        """Stop for want of a batch, in the middle of a step where that is `begun`."""
        if self.world.size == 1:
            if begun:
                self.learner.rewind()
            if self.state.step > self.window_step:
                self._report(save=False)
        self._stop(cause)

    def _stop(self, cause: Exception) -> NoReturn:
        """Save, and say why there is no going on. Of several ranks the others wait elsewhere, so
        that nothing can be saved."""
        alone = self.world.size == 1
        if alone and self.state.step:
            self._save()
        text = f"{cause}; {self._farewell(saved=alone)}"
        if isinstance(cause, Interrupted):
            raise Interrupted(text, cause.signum) from cause
        raise (UserError if isinstance(cause, UserError) else TrainingError)(text) from cause

    def _farewell(self, *, saved: bool = True) -> str:
        place = f"stopped after step {self.state.step} of {self.steps}"
        if self.run is None:
            return place
        if not self.state.step:
            return f"{place}; the same command starts again"
        kept = "saved" if saved else "the last checkpoint is"
        return f"{place}; {kept} in {self.run.path}, and the same command continues from there"
