"""A SLURM of one node that starts every job at once."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SLURM = {
    # The script is copied, as SLURM does: submitit moves it away at once.
    "sbatch": """#!/bin/sh
id=$(date +%s%N)
job="$SLURM_HOME/$id.sh"
cp "$1" "$job"
(
    SLURM_JOB_ID=$id SLURM_JOBID=$id SLURM_NTASKS=1 SLURM_NODEID=0 \
    SLURM_JOB_NUM_NODES=1 SLURM_PROCID=0 SLURM_LOCALID=0 \
    SLURM_JOB_NODELIST=localhost setsid sh "$job" &&
    echo COMPLETED > "$SLURM_HOME/$id.state" ||
    echo FAILED > "$SLURM_HOME/$id.state"
) > "$SLURM_HOME/$id.out" 2>&1 &
echo "Submitted batch job $id"
""",
    "srun": """#!/bin/sh
while [ "${1#-}" != "$1" ]; do
    case "$1" in --output|--error) shift;; esac
    shift
done
exec "$@"
""",
    "sacct": """#!/bin/sh
echo 'JobID|State|NodeList'
for job in "$SLURM_HOME"/*.sh; do
    id=$(basename "$job" .sh)
    state=$(cat "$SLURM_HOME/$id.state" 2> /dev/null || echo RUNNING)
    echo "$id|$state|localhost"
done
""",
    "scancel": '#!/bin/sh\necho "$@" >> "$SLURM_HOME/cancelled"\n',
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Put a tiny SLURM on the path; give its folder."""
    home = tmp_path / "slurm"
    home.mkdir()
    for name, script in SLURM.items():
        (home / name).write_text(script)
        (home / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return home
