"""The tasks: name, scorer, sizes after cleaning, and the licence of the data.

Licences are as the data's publishers state them and were not checked by a lawyer;
`docs/tasks.md` has the table with sources. The data is prepared on the user's machine
and is no part of this project.
"""

from jax_switchgen.tasks.record import Scorer, Task

_CITATION_INTENTS = (
    *("Background", "Uses", "CompareOrContrast", "Motivation", "Extends"),
    "FutureWork",
)
_MIXED = "several; MIT collection of exam questions whose rights are unclear"

CORE = (
    Task("agieval", Scorer.CHOICE, 1152, 1156, _MIXED),
    Task("arc_challenge", Scorer.CHOICE, 297, 1172, "CC BY-SA 4.0"),
    Task("mmlu_redux", Scorer.CHOICE, 991, 1000, "CC BY 4.0"),
    Task("bbh", Scorer.PUZZLE, 1000, 1000, "MIT"),
    Task("gsm8k", Scorer.INTEGER, 200, 1000, "MIT"),
    Task("math", Scorer.MATH, 949, 951, "MIT, source disputed"),
    Task("wikidyk", Scorer.ALIASES, 1000, 765, "unknown, derived from Wikipedia"),
    Task("sciencemeter", Scorer.CHOICE, 998, 1000, "unknown"),
    Task("popqa", Scorer.ALIASES, 977, 1000, "MIT"),
    Task("blend", Scorer.CHOICE, 1000, 1000, "CC BY-SA 4.0"),
    Task("truthfulqa", Scorer.CHOICE, 200, 617, "Apache-2.0"),
    Task("coconot", Scorer.NONCOMPLIANCE, 1000, 1000, "ODC-BY"),
    Task("alpacaeval", Scorer.REWARD, 2000, 1000, "CC BY-NC 4.0"),
    Task("wildchat", Scorer.REWARD, 990, 994, "ODC-BY"),
    Task("sciriff", Scorer.LABEL, 106, 139, "ODC-BY", _CITATION_INTENTS),
    Task("human_interest", Scorer.REWARD, 400, 400, "unknown"),
    Task("kaleidoscope", Scorer.CHOICE, 1000, 1000, "AI2 ImpACT, gated"),
    Task("infinite_chat_diversity", Scorer.DIVERSITY, 26, 25, "unknown"),
)
EXTRA = (
    Task("gpqa_diamond", Scorer.CHOICE, 99, 99, "CC BY 4.0"),
    Task("medqa", Scorer.CHOICE, 636, 637, "MIT"),
    Task("pubmedqa", Scorer.LABEL, 500, 500, "MIT", ("yes", "no", "maybe")),
    Task("theoremqa", Scorer.THEOREM, 399, 400, "MIT"),
    Task("ifeval", Scorer.INSTRUCTIONS, 250, 250, "Apache-2.0"),
    Task(
        *("benign", Scorer.COMPLIANCE, 2400, 1400, "CC BY-NC 4.0, and unknown"),
        sources=("alpacaeval", "human_interest"),
    ),
)
TASKS = {task.name: task for task in CORE + EXTRA}

# Their authors ask that items are not published in clear, or the texts are offensive
# or personal: reports show scores of these, and no text.
WITHHELD = frozenset({"gpqa_diamond", "wildchat", "coconot"})


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
      ValueError: there is none.
    """
    if name not in TASKS:
        raise ValueError(f"task {name!r} is unknown; there are {', '.join(TASKS)}")
    return TASKS[name]
