"""A run under way: its cut, its weights, and what moves them on; every cut is one checkpoint."""

from __future__ import annotations

import time
from typing import Any

from actors.tasks import split
from cluster.console import Display
from cluster.cut import Cut, cut_of, other_versions
from cluster.cut_saver import CutSaver, Needs
from cluster.draining import Drained, Draining
from cluster.evaluation import evaluate_stage
from cluster.lineages import open_lineage
from cluster.phase_rounds import PhaseRounds
from cluster.program import Program
from cluster.rounds import make_rounds
from cluster.scores import Scores
from cluster.starting_weights import starting_weights
from cluster.stored_data import go_on_with, note_data
from cluster.versions import check_learners, versions
from common.config import PhaseConfig, flatten
from common.errors import CheckpointError, LearnerLostError
from common.identity import PolicyVersion, weights_sha256
from common.networks.servo_net import initial_weights, restarted_weights
from learner.checkpoint import Arrays
from learner.learners import build_learner


class Run:
    """A run under way: program, cut, weights and, within a phase, its rounds."""

    def __init__(self, program: Program, display: Display, draining: Draining | None = None) -> None:
        self.program, self.config, self.display = program, program.config, display
        self.draining = draining or Draining(program.config.grace_s)
        self.cut = Cut()
        self.weights = initial_weights(self.config.network, self.config.seed)
        self.rounds: PhaseRounds | None = None
        self.saver = CutSaver(program)
        self.scores = Scores(program.checkpoints, program.config.checkpoint.keep_best)
        self._began = time.monotonic()
        self._saved = time.monotonic()

    @property
    def version(self) -> PolicyVersion:
        """Version of the weights that act now."""
        return PolicyVersion(self.cut.lineage, self.cut.counter, weights_sha256(self.weights))

    def restore(self) -> None:
        """Continue from the newest checkpoint, if there is one; say what was found.

        Raises:
            CheckpointError: if checkpoints exist but none can be read, the store or metrics lag behind the cut, or
                there are metrics but no checkpoint.
        """
        for line in self.program.directory.changes:
            self.display.say(f"setting {line} (allowed)")
        found = self.program.checkpoints.latest()
        if found is None:
            if self.program.metrics.position:
                raise CheckpointError(
                    f"dir = {str(self.program.directory.path)!r} has rows in metrics.jsonl, but checkpoints/ holds no "
                    f"complete checkpoint: put them back, or train with another dir; a run does not begin anew over "
                    f"another one"
                )
            # Opened before the first cut, which then names the MLflow run that every resume continues.
            self.program.tracker_run_id = self.program.tracker.run_id
            if start := starting_weights(self.config):
                self.weights, self.cut.init_from = start.weights, start.facts
            if self.program.data is not None:
                self.cut.data = note_data(self.program.data)
            self.save(pin=True)
            self._note_start()
            return
        self._go_on_from(*found)

    def _go_on_from(self, number: int, arrays: Arrays, state: dict[str, Any], complaints: list[str]) -> None:
        """Be where a checkpoint is."""
        for complaint in complaints:
            self.display.say(f"broken checkpoint: {complaint}")
        self.saver.number = max(number, *self.program.checkpoints.numbers())  # the next one goes behind a broken one
        self.cut = cut_of(state)
        for line in other_versions(self.cut):
            self.display.say(f"warning: {line}")
        self.program.metrics.truncate(self.cut.metrics_bytes)
        self.program.tracker_run_id = self.cut.mlflow_run_id or None
        self.program.store.refresh()
        if self.program.data is not None:
            go_on_with(self.program.data, self.cut.data)
        behind = {w: s for w, s in self.cut.store_position.items() if self.program.store.position().get(w, -1) < s}
        if behind:
            raise CheckpointError(f"the replay store lacks records that checkpoint {number} has seen: {behind}")
        opened = ""
        if not self.config.deterministic:
            opened = open_lineage(self.cut, self.program.store, self.program.directory.run_id)
        self.weights = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
        if self.cut.phase < len(self.config.schedule) and self.cut.learner:
            self._enter_phase()
            assert self.rounds is not None
            learner_arrays = {k.removeprefix("learner/"): v for k, v in arrays.items() if k.startswith("learner/")}
            self.rounds.learner.load_state(learner_arrays, self.cut.learner)
            for line in self.rounds.load_cursors(self.cut.sampler):
                self.display.say(line)
            self.weights = self.rounds.learner.get_weights()
        self.display.say(f"resuming from checkpoint {number}: {self.where()}")
        if opened:
            self.display.say(opened)
            # Before anybody acts in it: two starts from one cut must not open the same lineage.
            self.save()
        self._note_start()

    def where(self) -> str:
        """The cut in words."""
        if self.cut.phase >= len(self.config.schedule):
            return "training is over"
        name = self.config.schedule[self.cut.phase]
        return f"phase {name}, round {self.cut.round}, {self.cut.samples} samples, {self.cut.wall_s:.0f} s trained"

    def save(self, *, pin: bool = False, wait: bool = True) -> None:
        """Write the cut: counters, cursors and learner belong to the same moment; it names what is under way.

        Args:
            pin: keep this checkpoint for good.
            wait: until it is on the disk; otherwise a thread writes it while the run goes on.

        Raises:
            CheckpointError: if this or the one before cannot be written; see `checkpoint.on_error`.
        """
        arrays = {f"weights/{k}": v for k, v in self.weights.items()}
        self.cut.learner, self.cut.sampler = {}, {}
        if self.rounds is not None:
            learner_arrays, self.cut.learner = self.rounds.learner.state()
            self.cut.sampler = self.rounds.cursors()
            arrays |= {f"learner/{k}": v for k, v in learner_arrays.items()}
        self._count_wall()
        self.cut.metrics_bytes = self.program.metrics.position
        self.cut.mlflow_run_id = self.program.tracker_run_id or ""
        self.cut.config, self.cut.versions = flatten(self.config), versions()
        phases = self.config.schedule[self.cut.phase : self.cut.phase + 1]
        needs = Needs(self.where(), phases, 0 if self.rounds is None else self.rounds.oldest(self.cut.round))
        self.saver.save(self.cut, arrays, needs, pin_it=pin, score=self.scores.of(self.cut.counter), wait=wait)
        while self.saver.failed:
            self.display.say(f"warning: {self.saver.failed.pop()}; the run goes on, the checkpoint before stands")
        self._saved = time.monotonic()

    def run_phase(self) -> None:
        """Train the current phase to its end and hand its weights on; or, if its learner is lost, be at the last cut
        with a fresh one.

        Raises:
            LearnerLostError: if more learners were lost than `learner.max_restarts`.
        """
        try:
            self._train_phase()
        except LearnerLostError as error:
            self._replace_learner(error)

    def _replace_learner(self, error: LearnerLostError) -> None:
        """Go on from the last cut with a fresh learner and the collectors that are there."""
        began, restarts = time.perf_counter(), self.cut.learner_restarts + 1
        if restarts > self.config.learner.max_restarts:
            limit = f"learner.max_restarts = {self.config.learner.max_restarts}"
            raise LearnerLostError(f"{limit} is used up; last: {error}") from error
        self.display.learner_lost(error)
        rounds, self.rounds = self.rounds, None
        self.scores.forget()
        if rounds is not None:
            rounds.learner.close()
        self.saver.settle()
        self.program.fleet.drain(self.display.tick)
        found = self.program.checkpoints.latest()
        if found is None:
            raise error
        self._go_on_from(*found)
        self.cut.learner_restarts = restarts
        self.display.say(f"learner replaced in {time.perf_counter() - began:.1f} s; replaced so far: {restarts}")

    def _train_phase(self) -> None:
        name = self.config.schedule[self.cut.phase]
        phase = self.config.phases[name]
        if self.rounds is None:
            self._enter_phase()
        rounds = self.rounds
        assert rounds is not None
        self.display.phase(name, rounds.total_rounds, self.cut.round)
        rounds.prepare(self.cut.round, self.weights, self.version)
        while self.cut.round < rounds.total_rounds:
            put = self.program.fleet.broadcast_s
            row = rounds.learn(self.cut.round, self.weights, self.version, self.display.tick)
            self.cut.round += 1
            self.cut.samples += int(row["samples"])
            learned = time.perf_counter()
            self.weights = rounds.learner.get_weights()
            row["broadcast_s"] = self.program.fleet.broadcast_s - put + time.perf_counter() - learned
            # Of what was written since the last row, whose own checkpoint comes after it.
            row["checkpoint_s"], row["checkpoint_wait_s"] = self.saver.take_seconds()
            self.cut.counter += 1
            self.log({"phase": name, "round": self.cut.round, "total_samples": self.cut.samples, **row})
            self.display.round(self.cut.round, row, rounds.cursors().get("pace", {}).get("limiter"))
            self.program.tracker.system(self.display.board.numbers(), self.cut.counter)
            self._quick_evaluation(name, phase)
            if self.cut.round < rounds.total_rounds and (self._due() or self.scores.is_best(self.cut.counter)):
                self.save(wait=False)
            self.end_if_asked()
        self._leave_phase(name, phase)

    def evaluate_baselines(self) -> None:
        """Evaluate the controllers to compare with that the cut has no numbers of."""
        missing = [b for b in self.config.evaluation.baselines if b not in self.cut.stages]
        for baseline in missing:
            self.evaluate(baseline, baseline)
            self.end_if_asked()
        if missing:
            self.save()

    def evaluate(self, stage: str, policy: str) -> None:
        """Evaluate on the whole suite; the metrics become part of the cut."""
        self.display.evaluating(stage, len(self.program.suite.starts))
        weights, version = (self.weights, self.version) if policy == "learned" else (None, None)
        result = evaluate_stage(self.program, stage, policy, weights, version, self.cut.lineage, self.display.tick)
        self.cut.stages[stage] = result
        if policy == "learned":
            self.scores.note(stage, self.cut.counter, result)
        self.log({"phase": stage, "evaluation": {k: v for k, v in result["free"].items() if k != "iou_ci95"}})
        self.display.evaluated(stage, result)

    def log(self, row: dict[str, Any]) -> None:
        """One row into metrics.jsonl and, its numbers, into MLflow."""
        self.program.metrics.append(row)
        numbers = dict(row.get("evaluation", {})) or {k: v for k, v in row.items() if isinstance(v, int | float)}
        prefix = f"evaluation/{row['phase']}" if "evaluation" in row else row["phase"]
        self.program.tracker.metrics({f"{prefix}/{k}": v for k, v in numbers.items()}, self.cut.round)

    def end_if_asked(self) -> None:
        """A safe point: no task is under way, and what is on record belongs to the cut.

        Raises:
            Drained: if the run was asked to end; its checkpoint is on the disk.
            CheckpointError: as `save`.
        """
        if not self.draining.asked_by:
            return
        self.draining.reached()
        # Whatever moves the cut on writes a row.
        if self.cut.metrics_bytes != self.program.metrics.position:
            self.save()
        self.saver.settle()
        raise Drained(self.draining.verdict)

    def close(self) -> None:
        """Let the checkpoint under way reach the disk."""
        self.saver.close()

    def _note_start(self) -> None:
        """The first row says where the weights came from; a run that was killed before it is resumed to it."""
        facts = self.cut.init_from
        if facts and not self.program.metrics.position:
            self.log({"phase": "init_from", **facts})
            self.program.tracker.tags({f"init_from.{name}": str(value) for name, value in facts.items()})
            self.display.say(f"starting with the weights {facts['sha256'][:12]} of {facts['source']}")

    def _enter_phase(self) -> None:
        name = self.config.schedule[self.cut.phase]
        learner = build_learner(self.config, name)
        check_learners(learner)
        if not self.cut.round:
            self.weights = restarted_weights(
                self.config.network, self.config.seed, self.weights, self.config.phases[name].restart
            )
        learner.set_weights(self.weights)
        # A phase may enter with another exploration std than the last one left; what acts must be what learns.
        self.weights = learner.get_weights()
        self.rounds = make_rounds(self.program, name, learner, self.cut.lineage)

    def _leave_phase(self, name: str, phase: PhaseConfig) -> None:
        assert self.rounds is not None
        self.rounds.learner.close()
        self.rounds = None
        self.cut.phase += 1
        self.cut.round = self.cut.samples = 0
        self.cut.pending = name if phase.evaluate else ""
        self.save(pin=True)
        written = self.program.checkpoints.path(self.saver.number)
        if written.exists():
            self.program.tracker.artifact(written, f"checkpoints/{name}")

    def _quick_evaluation(self, name: str, phase: PhaseConfig) -> None:
        settings = self.config.evaluation
        if phase.kind != "imitation" or not settings.every_rounds or self.cut.round % settings.every_rounds:
            return
        stage, scenes = f"{name}_quick", min(settings.quick_scenes, settings.scenes)
        tasks = split(
            "evaluation", scenes, self.config.fleet.shards, phase=stage, lineage=self.cut.lineage,
            round=self.cut.round, policy="learned", version=self.version,
        )  # fmt: skip
        result = evaluate_stage(
            self.program, stage, "learned", self.weights, self.version, self.cut.lineage, self.display.tick, tasks
        )
        self.log({"phase": stage, "evaluation": {k: v for k, v in result["free"].items() if k != "iou_ci95"}})
        self.display.evaluated(stage, result)
        self.scores.note(stage, self.cut.counter, result)

    def _due(self) -> bool:
        return time.monotonic() - self._saved > self.config.checkpoint.every_s

    def _count_wall(self) -> None:
        now = time.monotonic()
        self.cut.wall_s += now - self._began
        self._began = now
