"""A process that holds the real client: runs snippets from its input, one JSON line each, and answers likewise.

Its waits are counted, not waited; what the snippets and the client print goes where the process's output goes.
"""

import json
import os
import sys
import time
import traceback


def main():
    answers = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    really_sleep, waited = time.sleep, []

    def sleep(seconds):
        waited.append(seconds)
        really_sleep(min(seconds, 0.002))

    time.sleep = sleep
    names = {}
    for line in sys.stdin:
        waited.clear()
        said = names["said"] = []
        names["say"] = said.append
        answer = {}
        try:
            exec(compile(json.loads(line), "<snippet>", "exec"), names)
            answer["result"] = names.pop("result", None)
        except BaseException as error:  # noqa: BLE001
            answer["error"] = {"kind": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}
        answers.write(json.dumps({**answer, "waited": sum(waited), "said": said}) + "\n")


if __name__ == "__main__":
    main()
