"""The options of training, each checked once."""

import dataclasses
import importlib.util

from jax_switchgen.models.quantization import check_quantization

DTYPES = ("float32", "bfloat16")
ATTENTIONS = ("plain", "splash")
TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
VIEWERS = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # and their packages


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How the switcher learns; the `training` section of a config.

    Attributes:
      rollouts: JSONL files of labelled examples.
      output: the folder of the run; `output.py` says what lies in it.
      tasks: whose rollouts are learned from. One is SWITCH-T of the paper; (), all that
        the files have, is SWITCH-G.
      weights: the share of each of `tasks` in every epoch, in any unit; () takes each
        example once.
      learning_rate: its peak, reached after `warmup` and then lowered along a cosine.
      warmup: share of all steps.
      batch_size: examples of one update.
      accumulation: parts that a batch is worked on in, one after the other, so that
        it needs less memory.
      epochs: of the training examples.
      clip_norm: the most that the norm of a gradient may be.
      weight_decay: on matrices.
      lora_rank: of the adapter that is trained; 0 trains all parameters.
      lora_alpha: scales the adapter by alpha / rank.
      lora_targets: linear layers that get an adapter, of `TARGETS`.
      soft_labels: a temperature: the target is softmax(utilities / temperature) over
        the candidates. None: the label alone, as in the paper.
      drop_unclear: leaves out training examples whose label is no more than chance.
      held_out: share of the queries that is only evaluated on.
      eval_every: steps from one evaluation to the next.
      checkpoint_every: steps from one checkpoint to the next.
      keep: newest checkpoints that stay on disk.
      seed: of the adapter and of the order of examples.
      remat: a block's activations are computed again in the backward pass, which
        takes a third more time and a fraction of the memory.
      compute_dtype: of activations and of frozen weights. Trained parameters and the
        optimizer's state are float32.
      attention: "splash" is jax's Pallas kernel, for TPUs and models without sliding
        windows; anywhere else, and with "plain", XLA writes all scores to memory.
      max_length: most tokens of an example; longer ones are left out, for a prompt
        that is cut would not be the one of inference.
      fsdp, tensor: devices over which parameters are split by width, and by heads and
        MLP; all others repeat the model on other examples.
      viewers: programs that get a copy of the metrics, of `VIEWERS`.
    """

    rollouts: tuple[str, ...]
    output: str
    tasks: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    learning_rate: float = 1e-5
    warmup: float = 0.1
    batch_size: int = 32
    accumulation: int = 1
    epochs: int = 5
    clip_norm: float = 1.0
    weight_decay: float = 0.0
    lora_rank: int = 64
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = ("q", "k", "v", "o")
    soft_labels: float | None = None
    drop_unclear: bool = False
    held_out: float = 0.1
    eval_every: int = 50
    checkpoint_every: int = 50
    keep: int = 3
    seed: int = 0
    remat: bool = True
    compute_dtype: str = "bfloat16"
    attention: str = "plain"
    max_length: int = 2048
    fsdp: int = 1
    tensor: int = 1
    viewers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.rollouts or not self.output:
            empty = "output" if self.rollouts else "rollouts"
            raise ValueError(f"training.{empty} is empty; name a path")
        if self.weights and len(self.weights) != len(self.tasks):
            raise ValueError(
                f"training.weights has {len(self.weights)} entries for "
                f"{len(self.tasks)} of training.tasks; give one for each, or none"
            )
        for name in ("weights", "learning_rate", "clip_norm", "lora_alpha"):
            values = getattr(self, name)
            values = values if isinstance(values, tuple) else (values,)
            self._check(name, all(value > 0 for value in values), "above 0")
        for name in ("batch_size", "accumulation", "epochs", "eval_every"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        for name in ("checkpoint_every", "max_length", "fsdp", "tensor"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        for name in ("warmup", "held_out"):
            self._check(name, 0 <= getattr(self, name) < 1, "0 or more, and below 1")
        self._check("weight_decay", self.weight_decay >= 0, "0 or more")
        self._check("lora_rank", self.lora_rank >= 0, "0 (all parameters) or more")
        soft = self.soft_labels
        self._check("soft_labels", soft is None or soft > 0, "above 0, or None")
        # If the newest is damaged, there must be one before it.
        self._check("keep", self.keep >= 2, "2 or more")
        self._check("seed", 0 <= self.seed < 2**32, "in 0 … 2**32 - 1")
        some = ", ".join(TARGETS)
        found = set(self.lora_targets)
        self._check("lora_targets", found and found <= {*TARGETS}, f"some of {some}")
        dtypes = ", ".join(DTYPES)
        self._check("compute_dtype", self.compute_dtype in DTYPES, f"one of {dtypes}")
        some = ", ".join(ATTENTIONS)
        self._check("attention", self.attention in ATTENTIONS, f"one of {some}")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"training.batch_size={self.batch_size} is no multiple of "
                f"training.accumulation={self.accumulation}"
            )
        known = ", ".join(VIEWERS)
        self._check("viewers", {*self.viewers} <= VIEWERS.keys(), f"some of {known}")
        for name in self.viewers:
            # Now, and not when the model is loaded.
            if importlib.util.find_spec(VIEWERS[name]) is None:
                raise ValueError(
                    f"training.viewers={self.viewers!r}: {name} needs a package; "
                    f"pip install {VIEWERS[name]}"
                )

    @property
    def part_size(self) -> int:
        """Examples that are worked on at once."""
        return self.batch_size // self.accumulation

    def _check(self, name: str, holds: object, rule: str) -> None:
        if not holds:
            raise ValueError(f"training.{name}={getattr(self, name)!r} must be {rule}")


def check_base(quantization: str | None, options: TrainingOptions) -> None:
    """Raises ValueError where a switcher's weights are not what can be trained."""
    check_quantization(quantization, "switcher.quantization")
    if quantization and not options.lora_rank:
        raise ValueError(
            f"switcher.quantization={quantization!r} with training.lora_rank=0: "
            "rounded weights cannot be trained; train an adapter over them "
            "(lora_rank=64), or set quantization to None"
        )
