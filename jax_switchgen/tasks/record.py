"""What a task is made of: its records, and the score of one answer."""

import dataclasses
import enum


class Scorer(enum.Enum):
    """How an answer is judged; `scoring.score` holds the rules."""

    CHOICE = "choice"  # the letter of one option
    PUZZLE = "puzzle"  # BIG-Bench Hard: by the kind of gold
    INTEGER = "integer"  # GSM8K
    MATH = "math"  # LaTeX, exact rational or symbolic equality
    THEOREM = "theorem"  # TheoremQA: by answer type
    LABEL = "label"  # one of the task's labels
    ALIASES = "aliases"  # any of several names
    NONCOMPLIANCE = "noncompliance"  # CoCoNot: refuse, ask or name the limit
    COMPLIANCE = "compliance"  # benign prompts: anything but a refusal
    INSTRUCTIONS = "instructions"  # IFEval: checkable instructions
    REWARD = "reward"  # a reward model judges
    DIVERSITY = "diversity"  # several answers to one prompt are compared


COMPARED = (Scorer.REWARD, Scorer.DIVERSITY)  # answers have no score of their own


@dataclasses.dataclass(frozen=True)
class Record:
    """One item of a task.

    Attributes:
      id: unique within its task.
      prompt: the user message.
      golds: the accepted answers; one letter for a choice.
      choices: the texts of the options A, B, C, ….
      category: a group that is reported on its own, such as a BBH task.
      details: JSON of what only one scorer reads (answer type, checkable instructions).
    """

    id: str
    prompt: str
    golds: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    category: str = ""
    details: str = ""


@dataclasses.dataclass(frozen=True)
class Task:
    """A row of the catalogue.

    Attributes:
      dev, test: how many records each split has, after cleaning.
      labels: the closed set of answers of `Scorer.LABEL`, as golds spell them.
      licence: of the data, as its publishers state it.
      sources: the published data sets that it joins, each a category; none for a task
        that is published under its own name.
    """

    name: str
    scorer: Scorer
    dev: int
    test: int
    licence: str
    labels: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of one answer.

    Attributes:
      value: from 0 to 1, 0 where no answer could be parsed.
      parsed: whether an answer was found.
      details: further metrics by name, such as token F1 of `Scorer.ALIASES`.
    """

    value: float
    parsed: bool
    details: dict[str, float] = dataclasses.field(default_factory=dict)
