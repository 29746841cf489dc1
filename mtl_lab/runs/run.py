"""The configuration of a run."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace


@dataclass(frozen=True)
class Run:
    """Everything that decides a run's outcome, in plain values.

    problem, problem_options  for `data.load`; the options hold `profile`.
    tasks        indices of the tasks to train, None for all; one index makes a single-task run.
    model, model_options      for `models.build`.
    method, method_options, convention  for `training.fit`.
    split        trunk layers of which each task gets a copy (Recon); split_init: how the copies start.
    schedule     fields of `training.Schedule`.
    seed         of initialisation, batch order, pairing and the method's random numbers.
    observe      None, or {"thresholds": […], "restrict": […]}: log cosines and layer scores each step (with "quarters":
                 true, of each quarter of the run too); or {"probe":
                 size, "every": n}: inner products on two halves of a probe batch (`runs.gradient_probe`).
    test         read the test split at the end.
    """

    problem: str
    problem_options: Mapping = field(default_factory=dict)
    tasks: Sequence[int] | None = None
    model: str = "resnet18"
    model_options: Mapping = field(default_factory=dict)
    method: str = "equal"
    method_options: Mapping = field(default_factory=dict)
    convention: str = "plain"
    split: Sequence[str] = ()
    split_init: str = "reinitialise"
    schedule: Mapping = field(default_factory=lambda: {"epochs": 1})
    seed: int = 0
    observe: Mapping | None = None
    test: bool = True

    def canonical(self) -> str:
        """One JSON text for one config: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @property
    def identity(self) -> str:
        """The first 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, config: Mapping) -> "Run":
        known = {f.name for f in fields(cls)}
        unknown = set(config) - known
        if unknown:
            raise ValueError(f"a run has no field {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
        return cls(**config)

    def seeds(self, seeds: Iterable[int]) -> list["Run"]:
        """This run with each of the seeds."""
        return [replace(self, seed=seed) for seed in seeds]
