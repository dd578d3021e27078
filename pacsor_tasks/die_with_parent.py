"""Run a program that the kernel ends when this process's parent ends, however it ends.

    python -I -S die_with_parent.py PARENT_PID PROGRAM ARGUMENT…

Run as a file, not imported: the supervisor has threads, so nothing may run between its fork and
its exec. Where the kernel has no such call (not Linux) the program just runs.
Source: prctl(2), PR_SET_PDEATHSIG; kept over execve.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arm the signal, make sure that the parent has not died meanwhile, become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)
    try:
        os.execvp(program[0], program)  # noqa: S606 - the supervisor's own command line
    except OSError as exc:
        sys.stderr.write(f"cannot run {program[0]}: {exc.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
