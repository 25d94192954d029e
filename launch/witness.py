"""Hands on the stderr of one process of a job, and says in one line why it ended.

When another process is gone, JAX ends this one from within, with a stack trace of its
own threads. Nothing in the process can change that, so this reads its stderr from
outside: what JAX says last becomes one line, everything else passes as it is.
"""

import os
import re
import signal
import sys

FATAL = re.compile(
    r"^F\d{4} .*because the JAX distributed service detected fatal error"
)
RESUME = (
    "all of them stop; start every one again with the same command, and the job goes "
    "on where it stopped"
)


def explain(text: str, count: int, waited: int) -> str:
    """One line for what JAX says at the end.

    Args:
      count: of the job's processes, as far as it is known, or 0.
      waited: seconds that processes were waited for at the start.
    """
    gone: list[str] = []
    if found := re.search(
        r"stopped sending heartbeats\):\s*\n((?:\S*\d+\s*\n)+)", text
    ):
        gone = re.findall(r"(\d+)\s*\n", found[1])
    elif found := re.search(r"[Tt]ask (\d+) heartbeat timeout", text):
        gone = [found[1]]
    elif "RegisterTask" in text:
        return (
            f"not all processes of the job came within {waited} s; look at their own "
            "last lines, and start them all at about the same time"
        )
    elif "Failed to send RPC to coordination service" in text:
        gone = ["0"]
    if not gone:
        return f"the processes of the job have lost each other; {RESUME}"
    of = f" of {count}" if count else ""
    names = (
        f"process {gone[0]}{of} is"
        if len(gone) == 1
        else (f"processes {', '.join(gone)}{of} are")
    )
    return (
        f"{names} gone (killed, its machine taken back, or an error that its own last "
        f"line tells); {RESUME}"
    )


def main(waited: int) -> None:
    """From stdin to stderr, until the process is gone.

    A line that begins with NUL is for us: how many processes the job has.
    """
    # It outlives the process that it watches, whatever ends that.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    last: list[str] = []
    count = 0
    # Not line by line from a buffer: what is written must be seen at once.
    with os.fdopen(0, "r", errors="replace", newline="") as stream:
        for line in stream:
            if line.startswith("\0"):
                count = int(line[1:])
                continue
            if last or FATAL.match(line):
                last.append(line)
                continue
            sys.stderr.write(line)
            sys.stderr.flush()
    if last:
        if os.environ.get("JAX_SWITCHGEN_TRACEBACK"):
            sys.stderr.writelines(last)
        print(f"error: {explain(''.join(last), count, waited)}", file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]))
