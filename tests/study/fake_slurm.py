"""A Slurm of our own: `sbatch` works at once, `squeue` knows what lives, and `accelerate` carries out fake runs."""

import os
import stat
import sys
from pathlib import Path

from .fake_runs import fake_run_command

__all__ = ["ROOT", "install"]

ROOT = Path(__file__).parents[2]
# As Slurm's: keeps the script, runs every task of the array at once, and prints a job number.
SBATCH = """#!{python}
import os, re, subprocess, sys
given = sys.argv[-1]
script = open(given).read() if os.path.isfile(given) else sys.stdin.read()
here = os.environ["FAKE_SLURM"]
number = str(len(os.listdir(here)) + 1)
open(os.path.join(here, number), "w").write(" ".join(sys.argv[1:]) + "\\n" + script)
array = re.search(r"--array=(\\d+)-(\\d+)", " ".join(sys.argv) + script)
job = {{**os.environ, "SLURM_JOB_ID": number, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}}
for task in range(int(array[1]), int(array[2]) + 1) if array else [None]:
    ids = {{}} if task is None else {{"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(task)}}
    quiet = {{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}}
    started = subprocess.Popen(["bash", "-c", script], env={{**job, **ids}}, **quiet)
    os.makedirs(here + "-pids", exist_ok=True)
    open(os.path.join(here + "-pids", number if task is None else f"{{number}}_{{task}}"), "w").write(str(started.pid))
    # submitit names its files after the number it is about to read, so its jobs begin later.
    started.wait() if given.startswith("-") else None
print(number + ";cluster" if "--parsable" in sys.argv else "Submitted batch job " + number)
"""
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do case "$1" in --output|--error) shift 2;; *) shift;; esac; done
exec "$@"
"""
SQUEUE = """#!{python}
import os, sys
(job,) = (word.partition("=")[2] for word in sys.argv if word.startswith("--jobs="))
try:
    pid = open(os.path.join(os.environ["FAKE_SLURM"] + "-pids", job)).read()
    state = open(f"/proc/{{pid}}/stat").read().rpartition(")")[2].split()[0]
except OSError:
    state = "Z"
sys.exit("slurm_load_jobs error: Invalid job id specified" if state == "Z" else print(job))
"""
SACCT = "#!/bin/bash\necho 'JobID|State|NodeList'\n"


def install(tmp_path, monkeypatch):
    """Put it into the PATH; the folder that keeps the submitted scripts."""
    place = tmp_path / "bin"
    place.mkdir()
    (tmp_path / "slurm").mkdir()
    (place / "sbatch").write_text(SBATCH.format(python=sys.executable))
    (place / "squeue").write_text(SQUEUE.format(python=sys.executable))
    (place / "srun").write_text(SRUN)
    (place / "sacct").write_text(SACCT)
    command = " ".join(fake_run_command())
    (place / "accelerate").write_text(
        f'#!/bin/bash\ntest "$*" = "launch -m hf_bootstrap.cli run $5" && {command} "$5"\n'
    )
    for file in place.iterdir():
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "slurm"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FAKE_STEP", "0")
    return tmp_path / "slurm"
